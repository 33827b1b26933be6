from __future__ import annotations

from collections.abc import Callable

from choir.contract import UsageRecord
from choir.gateway.endings import Endings
from tests.records import usage_record


def record(number: int) -> UsageRecord:
    return usage_record(request_id=str(number))


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Recorder:
    def __init__(self, told: list[str]) -> None:
        self._told = told

    def record(self, records: list[UsageRecord]) -> None:
        self._told.append("journal " + " ".join(r.request_id for r in records))


class Caller:
    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told

    def write(self, data: bytes) -> None:
        self._told.append(f"{self._name} {data.decode()}")

    def call_done(self, keep: bool) -> None:
        self._told.append(f"{self._name} done {keep}")

    def close_sent(self) -> None:
        self._told.append(f"{self._name} closed")


def make() -> tuple[Endings, Loop, list[str]]:
    told: list[str] = []
    loop = Loop()
    return Endings(loop, Recorder(told)), loop, told  # type: ignore[arg-type]


def test_one_journal_write_for_a_turn_and_then_the_last_bytes() -> None:
    endings, loop, told = make()
    for number, keep in ((1, True), (2, False), (3, None)):
        endings.record(record(number))
        endings.end(Caller(f"c{number}", told), b"last", keep)
    assert told == []
    loop.turn()
    assert told == [
        *("journal 1 2 3", "c1 last", "c1 done True", "c2 last", "c2 done False", "c3 last", "c3 closed"),
    ]
    loop.turn()
    assert len(told) == 7
    endings.record(record(4))
    loop.turn()
    assert told[-1] == "journal 4"


def test_a_record_can_be_written_at_once_and_its_end_follows() -> None:
    endings, loop, told = make()
    endings.record(record(1))
    endings.flush()
    assert told == ["journal 1"]
    loop.turn()
    endings.end(Caller("c", told), b"", True)
    loop.turn()
    assert told == ["journal 1", "c ", "c done True"]


def test_a_next_call_that_ends_at_once_is_not_lost() -> None:
    endings, loop, told = make()

    class Again(Caller):
        def call_done(self, keep: bool) -> None:
            super().call_done(keep)
            endings.record(record(2))
            endings.end(Caller("second", told), b"x", True)

    endings.record(record(1))
    endings.end(Again("first", told), b"x", True)
    loop.turn()
    loop.turn()
    assert told == ["journal 1", "first x", "first done True", "journal 2", "second x", "second done True"]
