"""A file that several processes write: private, with a log instead of a rollback journal (sqlite.org/wal.html), also
when two open a new one at the same moment.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time

_PAUSE = 0.002  # seconds


def make_file(path: str | os.PathLike[str]) -> None:
    """An empty file that only its owner reads, when there is none.

    Without opening it: who closes a descriptor of a database gives up the locks of all connections that this process
    has to it (fcntl(2)), and the next process that is done with it deletes the log that they write.

    Raises:
        OSError: as from mknod(2).
    """
    with contextlib.suppress(FileExistsError):
        os.mknod(path, stat.S_IFREG | 0o600)


def use_wal(connection: sqlite3.Connection, seconds: float) -> None:
    """Set ``journal_mode = WAL`` and ``synchronous = NORMAL``.

    SQLite does not wait for the lock here as it does elsewhere: where waiting could be for each other, it answers
    SQLITE_BUSY at once (sqlite3_busy_handler).

    Args:
        seconds: how long to wait for others.

    Raises:
        sqlite3.Error: as from ``execute``.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
    connection.execute("PRAGMA synchronous = NORMAL")
