from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from choir.paths import State

from .fakes import Deployment, FakeBackend, deployed, desktop_server, exited


class Echo:
    """A WebSocket server that keeps what it was told."""

    def __init__(self) -> None:
        self.headers: Any = None
        self.closed = asyncio.Event()
        self.code: int | None = None

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.headers = request.headers.copy()
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
        async with here.connect("/ws", cookie=cookie, protocols=["v1", "v2"]) as socket:
            assert socket.protocol == "v2"
            await socket.send_str("hé")
            assert await socket.receive_str() == "hé"
            await socket.send_bytes(b"\x00\xff")
            assert await socket.receive_bytes() == b"\x00\xff"
            await socket.send_str("x" * 1_000_000)
            assert len(await socket.receive_str()) == 1_000_000
        assert "Cookie" not in echo.headers
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


def test_a_refusing_sandbox_is_503(state: State) -> None:
    async def no(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async def test(here: Deployment, cookie: str) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await here.connect("/ws", cookie=cookie)
        assert caught.value.status == 503

    run(state, no, test)


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
