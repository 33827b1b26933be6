"""The usage ledger: SQLite in WAL mode, written by the gateway alone, readable by anyone who may read the file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from choir.contract import UsageRecord
from choir.storage.wal import make_file, use_wal

_FIELDS = tuple(field.name for field in msgspec.structs.fields(UsageRecord))
_TYPES = {
    **dict.fromkeys(
        ("status", "bytes_in", "bytes_out", "input_tokens", "output_tokens", "cached_tokens", "count"), "INTEGER"
    ),
    **dict.fromkeys(("latency_ms", "ttft_ms", "cost_usd"), "REAL"),
}
_NULLABLE = ("model", "ttft_ms", "input_tokens", "output_tokens", "cached_tokens", "cost_usd")
_DEFAULTS = {"count": 1}
"""Of the columns that came later. What an older Choir wrote, or writes after a rollback, has them by default."""


def _declaration(name: str) -> str:
    null = "" if name in _NULLABLE else " NOT NULL"
    default = f" DEFAULT {_DEFAULTS[name]}" if name in _DEFAULTS else ""
    return f"{name} {_TYPES.get(name, 'TEXT')}{null}{default}"


_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS usage (seq INTEGER PRIMARY KEY, {', '.join(map(_declaration, _FIELDS))})",
    "CREATE UNIQUE INDEX IF NOT EXISTS usage_request_id ON usage (request_id)",
    "CREATE INDEX IF NOT EXISTS usage_ts ON usage (ts)",
)
_COLUMNS = ", ".join(_FIELDS)
_ROW = f"({', '.join('?' * len(_FIELDS))})"
_INSERT = f"INSERT OR IGNORE INTO usage ({_COLUMNS}) VALUES "  # noqa: S608 - our own names
_TABLE = "{table}"
"""Stands for the table in a query."""
_ROWS = 100
"""Rows of one statement. Each statement is one step without the interpreter's lock."""
_BUSY_SECONDS = 2.0
_LOG_PAGES = 4000
"""16 MB of log until it is copied into the file: a page that many records change is then copied once."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over the calls of one user to one model. A sum is None when no call told its part of it."""

    user_id: str
    provider: str
    model: str | None
    calls: int
    """Refusals that share a record count one by one."""
    failed: int
    """Calls whose outcome was not ``ok``."""
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost_usd: float | None
    bytes_in: int
    bytes_out: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one user asked of one model on one day (UTC). A sum is None when no call told its part of it."""

    day: str
    user_id: str
    provider: str
    model: str | None
    calls: int
    failed: int
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    cost_usd: float | None
    unpriced: int
    """Calls that went well and whose price is not known."""


class Ledger:
    """The file at ``path``. ``append`` makes it; reading never does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: sqlite3.Connection | None = None

    def append(self, records: Iterable[UsageRecord]) -> None:
        """Add records in one transaction. One whose ``request_id`` is there already is left out. One thread only.

        Raises:
            sqlite3.Error: locked, full or broken; nothing of ``records`` was added.
        """
        writer = self._writer
        if writer is None:
            writer = self._writer = self._open()
        try:
            with writer:
                rows = [msgspec.structs.astuple(record) for record in records]
                for start in range(0, len(rows), _ROWS):
                    part = rows[start : start + _ROWS]
                    writer.execute(_INSERT + ", ".join([_ROW] * len(part)), [value for row in part for value in row])
        except sqlite3.Error:
            self.close()
            raise

    def forget(self, before: str, limit: int = 5000) -> int:
        """Delete at most ``limit`` records older than ``before`` (YYYY-MM-DD); how many. The appending thread only.

        Raises:
            sqlite3.Error: nothing was deleted.
        """
        writer = self._writer
        if writer is None:
            writer = self._writer = self._open()
        with writer:
            sql = "DELETE FROM usage WHERE seq IN (SELECT seq FROM usage WHERE ts < ? ORDER BY ts LIMIT ?)"
            return writer.execute(sql, [before, limit]).rowcount

    def _open(self) -> sqlite3.Connection:
        make_file(self.path)
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            use_wal(connection, _BUSY_SECONDS)
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            with connection:
                connection.execute("BEGIN IMMEDIATE")  # gateways that start at the same moment take turns
                for statement in _SCHEMA:
                    connection.execute(statement)
                there = _columns(connection)
                for name in _DEFAULTS:
                    if name not in there:
                        connection.execute(f"ALTER TABLE usage ADD COLUMN {_declaration(name)}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Close the writing side."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(sqlite3.Error):
                writer.close()

    def query(
        self, since: str | None = None, sandbox_id: str | None = None, user_id: str | None = None, limit: int = 100
    ) -> list[UsageRecord]:
        """The newest records first; [] while there is no ledger.

        Args:
            since: only calls that started then or later, RFC 3339 in UTC as in the records.
        """
        where, values = _where(since=since, sandbox_id=sandbox_id, user_id=user_id)
        rows = self._read(
            f"SELECT {_COLUMNS} FROM {_TABLE}{where} ORDER BY ts DESC, seq DESC LIMIT ?",  # noqa: S608
            [*values, limit],
        )
        return [msgspec.convert(dict(zip(_FIELDS, row, strict=True)), UsageRecord) for row in rows]

    def totals(
        self, since: str | None = None, sandbox_id: str | None = None, user_id: str | None = None
    ) -> list[Totals]:
        """Sums by user, provider and model, most calls first; [] while there is no ledger."""
        where, values = _where(since=since, sandbox_id=sandbox_id, user_id=user_id)
        sums = ", ".join(
            f"SUM({name})"
            for name in ("input_tokens", "output_tokens", "cached_tokens", "cost_usd", "bytes_in", "bytes_out")
        )
        rows = self._read(
            f"SELECT user_id, provider, model, SUM(count), SUM(count * (outcome <> 'ok')), {sums} FROM {_TABLE}{where}"  # noqa: S608
            " GROUP BY user_id, provider, model ORDER BY SUM(count) DESC, user_id, provider, model",
            values,
        )
        names = [field.name for field in msgspec.structs.fields(Totals)]
        return [msgspec.convert(dict(zip(names, row, strict=True)), Totals) for row in rows]

    def shares(self, since: str, user_id: str | None = None) -> list[Share]:
        """Sums by day, user, provider and model, newest day first.

        Args:
            since: YYYY-MM-DD.
        """
        where, values = _where(since=since, user_id=user_id)
        rows = self._read(
            "SELECT substr(ts, 1, 10) AS day, user_id, provider, model, SUM(count), SUM(count * (outcome <> 'ok')),"  # noqa: S608
            f" SUM(input_tokens), SUM(output_tokens), SUM(cached_tokens), SUM(cost_usd),"
            f" SUM(count * (outcome = 'ok' AND cost_usd IS NULL)) FROM {_TABLE}{where}"
            " GROUP BY day, user_id, provider, model ORDER BY day DESC, SUM(count) DESC, user_id, provider, model",
            values,
        )
        names = [field.name for field in msgspec.structs.fields(Share)]
        return [msgspec.convert(dict(zip(names, row, strict=True)), Share) for row in rows]

    def after(self, seq: int, limit: int) -> list[tuple[int, UsageRecord]]:
        """Records in the order they came in, each with its number, from the one after ``seq`` on."""
        rows = self._read(f"SELECT seq, {_COLUMNS} FROM {_TABLE} WHERE seq > ? ORDER BY seq LIMIT ?", [seq, limit])  # noqa: S608
        return [
            (msgspec.convert(number, int), msgspec.convert(dict(zip(_FIELDS, row, strict=True)), UsageRecord))
            for number, *row in rows
        ]

    def last(self) -> int:
        """The number of the newest record, 0 when there is none."""
        rows = self._read(f"SELECT COALESCE(MAX(seq), 0) FROM {_TABLE}", [])  # noqa: S608
        return msgspec.convert(rows[0][0], int) if rows else 0

    def spent(self, day: str) -> list[tuple[str, float, float]]:
        """What each user spent on ``day`` and in its month until then, in USD, as far as it is known.

        Args:
            day: YYYY-MM-DD, in UTC.
        """
        rows = self._read(
            f"SELECT user_id, SUM(cost_usd * (ts >= ?)), SUM(cost_usd) FROM {_TABLE}"  # noqa: S608
            " WHERE ts >= ? AND cost_usd IS NOT NULL GROUP BY user_id",
            [day, day[:7]],
        )
        return msgspec.convert(rows, list[tuple[str, float, float]])

    def _read(self, sql: str, values: list[object]) -> list[tuple[object, ...]]:
        try:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        except sqlite3.OperationalError:
            if self.path.exists():
                raise
            return []
        try:
            return connection.execute(sql.replace(_TABLE, _table(connection), 1), values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # just being made
                return []
            raise
        finally:
            connection.close()


def _columns(connection: sqlite3.Connection) -> set[str]:
    return {name for _, name, *_ in connection.execute("PRAGMA table_info(usage)")}


def _table(connection: sqlite3.Connection) -> str:
    """The table, with what it lacks while no newer Choir has written to it."""
    there = _columns(connection)
    lacking = [f"{default} AS {name}" for name, default in _DEFAULTS.items() if name not in there]
    return f"(SELECT *, {', '.join(lacking)} FROM usage)" if there and lacking else "usage"  # noqa: S608


def _where(**equal: str | None) -> tuple[str, list[object]]:
    given = {name: value for name, value in equal.items() if value is not None}
    conditions = ["ts >= ?" if name == "since" else f"{name} = ?" for name in given]
    return (" WHERE " + " AND ".join(conditions) if conditions else ""), list(given.values())
