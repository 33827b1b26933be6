"""The memory's tables in SQLite, and the steps that brought them there."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator

from choir.sandbox.memory.model import MemoryStoreError
from choir.storage.wal import make_file, use_wal

BUSY_SECONDS = 30.0

# One entry per version; never changed once released. The version reached is in memory_meta, since the file is shared.
_MIGRATIONS = (
    """
    CREATE TABLE memory_items (
      doc INTEGER PRIMARY KEY,  -- page << 16 | slot; never given twice
      item_id TEXT NOT NULL UNIQUE,
      collection INTEGER NOT NULL,
      source_ref TEXT NOT NULL,
      thread INTEGER,
      previous INTEGER,  -- link to what came before it in the thread: a doc, or ~repeat
      created_at INTEGER NOT NULL,  -- Unix milliseconds
      chunk_hash BLOB NOT NULL,
      content TEXT NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX memory_items_by_hash ON memory_items (collection, chunk_hash);
    CREATE TABLE memory_repeats (
      repeat INTEGER PRIMARY KEY, doc INTEGER NOT NULL, source_ref TEXT NOT NULL, thread INTEGER, previous INTEGER,
      created_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE memory_threads (
      thread INTEGER PRIMARY KEY, collection INTEGER NOT NULL, name TEXT NOT NULL, last INTEGER,
      UNIQUE (collection, name)
    ) STRICT;
    -- Derived from the items, and made anew from them when in doubt.
    CREATE TABLE memory_pages (
      page INTEGER PRIMARY KEY, collection INTEGER NOT NULL, state TEXT NOT NULL, step INTEGER NOT NULL DEFAULT 0,
      columns BLOB, entries INTEGER NOT NULL DEFAULT 0, checksum INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE memory_segments (
      page INTEGER NOT NULL, start INTEGER NOT NULL, columns BLOB NOT NULL, postings BLOB NOT NULL,
      PRIMARY KEY (page, start)
    ) STRICT;
    CREATE TABLE memory_postings (  -- key: term << 16 | page
      key INTEGER PRIMARY KEY, entries INTEGER NOT NULL, postings BLOB NOT NULL
    ) STRICT;
    """,
    "ALTER TABLE memory_pages ADD COLUMN frequencies BLOB;",
    """
    CREATE TABLE memory_runs (  -- pages whose postings are in one row per term, by the first; no entry: one page
      page INTEGER PRIMARY KEY, pages INTEGER NOT NULL, steps INTEGER NOT NULL
    ) STRICT;
    """,
)
VERSION = len(_MIGRATIONS)
"""The newest format, which this version writes."""


def connect(path: str) -> sqlite3.Connection:
    """Open and migrate. Durable against a killed process; a power cut may take the last moments, never more.

    Raises:
        MemoryStoreError: ``store_unusable``, ``store_corrupt`` or ``store_too_new``.
    """
    with faults(path):
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        make_file(path)
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _prepare(db: sqlite3.Connection, path: str) -> None:
    use_wal(db, BUSY_SECONDS)
    db.execute("PRAGMA secure_delete = FAST")
    db.execute("PRAGMA cache_size = -65536")
    db.execute("PRAGMA wal_autocheckpoint = 0")  # see checkpoint
    db.execute("PRAGMA journal_size_limit = 67108864")  # a burst's log does not stay that long
    with transaction(db):
        db.execute("CREATE TABLE IF NOT EXISTS memory_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT")
        version = read_meta(db, "version")
        if version > len(_MIGRATIONS):
            raise MemoryStoreError(
                "store_too_new",
                f"The memory in {path} was written by a newer Choir.",
                "Run that version, or move the file away to start with an empty memory.",
            )
        for statements in _MIGRATIONS[version:]:
            for statement in _split(statements):
                db.execute(statement)
        write_meta(db, "version", len(_MIGRATIONS))


def _split(script: str) -> Iterator[str]:
    """``executescript`` would commit the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def read_meta(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT value FROM memory_meta WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def write_meta(db: sqlite3.Connection, name: str, value: int) -> None:
    db.execute(
        "INSERT INTO memory_meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
    )


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """BEGIN IMMEDIATE: a writer that waits, instead of one that fails when it turns out to be second."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


@contextlib.contextmanager
def faults(path: str) -> Iterator[None]:
    """SQLite's and the system's errors as ``MemoryStoreError``."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise MemoryStoreError(
                "store_corrupt", f"{path} is damaged: {error}.", "Restore it from a snapshot, or move it away."
            ) from error
        if code == sqlite3.SQLITE_FULL:
            raise MemoryStoreError(
                "no_space", f"No space left for {path}.", "Free some space; nothing was lost."
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise MemoryStoreError(
                "store_busy", f"{path} was locked for {BUSY_SECONDS:g} s by another process."
            ) from error
        raise MemoryStoreError("store_unusable", f"{path} cannot be used: {error}.") from error
    except OSError as error:
        raise MemoryStoreError("store_unusable", f"{path} cannot be opened: {error.strerror}.") from error
