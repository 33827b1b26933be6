"""What gateways that were killed left behind: their journals go into the ledger, their folders go away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from choir.gateway.journal import Journal
from choir.paths import LOCK, State
from choir.storage.ledger import Ledger


def replay_orphans(state: State, ledger: Ledger) -> int:
    """Take the records of every dead gateway of this state folder but our own; how many.

    Raises:
        sqlite3.Error, OSError: the ledger takes none now; the journals stay for the next time.
    """
    shared = state.root / "run"
    taken = 0
    for folder in [shared, *(path for path in sorted(shared.iterdir()) if path.is_dir())]:
        if folder == state.run:
            continue
        with _held(folder) as dead:
            if not dead:
                continue
            journal = Journal(folder / state.journal.name)
            records = list(journal.replay())
            ledger.append(records)
            journal.discard()
            taken += len(records)
            if folder != shared:
                shutil.rmtree(folder, ignore_errors=True)
    return taken


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Whether the folder's gateway is dead: its lock can be had. A folder without one has had no gateway yet."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)
