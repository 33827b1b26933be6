"""Usage records on their way: journal first, then, in batches on a thread, standard output and the ledger."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from choir.contract import UsageRecord
from choir.gateway.journal import ROTATE_AT, Journal
from choir.storage.ledger import Ledger

BATCH = 100
"""Writes to the journal, each with some records, that one transaction takes."""
BATCH_SECONDS = 0.05
RETRY_SECONDS = 0.5
FORGET_SECONDS = 3600.0
MAX_WAITING = 100_000
"""Records kept in memory while the ledger takes none; what the journal holds as well can be let go."""

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]
_encode = msgspec.json.Encoder().encode


class RequestIds:
    """ULIDs (https://github.com/ulid/spec), as ``choir.ids`` makes them, but monotonic and so cheaper."""

    __slots__ = ("_count", "_millisecond", "_prefix", "_random")

    def __init__(self) -> None:
        self._count = int.from_bytes(os.urandom(4)) & 0xFFFFF
        self._random = _seed()
        self._millisecond = -1
        self._prefix = ""

    def new(self, now: float) -> str:
        """
        Args:
            now: seconds since the epoch.
        """
        millisecond = int(now * 1000)
        self._count = count = self._count + 1 & 0xFFFFF
        if millisecond != self._millisecond or count == 0:
            if count == 0:
                self._random = _seed()
            self._millisecond = millisecond
            times = [_PAIRS[millisecond >> shift & 1023] for shift in (40, 30, 20, 10, 0)]
            self._prefix = "".join(times) + self._random
        return self._prefix + _PAIRS[count >> 10] + _PAIRS[count & 1023]


def _seed() -> str:
    seed = int.from_bytes(os.urandom(8))
    return "".join([_PAIRS[seed >> shift & 1023] for shift in (0, 10, 20, 30, 40, 50)])


class Timestamps:
    """RFC 3339 in UTC with milliseconds."""

    __slots__ = ("_millisecond", "_second", "_second_text", "_text")

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._second_text = self._text = ""

    def format(self, now: float) -> str:
        """
        Args:
            now: seconds since the epoch.
        """
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second = millisecond // 1000
            if second != self._second:
                self._second = second
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._second_text}.{millisecond % 1000:03d}Z"
        return self._text


class Recorder:
    """Takes every record. ``record`` is for the event loop's thread; the ledger is fed by a thread of its own."""

    def __init__(self, journal: Journal, ledger: Ledger, log: Callable[[str], None]) -> None:
        """
        Args:
            log: told once when the ledger stops taking records and once when it takes them again.
        """
        self._journal = journal
        self._ledger = ledger
        self._log = log
        self._waiting: deque[tuple[Sequence[UsageRecord], bytes]] = deque()
        """As they came, each with its lines."""
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._missed = False
        self.keep_days = 0
        """Older records are deleted from the ledger; 0: none."""
        self._forgot = 0.0
        self._replaying = False
        self._rotated_at = 0
        self._taken = 0
        self._done = 0
        self._journal_failing = False
        self.subscriber: Callable[[UsageRecord], None] | None = None
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)

    def start(self) -> None:
        """Replay what an earlier process left, then take records.

        The ledger may be out of reach: the journal is then replayed later.
        """
        try:
            self._ledger.append(())
            self._replay()
            self._journal.discard()
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            self._missed = True
        self._thread.start()

    @property
    def accepting(self) -> bool:
        """Whether a further record has a place: the journal, or memory while that cannot be written."""
        return not self._journal_failing or self.waiting < MAX_WAITING

    @property
    def caught_up(self) -> bool:
        """Whether the ledger has everything an earlier process left."""
        return not self._missed

    @property
    def waiting(self) -> int:
        """Records in memory that are not in the ledger yet."""
        return self._taken - self._done

    @property
    def ledger_failing(self) -> bool:
        return self._failing or self._missed

    @property
    def journal_failing(self) -> bool:
        return self._journal_failing

    def record(self, records: Sequence[UsageRecord]) -> None:
        """Make records durable, in one write, and hand them on. Call it before their answers end."""
        lines = b"\n".join([*map(_encode, records), b""])
        kept = self._journal.append(lines)
        if kept is self._journal_failing:
            self._journal_state(kept)
        if kept and self.waiting >= MAX_WAITING:
            self._missed = True  # read from the journal once the ledger is back
        else:
            self._waiting.append((records, lines))
            self._taken += len(records)
            self._wake.set()
        if self._journal.size > ROTATE_AT:
            self._rotate()
        if self.subscriber is not None:
            for record in records:
                self.subscriber(record)

    def _journal_state(self, writable: bool) -> None:
        self._journal_failing = not writable
        if writable:
            self._log("usage journal: writable again")
        else:
            self._log(
                f"usage journal {self._journal.path}: cannot be written; up to {MAX_WAITING} records wait in memory"
            )

    def _rotate(self) -> None:
        """Start a new file once the ledger has all of the old one."""
        if self._failing or self._missed or self._replaying or self._done < self._rotated_at:
            return
        self._journal.drop_old()
        if self._journal.rotate():
            self._rotated_at = self._taken

    def stop(self) -> None:
        """Settle everything that was taken; what the ledger does not take now stays in the journal."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10)
        if not self._failing and not self._missed and not self._waiting and not self._thread.is_alive():
            self._journal.discard()
        self._ledger.close()

    def _run(self) -> None:
        pause = BATCH_SECONDS
        while True:
            if not self._waiting and not self._missed:
                if self._stopping:
                    return
                self._wake.wait()
            self._wake.clear()
            if not self._stopping:
                time.sleep(pause)
            try:
                self._drain()
                pause = BATCH_SECONDS
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                if self._stopping:
                    return
                pause = RETRY_SECONDS

    def _drain(self) -> None:
        if self._missed:
            # Clear first: what is missed from here on is found by the next replay.
            self._replaying, self._missed = True, False
            try:
                self._replay()
            except (sqlite3.Error, OSError):
                self._missed = True
                raise
            finally:
                self._replaying = False
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            records = [record for records, _ in batch for record in records]
            self._ledger.append(records)
            for _ in batch:
                self._waiting.popleft()
            self._done += len(records)
            _print(b"".join([lines for _, lines in batch]))
        self._forget(time.time())
        if self._failing:
            self._failing = False
            self._log("ledger: takes records again")

    def _forget(self, now: float) -> None:
        """Once an hour, when there is something to do anyway."""
        if self.keep_days and now - self._forgot > FORGET_SECONDS:
            self._forgot = now
            before = time.strftime("%Y-%m-%d", time.gmtime(now - self.keep_days * 86400))
            while self._ledger.forget(before):
                pass

    def _replay(self) -> None:
        batch: list[UsageRecord] = []
        for record in self._journal.replay():
            batch.append(record)
            if len(batch) >= BATCH:
                self._ledger.append(batch)
                batch = []
        if batch:
            self._ledger.append(batch)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            self._log(f"ledger {self._ledger.path}: {type(error).__name__}: {error}; records wait in the journal")


def _print(lines: bytes) -> None:
    """To standard output. Nobody may be reading it; the ledger is what counts."""
    try:
        view = memoryview(lines)
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    except (OSError, ValueError):
        return
