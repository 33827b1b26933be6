"""What a quiet stream says, over real sockets; the time is the test's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from choir import tokens
from choir.contract import UsageRecord
from choir.gateway.deadlines import KEEPALIVE_SECONDS
from choir.gateway.gateway import Gateway
from choir.gateway.main import Start, settings_loader

from .harness import chunk, provider

COMMENT = chunk(b": still waiting for the provider\n\n")
ANY_EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = ANY_EVENTS + b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"type":"a"}\n\n'


class Records:
    """Stands in for ``choir.gateway.usage.Recorder``."""

    accepting = True

    def record(self, records: list[UsageRecord]) -> None:
        pass


class Stream:
    """One call whose answer the test writes."""

    def __init__(self, gateway: Gateway, caller: asyncio.StreamReader, provider: asyncio.StreamWriter) -> None:
        self._gateway, self._caller, self._provider = gateway, caller, provider

    async def begin(self, head: bytes = EVENTS) -> None:
        self._provider.write(head)
        seen = await asyncio.wait_for(self._caller.readuntil(b"\r\n\r\n"), 10)
        assert seen.startswith(b"HTTP/1.1 200 ")

    async def comes(self, sent: bytes, seen: bytes) -> None:
        """Send something from the provider, and wait until the caller has it."""
        self._provider.write(sent)
        assert await asyncio.wait_for(self._caller.readexactly(len(seen)), 10) == seen

    def passes(self, seconds: float) -> None:
        """That much time has gone by since the last byte."""
        (call,) = self._gateway.calls
        call.tick(time.perf_counter() + seconds)

    async def silent(self) -> None:
        """Nothing came meanwhile that had not been read: the next thing that comes is what is sent now."""
        await self.comes(chunk(b"data: next\n\n"), chunk(b"data: next\n\n"))


def run(folder: Path, scenario: Callable[[Stream], Awaitable[None]], body: bytes = b"{}") -> None:
    async def main() -> None:
        asked: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
        left = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.put_nowait(writer)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            left.set()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        config = folder / "choir.toml"
        config.write_text(provider("mock", server.sockets[0].getsockname()[1]))
        loaded, _ = settings_loader(Start(str(folder), "unused", config=str(config), secrets={"MOCK_KEY": "k"}))(
            lambda service: None
        )
        key = tokens.new_key()
        gateway = Gateway(asyncio.get_running_loop(), loaded, Records(), key)  # type: ignore[arg-type]
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        gateway.registry.attach("s1", "u1", "run", float("inf"), listener.detach())
        caller, to_gateway = await asyncio.open_connection("127.0.0.1", port)
        to_gateway.write(
            b"POST /provider/v1/mock/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (tokens.sign(key, "s1").encode(), len(body), body)
        )
        writer = await asyncio.wait_for(asked.get(), 10)
        try:
            await scenario(Stream(gateway, caller, writer))
        finally:
            to_gateway.close()
            await to_gateway.wait_closed()
            while gateway.registry.sandboxes["s1"].connections:
                await asyncio.sleep(0.001)
            gateway.registry.detach("s1")
            await gateway.drain(1)
            await asyncio.wait_for(left.wait(), 10)
            server.close()

    asyncio.run(main())


def test_between_two_events(tmp_path: Path) -> None:
    async def scenario(stream: Stream) -> None:
        await stream.begin()
        await stream.comes(chunk(EVENT), chunk(EVENT))
        stream.passes(KEEPALIVE_SECONDS - 1)
        stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.comes(b"", COMMENT)
        stream.passes(KEEPALIVE_SECONDS + 2)  # it has just spoken
        await stream.silent()

    run(tmp_path, scenario)


def test_before_the_first_event(tmp_path: Path) -> None:
    async def scenario(stream: Stream) -> None:
        await stream.begin()
        stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.comes(b"", COMMENT)

    run(tmp_path, scenario)


@pytest.mark.parametrize("at", range(1, len(EVENT)))
def test_never_within_an_event(tmp_path: Path, at: int) -> None:
    async def scenario(stream: Stream) -> None:
        await stream.begin()
        first, second = chunk(EVENT + EVENT[:at]), chunk(EVENT[at:])
        await stream.comes(first, first)
        stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.comes(second, second)
        await stream.silent()

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "head",
    [
        EVENTS.replace(b"text/event-stream", b"application/x-ndjson"),
        EVENTS.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
    ],
)
def test_never_in_what_is_no_plain_stream_of_events(tmp_path: Path, head: bytes) -> None:
    async def scenario(stream: Stream) -> None:
        await stream.begin(head)
        await stream.comes(chunk(EVENT), chunk(EVENT))
        stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.silent()

    run(tmp_path, scenario)


def test_never_in_a_body_of_known_length(tmp_path: Path) -> None:
    async def scenario(stream: Stream) -> None:
        await stream.begin(ANY_EVENTS + b"Content-Length: %d\r\n\r\n" % (3 * len(EVENT)))
        for _ in range(2):
            await stream.comes(EVENT, EVENT)
            stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.comes(EVENT, EVENT)

    run(tmp_path, scenario)


def test_what_is_held_back_is_not_spoken_into(tmp_path: Path) -> None:
    """The gateway asked for the usage, so it passes whole events."""

    async def scenario(stream: Stream) -> None:
        await stream.begin()
        await stream.comes(chunk(EVENT + EVENT[:5]), chunk(EVENT))
        stream.passes(KEEPALIVE_SECONDS + 1)
        await stream.comes(b"", COMMENT)
        await stream.comes(chunk(EVENT[5:]), chunk(EVENT))

    run(tmp_path, scenario, b'{"stream":true}')
