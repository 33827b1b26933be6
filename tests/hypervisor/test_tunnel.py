"""A tunnel between two transports that only write down what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from choir.frames import BINARY, CLOSE, PING, PONG, Frames
from choir.hypervisor import tunnel as module
from choir.hypervisor.tunnel import AWAY, ENDED, FAILED, POLICY, Tunnel, code


def frame(opcode: int, data: bytes, mask: bool = False) -> bytes:
    return Frame(Opcode(opcode), data).serialize(mask=mask)


KEY = frame(BINARY, b"k", mask=True)
ECHO = frame(BINARY, b"k")


class Transport:
    """What an ``asyncio.Transport`` is asked for; ``doings`` in order, control frames as (opcode, content)."""

    def __init__(self, to_server: bool) -> None:
        self.doings: list[Any] = []
        self.protocol: Any = None
        self.wrote = asyncio.Event()
        self._reader = Frames(to_server, 1 << 20)
        self._closing = False

    def write(self, data: bytes) -> None:
        for each in self._reader.feed(data):
            self.doings.append(each if isinstance(each, bytes) else (each.opcode, each.content))
        self.wrote.set()

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True
        self.doings.append("close")

    def abort(self) -> None:
        self._closing = True
        self.doings.append("abort")

    def pause_reading(self) -> None:
        self.doings.append("pause")

    def resume_reading(self) -> None:
        self.doings.append("resume")

    def told(self) -> list[Any]:
        doings, self.doings = self.doings, []
        return doings


class Pair:
    def __init__(self) -> None:
        self.touched = 0
        self.tunnel = Tunnel(self._touch)
        self.browser, self.desktop = Transport(to_server=False), Transport(to_server=True)

    def _touch(self) -> None:
        self.touched += 1

    def begin(self, said: bytes = b"") -> Pair:
        self.tunnel.begin(self.browser, self.desktop, said)  # type: ignore[arg-type]
        return self

    def by_browser(self, data: bytes) -> None:
        self.tunnel.browser.data_received(data)

    def by_desktop(self, data: bytes) -> None:
        self.tunnel.desktop.data_received(data)


def run(test: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        pair = Pair()
        await test(pair)
        pair.tunnel.browser.connection_lost(None)
        pair.tunnel.desktop.connection_lost(None)
        assert pair.tunnel._timer is None or pair.tunnel._timer.cancelled()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_what_one_says_is_written_to_the_other_at_once() -> None:
    async def test(pair: Pair) -> None:
        pair.begin(ECHO)
        assert pair.browser.told() == [ECHO]
        pair.by_browser(KEY)
        assert pair.desktop.told() == [KEY]
        assert pair.touched == 1
        pair.by_desktop(ECHO * 2)
        assert pair.browser.told() == [ECHO * 2]
        assert pair.touched == 1

    run(test)


def test_pings_are_answered_here_and_pongs_end_here() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.by_browser(frame(PING, b"b", mask=True) + frame(PONG, b"", mask=True))
        pair.by_desktop(frame(PING, b"d") + frame(PONG, b"d"))
        assert pair.browser.told() == [(PONG, b"b")]
        assert pair.desktop.told() == [(PONG, b"d")]
        assert pair.touched == 0

    run(test)


def test_a_pong_waits_for_the_end_of_a_frame_and_for_room() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.by_desktop(ECHO[:2])
        for content in (b"1", b"2"):
            pair.by_browser(frame(PING, content, mask=True))
        assert pair.browser.told() == [ECHO[:2]]
        pair.by_desktop(ECHO[2:])
        assert pair.browser.told() == [ECHO[2:], (PONG, b"2")]
        pair.tunnel.browser.pause_writing()
        pair.by_browser(frame(PING, b"3", mask=True))
        assert pair.browser.told() == []
        pair.tunnel.browser.resume_writing()
        assert pair.browser.told() == [(PONG, b"3")]

    run(test)


def test_each_waits_for_the_other() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.tunnel.browser.pause_writing()
        assert pair.desktop.told() == ["pause"]
        pair.tunnel.browser.resume_writing()
        assert pair.desktop.told() == ["resume"]
        pair.tunnel.desktop.pause_writing()
        pair.tunnel.desktop.resume_writing()
        assert pair.browser.told() == ["pause", "resume"]

    run(test)


def test_a_farewell_goes_to_both_and_the_answers_end_it() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.tunnel.end(code(POLICY), code(AWAY))
        assert pair.tunnel.over.is_set()
        assert pair.browser.told() == [(CLOSE, code(POLICY)), "resume"]
        assert pair.desktop.told() == [(CLOSE, code(AWAY)), "resume"]
        pair.by_browser(KEY + frame(CLOSE, code(POLICY), mask=True))
        pair.by_desktop(ECHO + frame(CLOSE, code(AWAY)))
        assert pair.browser.told() == pair.desktop.told() == ["close"]
        assert pair.touched == 0

    run(test)


def test_within_a_frame_the_connection_just_ends() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.by_desktop(ECHO[:2])
        pair.tunnel.end(code(POLICY), code(AWAY))
        assert pair.browser.told() == [ECHO[:2], "close"]
        assert pair.desktop.told() == [(CLOSE, code(AWAY)), "resume"]

    run(test)


@pytest.mark.parametrize("content", [b"", code(1000), code(4404) + b"why"])
def test_a_farewell_of_one_reaches_the_other(content: bytes) -> None:
    async def by_browser(pair: Pair) -> None:
        pair.begin().by_browser(frame(CLOSE, content, mask=True))
        assert pair.browser.told() == [(CLOSE, content), "close"]
        assert pair.desktop.told() == [(CLOSE, content), "resume"]

    async def by_desktop(pair: Pair) -> None:
        pair.begin(frame(CLOSE, content))
        assert pair.desktop.told() == [(CLOSE, content), "close"]
        assert pair.browser.told() == [(CLOSE, content), "resume"]

    run(by_browser)
    run(by_desktop)


def test_nonsense_ends_it() -> None:
    async def by_browser(pair: Pair) -> None:
        pair.begin().by_browser(ECHO)  # not masked
        assert pair.browser.told() == [(CLOSE, code(1002)), "close"]
        assert pair.desktop.told() == [(CLOSE, code(AWAY)), "resume"]

    async def by_desktop(pair: Pair) -> None:
        pair.begin().by_desktop(KEY)
        assert pair.desktop.told() == [(CLOSE, code(1002)), "close"]
        assert pair.browser.told() == [(CLOSE, code(ENDED)), "resume"]

    async def after_the_rest_of_a_frame(pair: Pair) -> None:
        pair.begin(ECHO[:2])
        pair.by_desktop(ECHO[2:] + KEY)
        assert pair.browser.told() == [ECHO[:2], ECHO[2:], (CLOSE, code(ENDED)), "resume"]

    run(by_browser)
    run(by_desktop)
    run(after_the_rest_of_a_frame)


def test_a_desktop_that_went_during_the_handshake() -> None:
    async def test(pair: Pair) -> None:
        pair.desktop._closing = True
        pair.begin()
        assert pair.browser.told() == [(CLOSE, code(ENDED)), "resume"]

    run(test)


def test_who_does_not_answer_a_farewell_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAREWELL_SECONDS", 0.01)

    async def test(pair: Pair) -> None:
        pair.begin()
        pair.tunnel.end(code(POLICY), code(AWAY))
        pair.tunnel.desktop.connection_lost(None)
        while "abort" not in pair.browser.doings:
            await asyncio.sleep(0.001)
        assert "abort" not in pair.desktop.doings

    run(test)


def test_a_browser_that_answers_no_ping_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)

    async def test(pair: Pair) -> None:
        pair.begin()
        for _ in range(3):
            await pair.browser.wrote.wait()
            pair.browser.wrote.clear()
            pair.by_browser(frame(PONG, b"", mask=True))
        assert pair.browser.told() == [(PING, b"")] * 3
        await pair.tunnel.over.wait()
        assert pair.browser.told() == [(PING, b""), (CLOSE, code(FAILED)), "resume", "abort"]
        assert pair.desktop.told() == [(CLOSE, code(AWAY)), "resume"]

    run(test)


def test_the_servers_end_is_said() -> None:
    async def test(pair: Pair) -> None:
        pair.begin()
        pair.tunnel.browser.shutdown()
        assert pair.browser.told() == [(CLOSE, code(ENDED)), "resume"]

    run(test)
