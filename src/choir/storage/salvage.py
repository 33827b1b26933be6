"""Whether a database is whole, and what can be read out of one that is not."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from choir.errors import StartError


def damage(path: Path) -> str:
    """What SQLite's own check says is wrong; "" when nothing is, or when there is no file."""
    if not path.exists():
        return ""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)) as db:
            rows = [str(row[0]) for row in db.execute("PRAGMA integrity_check(5)")]
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if rows == ["ok"] else "; ".join(rows)


@dataclass(frozen=True)
class Salvaged:
    """``rows`` by table were saved; ``damaged`` is where the old file is now."""

    rows: dict[str, int]
    damaged: Path


def salvage(path: Path) -> Salvaged:
    """Put in place of a damaged database a new one with every row that can still be read. Nobody may have it open.

    Each table is read from its beginning until the damage, then from its end until the damage.

    Raises:
        StartError: ``salvage_failed``: not even the schema can be read; nothing was changed.
    """
    draft = path.with_name(f".{path.name}.salvage")
    draft.unlink(missing_ok=True)
    rows: dict[str, int] = {}
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as target,
        ):
            os.chmod(draft, 0o600)
            source.execute("PRAGMA writable_schema = ON")  # or SQLite reads nothing of a file that was cut off
            schema = source.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
            (version,) = source.execute("PRAGMA user_version").fetchone()
            tables = [(name, sql) for kind, name, sql in schema if kind == "table" and not name.startswith("sqlite_")]
            if not tables:
                raise sqlite3.DatabaseError("there is no table in it")
            target.execute("BEGIN")
            for name, sql in tables:
                target.execute(sql)
                rows[name] = _copy(source, target, name)
            for kind, _, sql in schema:
                if kind != "table":
                    with contextlib.suppress(sqlite3.DatabaseError):  # a unique index over rows read twice
                        target.execute(sql)
            target.execute(f"PRAGMA user_version = {int(version)}")
            target.execute("COMMIT")
    except sqlite3.DatabaseError as error:
        draft.unlink(missing_ok=True)
        raise StartError(
            "salvage_failed",
            f"Nothing can be read out of {path}: {error}.",
            f"Put a copy back: choir restore, or the copies {path.name}.v* beside it.",
        ) from error
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("-wal", "-shm"):  # read already; they belong to the old file
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    os.rename(path, aside)
    os.rename(draft, path)
    return Salvaged(rows, aside)


def _copy(source: sqlite3.Connection, target: sqlite3.Connection, table: str) -> int:
    saved = 0
    seen: set[int] = set()
    for order in ("ASC", "DESC"):
        for rowid, row in _readable(source, table, order):
            if rowid in seen:
                return saved  # the two ends have met
            seen.add(rowid)
            marks = ", ".join("?" * len(row))
            with contextlib.suppress(sqlite3.DatabaseError):  # a row that breaks the table's own rules is damage too
                target.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608 - a name of the schema
                saved += 1
    return saved


def _readable(source: sqlite3.Connection, table: str, order: str) -> Iterator[tuple[int, tuple[object, ...]]]:
    with contextlib.suppress(sqlite3.DatabaseError):
        for row in source.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid {order}"):  # noqa: S608
            yield row[0], row[1:]
