from __future__ import annotations

import asyncio

from choir.hypervisor import progress
from choir.hypervisor.lifecycle import Event, Failure, Reached, Status, advance
from choir.hypervisor.progress import Watch, events_of, stream, unseen

STARTING = Status(state="starting", sandbox_id="b1", phases=(Reached("keeper", 0.1), Reached("namespace", 0.2)))
READY = Status(state="ready", sandbox_id="b1", phases=(*STARTING.phases, Reached("ready", 0.3)))
FAILED = Status(state="failed", sandbox_id="b1", phases=STARTING.phases, failure=Failure(reason="r", message="m"))


def kinds(status: Status, last_id: str = "") -> list[str]:
    return [each.kind for each in unseen(status, last_id)]


def test_ids_count_within_one_life() -> None:
    assert [each.id for each in events_of(READY)] == ["b1-1", "b1-2", "b1-3", "b1-4"]


def test_a_reader_gets_what_it_has_not_seen() -> None:
    assert kinds(READY) == ["phase", "phase", "phase", "ready"]
    assert kinds(READY, "b1-2") == ["phase", "ready"]


def test_an_id_of_another_life_or_nonsense_replays_everything() -> None:
    for last_id in ("b0-2", "", "b1-", "b1-x", "-3", "none-1"):
        assert kinds(READY, last_id) == ["phase", "phase", "phase", "ready"]


def test_the_terminal_event_is_said_again() -> None:
    assert kinds(FAILED, "b1-3") == ["failed"]
    assert kinds(FAILED, "b1-99") == ["failed"]


def test_stopping_gives_way_to_stopped() -> None:
    stopping = Status(state="stopping", sandbox_id="b1")
    assert kinds(stopping) == ["stopping"]
    assert kinds(Status(state="stopped", sandbox_id="b1"), "b1-1") == ["stopped"]


def test_the_stream_follows_to_the_terminal_event_and_ends() -> None:
    async def run() -> list[bytes]:
        statuses, watch = [STARTING], Watch()
        got = []
        async for data in stream(lambda: statuses[-1], watch):
            got.append(data)
            if data.startswith(b"id: b1-2"):  # changes while this event is on its way
                statuses.append(advance(STARTING, Event(name="ready", now=1.0, reached=Reached("ready", 0.4))))
                watch.changed()
        return got

    got = asyncio.run(run())
    assert got[0] == progress.OPENING
    assert [data.split(b"\n")[1] for data in got[1:]] == [b"event: phase"] * 3 + [b"event: ready"]


def test_a_quiet_stream_is_kept_alive(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(progress, "KEEPALIVE_SECONDS", 0.01)

    async def run() -> bytes:
        async for data in stream(lambda: Status(state="starting", sandbox_id="b1"), Watch()):
            if data != progress.OPENING:
                return data
        raise AssertionError

    assert asyncio.run(run()) == progress.KEEPALIVE
