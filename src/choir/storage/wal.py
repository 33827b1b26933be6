"""A log instead of a rollback journal (sqlite.org/wal.html), also when two open a new file at the same moment."""

from __future__ import annotations

import sqlite3
import time

_PAUSE = 0.002  # seconds


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
