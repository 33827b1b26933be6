"""The ends of calls: what ends an answer is sent once the call's record is in the kernel.

The records of one turn of the event loop reach the journal in one write; then the last bytes of their answers go. So
whoever has a whole answer has its record in the journal, whatever becomes of this process.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from choir.contract import UsageRecord
from choir.gateway.usage import Recorder


class Caller(Protocol):
    def write(self, data: bytes) -> None: ...
    def call_done(self, keep: bool) -> None: ...
    def close_sent(self) -> None: ...


class Endings:
    """Of one event loop."""

    __slots__ = ("_due", "_ends", "_loop", "_recorder", "_records")

    def __init__(self, loop: asyncio.AbstractEventLoop, recorder: Recorder) -> None:
        self._loop = loop
        self._recorder = recorder
        self._records: list[UsageRecord] = []
        self._ends: list[tuple[Caller, bytes, bool | None]] = []
        self._due = False

    def record(self, record: UsageRecord) -> None:
        """Take a record, which is in the journal at the end of this turn at the latest."""
        self._records.append(record)
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def end(self, caller: Caller, data: bytes, keep: bool | None) -> None:
        """Send the last bytes of an answer after its record, which was taken before, and say that it is done.

        Args:
            keep: whether the connection may go on; None to close it behind ``data``.
        """
        self._ends.append((caller, data, keep))
        if not self._due:  # the record was written before, on its own
            self._due = True
            self._loop.call_soon(self._turn)

    def flush(self) -> None:
        """Everything that was taken, now."""
        if self._records:
            records, self._records = self._records, []
            self._recorder.record(records)
        if self._ends:
            ends, self._ends = self._ends, []
            for caller, data, keep in ends:
                caller.write(data)
                if keep is None:
                    caller.close_sent()
                else:
                    caller.call_done(keep)

    def _turn(self) -> None:
        self._due = False
        self.flush()
