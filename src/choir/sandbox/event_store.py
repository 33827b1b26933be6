"""The event store: what happened in a sandbox, in order, for ever or as long as asked; the desktop and the agent loop
are rebuilt from it.

``EventLog`` is the SQLite file (one thread at a time), ``EventStore`` what the rest of the sandbox uses: it keeps the
log in a thread of its own and tells subscribers. An appended event survives a killed process (a power cut may take the
last moments). Sequence numbers begin at 1, have no gaps and are never given twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choir.errors import ChoirError
from choir.sandbox.actor import Message, ThreadActor
from choir.storage.wal import make_file, use_wal

MAX_EVENT_BYTES = 1_000_000
PAGE_EVENTS = 500
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL
) STRICT
"""


class EventStoreError(ChoirError):
    """An event or a request that cannot be taken, or a store that cannot be used."""


@dataclass(frozen=True, slots=True)
class Event:
    """``at`` is Unix seconds, exact to the millisecond; ``data`` a JSON object."""

    sequence: int
    at: float
    kind: str
    data: dict[str, Any]

    def line(self) -> str:
        """As one line of JSONL."""
        whole = {"sequence": self.sequence, "at": self.at, "kind": self.kind, "data": self.data}
        return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


class EventLog:
    """
    Args:
        path: the SQLite file; made when missing, may hold other tables.

    Raises:
        EventStoreError: ``events_unusable`` or ``no_space``, here and from every method.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._faults():
            os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
            make_file(path)
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            with self._faults():
                use_wal(self._db, _BUSY_SECONDS)
                self._db.execute("PRAGMA secure_delete = FAST")
                self._db.execute(_SCHEMA)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def append(self, events: Sequence[tuple[str, Mapping[str, Any]]], at: float | None = None) -> list[Event]:
        """Append (kind, data) in this order; all or none.

        Raises:
            EventStoreError: ``bad_event``: no JSON, or longer than ``MAX_EVENT_BYTES``.
        """
        now = time.time_ns() // 1_000_000 if at is None else round(at * 1000)
        rows = [(now, kind, _encoded(data)) for kind, data in events]
        appended = []
        with self._faults():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for row in rows:
                    cursor = self._db.execute("INSERT INTO events (at, kind, data) VALUES (?, ?, ?)", row)
                    appended.append(_event((cursor.lastrowid, *row)))
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        return appended

    def read(self, after: int = 0, limit: int = PAGE_EVENTS) -> list[Event]:
        """The events behind sequence number ``after``, oldest first; 0 is the beginning of what is kept.

        Raises:
            EventStoreError: ``events_gone``: some of them were trimmed away.
        """
        with self._faults():
            if after > 0 and after + 1 < (first := self.first()):
                raise EventStoreError(
                    "events_gone", f"The events up to {first - 1} are no longer kept.", "Begin anew from 0."
                )
            query = "SELECT sequence, at, kind, data FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
            return [_event(row) for row in self._db.execute(query, (after, limit))]

    def first(self) -> int:
        """The first sequence number that is kept; the next one when none is."""
        row = self._db.execute("SELECT min(sequence) FROM events").fetchone()
        return int(row[0]) if row[0] is not None else self.last() + 1

    def last(self) -> int:
        """The last sequence number given; 0 when none was."""
        with self._faults():
            row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
            return int(row[0]) if row else 0

    def latest(self, kind: str) -> Event | None:
        """The last event of a kind."""
        with self._faults():
            query = "SELECT sequence, at, kind, data FROM events WHERE kind = ? ORDER BY sequence DESC LIMIT 1"
            row = self._db.execute(query, (kind,)).fetchone()
            return _event(row) if row else None

    def trim(self, *, keep: int | None = None, before: float | None = None) -> int:
        """Retention: drop all but the last ``keep`` events, or those from before a time (Unix seconds) that no later
        one precedes. Returns how many."""
        with self._faults():
            if keep is not None:
                border = self.last() - keep
            else:
                row = self._db.execute(
                    "SELECT min(sequence) FROM events WHERE at >= ?", (round((before or 0) * 1000),)
                ).fetchone()
                border = (self.last() + 1 if row[0] is None else row[0]) - 1
            return self._db.execute("DELETE FROM events WHERE sequence <= ?", (border,)).rowcount

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_FULL
            raise EventStoreError(
                "no_space" if full else "events_unusable", f"The events in {self._path} cannot be used: {error}."
            ) from error
        except OSError as error:
            raise EventStoreError(
                "events_unusable", f"The events in {self._path} cannot be opened: {error.strerror}."
            ) from error


def _encoded(data: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(dict(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise EventStoreError("bad_event", f"An event's data is no JSON object ({type(error).__name__}).") from error
    if size > MAX_EVENT_BYTES:
        raise EventStoreError("bad_event", f"An event has {size:,} bytes; {MAX_EVENT_BYTES:,} is the most.")
    return text


def _event(row: Sequence[Any]) -> Event:
    return Event(row[0], row[1] / 1000, row[2], json.loads(row[3]))


# What the actor is asked


@dataclass(frozen=True, slots=True)
class Append(Message[list[Event]]):
    events: tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class Read(Message[list[Event]]):
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class Trim(Message[int]):
    keep: int | None
    before: float | None


@dataclass(frozen=True, slots=True)
class Last(Message[int]):
    pass


@dataclass(frozen=True, slots=True)
class Latest(Message[Event | None]):
    kind: str


class _Owner:
    def __init__(self, path: str) -> None:
        self._log = EventLog(path)

    def handle(self, message: Message[Any]) -> Any:
        match message:
            case Append(events):
                return self._log.append(events)
            case Read(after, limit):
                return self._log.read(after, limit)
            case Trim(keep, before):
                return self._log.trim(keep=keep, before=before)
            case Last():
                return self._log.last()
            case Latest(kind):
                return self._log.latest(kind)
        raise EventStoreError("unknown_message", f"The event store takes no {type(message).__name__}.")

    def idle(self) -> bool:
        return False

    def close(self) -> None:
        self._log.close()


class EventStore:
    """For the event loop it is used on; ``start`` it there."""

    def __init__(self, path: str) -> None:
        self._actor = ThreadActor("event store", lambda: _Owner(path))
        self._news = asyncio.Event()
        self._stopped = False

    def start(self) -> None:
        self._actor.start()

    async def stop(self) -> None:
        """Ends the subscriptions too."""
        self._stopped = True
        self._wake()
        await self._actor.stop()

    async def append(self, kind: str, data: Mapping[str, Any]) -> Event:
        """As ``EventLog.append``, one event."""
        return (await self.append_all([(kind, data)]))[0]

    async def append_all(self, events: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Event]:
        """As ``EventLog.append``."""
        appended = await self._actor.ask(Append(tuple(events)))
        self._wake()
        return appended

    async def read(self, after: int = 0, limit: int = PAGE_EVENTS) -> list[Event]:
        """As ``EventLog.read``."""
        return await self._actor.ask(Read(after, limit))

    async def last(self) -> int:
        return await self._actor.ask(Last())

    async def latest(self, kind: str) -> Event | None:
        """As ``EventLog.latest``."""
        return await self._actor.ask(Latest(kind))

    async def trim(self, *, keep: int | None = None, before: float | None = None) -> int:
        """As ``EventLog.trim``."""
        return await self._actor.ask(Trim(keep, before))

    async def follow(self, after: int = 0) -> AsyncIterator[Event]:
        """Every event behind ``after``, those of the past first, then each as it comes, until the store stops. A slow
        reader falls behind and costs nothing: it reads from the file.

        Raises:
            EventStoreError: ``events_gone``: trimmed away before they were read.
        """
        while not self._stopped:
            news = self._news  # taken before reading: what comes meanwhile wakes us
            page = await self.read(after)
            for event in page:
                yield event
                after = event.sequence
            if not page:
                await news.wait()

    async def export(self) -> AsyncIterator[str]:
        """All that is kept up to now as lines of JSONL, without their ends."""
        last, after = await self.last(), 0
        while page := await self.read(after):
            for event in page:
                if event.sequence > last:
                    return
                yield event.line()
            after = page[-1].sequence

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
