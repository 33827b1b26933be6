from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from websockets.utils import accept_key

from choir.hypervisor.tunnel import MAX_MESSAGE_BYTES
from choir.paths import State

from .fakes import Deployment, FakeBackend, deployed, desktop_server, exited


class Echo:
    """A WebSocket server that keeps what it was told."""

    def __init__(self) -> None:
        self.headers: Any = None
        self.target = ""
        self.closed = asyncio.Event()
        self.code: int | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.headers = request.headers.copy()
        self.target = request.raw_path
        socket = web.WebSocketResponse(protocols=["v2"], max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                if message.data == "bye":
                    await socket.close(code=4001)
                    break
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        self.code = socket.close_code
        self.closed.set()
        return socket


def run(state: State, echo: Any, test: Callable[[Deployment, str], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with desktop_server(state, {"/ws": echo}) as path, deployed(state, FakeBackend(desktop=path)) as here:
            await here.ready()
            await test(here, here.desk_cookie())

    asyncio.run(asyncio.wait_for(main(), 30))


def test_messages_pass_both_ways(state: State) -> None:
    echo = Echo()

    async def test(here: Deployment, cookie: str) -> None:
        async with here.connect("/ws?a=%26&b", cookie=cookie, protocols=["v1", "v2"], compress=15) as socket:
            assert socket.protocol == "v2"
            await socket.send_str("hé")
            assert await socket.receive_str() == "hé"
            await socket.send_bytes(b"\x00\xff")
            assert await socket.receive_bytes() == b"\x00\xff"
            await socket.send_str("x" * 1_000_000)
            assert len(await socket.receive_str()) == 1_000_000
            assert not socket.compress
        assert "Cookie" not in echo.headers
        assert "Sec-WebSocket-Extensions" not in echo.headers
        assert echo.headers.getall("Host") == [here.desk_host]
        assert echo.target == "/ws?a=%26&b"
        assert echo.headers["Origin"] == here.desk_origin

    run(state, echo, test)


def test_the_browsers_goodbye_reaches_the_sandbox(state: State) -> None:
    echo = Echo()

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        await socket.close(code=4000)
        await echo.closed.wait()
        assert echo.code == 4000

    run(state, echo, test)


def test_a_browser_that_vanished_ends_it_too(state: State) -> None:
    echo = Echo()

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        socket._conn.transport.abort()
        await echo.closed.wait()

    run(state, echo, test)


def test_the_sandboxs_goodbye_reaches_the_browser(state: State) -> None:
    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        await socket.send_str("bye")
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 4001

    run(state, Echo(), test)


def test_an_end_without_goodbye_says_try_again(state: State) -> None:
    async def abort(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return socket

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1012

    run(state, abort, test)


@pytest.mark.parametrize("origin", ["https://evil.example", "", "hub", "null"])
def test_another_origin_is_refused(state: State, origin: str) -> None:
    async def test(here: Deployment, cookie: str) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await here.connect("/ws", cookie=cookie, origin=here.url if origin == "hub" else origin)
        assert caught.value.status == 403

    run(state, Echo(), test)


def test_without_a_session_it_is_refused(state: State) -> None:
    async def test(here: Deployment, cookie: str) -> None:
        for wrong in ("", "x" * 43, here.hub_cookie()):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await here.connect("/ws", cookie=wrong)
            assert caught.value.status == 401

    run(state, Echo(), test)


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def refuse_at_length(request: web.Request) -> web.StreamResponse:
    return web.Response(status=400, text="no " * 100_000)


async def agree_without_the_key(request: web.Request) -> web.StreamResponse:
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "bm8="}
    return web.Response(status=101, headers=headers)


async def agree_to_what_was_not_offered(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    accept = accept_key(request.headers["Sec-WebSocket-Key"])
    request.transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n" % accept.encode()
    )
    await asyncio.Event().wait()
    raise AssertionError


async def never_end_the_head(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 100_000)
    await asyncio.Event().wait()
    raise AssertionError


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    "answer",
    [
        refuse,
        refuse_at_length,
        agree_without_the_key,
        agree_to_what_was_not_offered,
        never_end_the_head,
        hang_up,
    ],
)
def test_a_sandbox_that_does_not_agree_is_503(state: State, answer: Any) -> None:
    async def test(here: Deployment, cookie: str) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await here.connect("/ws", cookie=cookie)
        assert caught.value.status == 503

    run(state, answer, test)


def test_an_ended_session_closes_it(state: State) -> None:
    echo = Echo()

    async def test(here: Deployment, cookie: str) -> None:
        hub = here.hub_cookie()
        socket = await here.connect("/ws", cookie=here.desk_cookie(hub))
        other = await here.connect("/ws", cookie=cookie)
        async with here.ask("POST", "/logout", cookie=hub, headers={"Origin": here.url}) as answer:
            assert answer.status == 303
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1008
        await other.send_str("still here")
        assert await other.receive_str() == "still here"
        await other.close()

    run(state, echo, test)


def test_an_ended_session_is_told_to_who_is_talking(state: State) -> None:
    async def listen(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async def test(here: Deployment, cookie: str) -> None:
        hub = here.hub_cookie()
        socket = await here.connect("/ws", cookie=here.desk_cookie(hub), autoclose=False)

        async def talk() -> None:
            while not socket.closed:
                await socket.send_bytes(bytes(100_000))

        talking = asyncio.create_task(talk())
        async with here.ask("POST", "/logout", cookie=hub, headers={"Origin": here.url}) as answer:
            assert answer.status == 303
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
        await asyncio.sleep(0.2)
        assert not socket._conn.transport.is_closing()  # our farewell is waited for
        talking.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await talking

    run(state, listen, test)


def test_an_ended_session_ends_it_in_the_middle_of_a_frame(state: State) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert request.transport is not None
        request.transport.write(b"\x82\x7f" + (1_000_000).to_bytes(8, "big") + b"x" * 1000)
        await socket.receive()
        return socket

    async def test(here: Deployment, cookie: str) -> None:
        hub = here.hub_cookie()
        socket = await here.connect("/ws", cookie=here.desk_cookie(hub))
        async with here.ask("POST", "/logout", cookie=hub, headers={"Origin": here.url}) as answer:
            assert answer.status == 303
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert socket.close_code == 1006

    run(state, half, test)


def test_more_than_a_message_may_hold_ends_it(state: State) -> None:
    echo = Echo()

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes(MAX_MESSAGE_BYTES + 1))
        message = await socket.receive()
        assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.ERROR)
        assert socket.close_code in (1009, 1006)  # a close that meets unread data may be lost
        await echo.closed.wait()
        assert echo.code == 1001

    run(state, echo, test)


def test_pings_are_between_neighbours_and_are_nobodys_input(state: State) -> None:
    heard: list[aiohttp.WSMessage] = []

    async def ping(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        await socket.ping(b"to the hypervisor")
        async for message in socket:
            heard.append(message)
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        return socket

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie, autoping=False)
        here.sandbox.last_input = 0.0
        await socket.ping(b"to the hypervisor, too")
        message = await socket.receive()
        assert (message.type, message.data) == (WSMsgType.PONG, b"to the hypervisor, too")
        assert here.sandbox.last_input == 0.0
        await socket.send_bytes(b"x")
        assert await socket.receive_bytes() == b"x"
        assert here.sandbox.last_input > 0.0
        assert [(each.type, each.data) for each in heard] == [
            (WSMsgType.PONG, b"to the hypervisor"),
            (WSMsgType.BINARY, b"x"),
        ]
        await socket.close()

    run(state, ping, test)


def test_who_does_not_read_holds_back_the_other(state: State) -> None:
    sent = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for _ in range(100):
            await socket.send_bytes(bytes(1_000_000))
        sent.set()
        await socket.receive()
        return socket

    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        socket._conn.transport.pause_reading()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sent.wait(), 0.5)
        socket._conn.transport.resume_reading()
        for _ in range(100):
            assert len(await socket.receive_bytes()) == 1_000_000
        await sent.wait()
        await socket.close()

    run(state, flood, test)


def test_the_end_of_the_server_closes_it(state: State) -> None:
    async def main() -> None:
        async with desktop_server(state, {"/ws": Echo()}) as path, deployed(state, FakeBackend(desktop=path)) as here:
            await here.ready()
            socket = await here.connect("/ws", cookie=here.desk_cookie())
            reading = asyncio.create_task(socket.receive())
        assert (await reading).type in (WSMsgType.CLOSE, WSMsgType.CLOSING)
        assert socket.close_code == 1012

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_end_of_the_sandbox_closes_it(state: State) -> None:
    async def test(here: Deployment, cookie: str) -> None:
        socket = await here.connect("/ws", cookie=cookie)
        here.backend.spawned[0].publish(exited(1))
        assert (await socket.receive()).type is WSMsgType.CLOSE
        assert socket.close_code == 1012
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await here.connect("/ws", cookie=cookie)
        assert caught.value.status == 503

    run(state, Echo(), test)
