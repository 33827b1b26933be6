"""Bringing what is in the write-ahead log into the database file, so that no writer waits for the disk.

SQLite would do it in whatever commit finds the log long, with two fsyncs. Here a thread with a connection of its own
does it (PASSIVE: it locks nobody out). The log starts over once all of it is in the file; when writers never leave the
thread the moment for that, it goes on until little is left, and asks them to bring that over at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time

EVERY = 128
"""Transactions between two rounds."""

LONG = 16_384
"""Frames (4 KiB) of the log after which a writer is asked."""

LITTLE = 512
"""Frames that are left to the writer: it waits until the disk has them."""

ROUNDS = 8
"""In which the thread tries to leave so few."""

PATIENCE = 5.0
"""Seconds that other processes' checkpoints are waited for."""


class Checkpointer:
    """For one connection, on which ``wal_autocheckpoint`` is 0; ``written`` and ``close`` in that one's thread."""

    def __init__(self, path: str, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self._transactions = 0
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._closing = False
        self._asked = False
        self._thread: threading.Thread | None = None

    def written(self) -> None:
        """After each transaction that wrote. Never raises: that one is committed."""
        self._transactions += 1
        if self._asked:
            self._copy()
            self._asked = False
        if self._transactions % EVERY:
            return
        if self._thread is None or not self._thread.is_alive():
            if self._thread is not None:  # it could not open the file; until one can, we do it
                self._copy()
            self._thread = self._started()
        self._wake.set()

    def _started(self) -> threading.Thread | None:
        thread = threading.Thread(target=self._run, name="memory checkpoints", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads here
            self._copy()
            return None
        return thread

    def _copy(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def empty(self) -> bool:
        """Leave nothing in the log: what was deleted is still readable there. False when other processes did not let
        it happen."""
        deadline = time.monotonic() + PATIENCE
        with self._lock:  # SQLite does not wait for another's checkpoint
            while self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
        return True

    def close(self) -> None:
        """Before the connection."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        # A round that fails is tried again; what is wrong with the file is told by whoever reads or writes it.
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(sqlite3.connect(self._path)) as db:
            db.execute("PRAGMA synchronous = NORMAL")
            while self._wake.wait():
                self._wake.clear()
                if self._closing:  # looked at after clearing, or its waking would be lost
                    break
                with contextlib.suppress(sqlite3.Error):
                    self._round(db)

    def _round(self, db: sqlite3.Connection) -> None:
        before, frames = 0, self._passive(db)
        for _ in range(ROUNDS):
            if frames <= LONG or self._asked or frames - before <= LITTLE:
                break
            with contextlib.suppress(OSError):  # SQLite only does it when nothing came meanwhile
                if (descriptor := _descriptor(self._path)) is not None:
                    os.fdatasync(descriptor)
            before, frames = frames, self._passive(db)
        self._asked = self._asked or frames > LONG

    def _passive(self, db: sqlite3.Connection) -> int:
        """The frames of the log."""
        with self._lock:
            _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return int(frames)


def _descriptor(path: str) -> int | None:
    """One of SQLite's own of this file. Not one of ours: closing that would give up SQLite's locks (fcntl(2))."""
    wanted = os.stat(path)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found = os.fstat(int(name))
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return int(name)
    return None
