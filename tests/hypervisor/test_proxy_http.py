"""The HTTP proxy between a real server in front and a real one on a unix socket behind."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from choir.paths import State

from .fakes import Deployment, FakeBackend, deployed, desktop_server, exited

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def run(state: State, routes: dict[str, Handler], test: Callable[[Deployment, str], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with desktop_server(state, routes) as path, deployed(state, FakeBackend(desktop=path)) as here:
            await here.ready()
            await test(here, here.desk_cookie())

    asyncio.run(asyncio.wait_for(main(), 30))


def test_an_answer_streams(state: State) -> None:
    """The first byte arrives before the last was sent."""
    go = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: first\n\n")
        await go.wait()
        await response.write(b"data: last\n\n")
        return response

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask("GET", "/api/events", host=here.desk_host, cookie=cookie) as answer:
            assert await answer.content.readany() == b"data: first\n\n"
            go.set()
            assert await answer.content.read() == b"data: last\n\n"

    run(state, {"/api/events": stream}, test)


def test_a_request_streams(state: State) -> None:
    """The sandbox answers the first chunk before the second was sent."""
    seen: asyncio.Queue[bytes] = asyncio.Queue()

    async def upload(request: web.Request) -> web.StreamResponse:
        async for chunk in request.content.iter_any():
            await seen.put(chunk)
        return web.Response(text="done")

    async def test(here: Deployment, cookie: str) -> None:
        async def body() -> Any:
            yield b"one"
            assert await seen.get() == b"one"
            yield b"two"

        headers = {"Origin": here.desk_origin}
        async with here.ask("POST", "/up", host=here.desk_host, cookie=cookie, headers=headers, data=body()) as answer:
            assert await answer.text() == "done"
        assert await seen.get() == b"two"

    run(state, {"/up": upload}, test)


def test_header_hygiene_both_ways(state: State) -> None:
    got: dict[str, Any] = {}

    async def echo(request: web.Request) -> web.StreamResponse:
        got["headers"] = request.headers.copy()
        got["path"] = request.raw_path
        response = web.Response(text="hi")
        response.headers.update(
            {
                "Set-Cookie": "choir=evil; Path=/",
                "Access-Control-Allow-Origin": "*",
                "Content-Security-Policy": "default-src *",
                "Link": "<https://evil.example/>; rel=preload",
                "Location": "https://evil.example/",
                "ETag": '"1"',
            }
        )
        return response

    async def test(here: Deployment, cookie: str) -> None:
        headers = {"Authorization": "Bearer x", "X-Forwarded-For": "1.2.3.4", "X-App": "yes", "Accept-Encoding": "br"}
        path = "/a%2Fb/../c%20d;e?x=%2F&y=1+2"
        url = aiohttp.client.URL(f"http://127.0.0.1:{here.port}{path}", encoded=True)
        headers |= {"Host": here.desk_host, "Cookie": f"{here.cookie(cookie)}; other=1"}
        async with here.client.get(url, headers=headers) as answer:
            assert await answer.text() == "hi"
        assert got["path"] == path
        for name in ("Cookie", "Authorization", "X-Forwarded-For"):
            assert name not in got["headers"]
        assert got["headers"]["X-App"] == "yes"
        assert got["headers"]["Accept-Encoding"] == "br"
        assert got["headers"]["Host"] == here.desk_host
        for name in ("Set-Cookie", "Access-Control-Allow-Origin", "Link", "Location"):
            assert name not in answer.headers
        assert answer.headers["ETag"] == '"1"'
        assert answer.headers.getall("Content-Security-Policy")[0].startswith("default-src 'self'")
        assert len(answer.headers.getall("Content-Security-Policy")) == 1
        assert len(answer.headers.getall("Date")) == 1
        async with here.ask("GET", "/login") as answer:
            assert len(answer.headers.getall("Date")) == 1

    run(state, {"/{path:.*}": echo}, test)


@pytest.mark.parametrize("chunked", [False, True])
def test_big_bodies_pass_unchanged(state: State, chunked: bool) -> None:
    data = os.urandom(8 * 1024 * 1024)

    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if not chunked:
            response.content_length = request.content_length
            assert request.content_length == len(data)
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response

    async def test(here: Deployment, cookie: str) -> None:
        async def body() -> Any:
            for start in range(0, len(data), 100_000):
                yield data[start : start + 100_000]

        headers = {"Origin": here.desk_origin}
        async with here.ask(
            "POST",
            "/",
            host=here.desk_host,
            cookie=cookie,
            headers=headers,
            data=body() if chunked else io.BytesIO(data),
        ) as answer:
            received = await answer.read()
            assert ("Content-Length" in answer.headers) is not chunked
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()

    run(state, {"/": echo}, test)


def test_a_compressed_answer_stays_compressed(state: State) -> None:
    data = gzip.compress(b"hello " * 1000)

    async def compressed(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data, headers={"Content-Encoding": "gzip"})

    async def test(here: Deployment, cookie: str) -> None:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.get(
                f"http://127.0.0.1:{here.port}/", headers={"Host": here.desk_host, "Cookie": here.cookie(cookie)}
            ) as answer,
        ):
            assert answer.headers["Content-Encoding"] == "gzip"
            assert await answer.read() == data

    run(state, {"/": compressed}, test)


def test_a_slow_reader_slows_the_sandbox(state: State) -> None:
    written = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2000):
            await response.write(b"x" * 65536)
            written += 65536
        return response

    async def test(here: Deployment, cookie: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"GET / HTTP/1.1\r\nHost: {here.desk_host}\r\nCookie: {here.cookie(cookie)}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        before = -1
        while written != before:  # until nothing more is taken
            before = written
            await asyncio.sleep(0.2)
        assert written < 32 * 1024 * 1024
        writer.transport.abort()

    run(state, {"/": flood}, test)


def test_a_client_that_left_ends_the_request_behind(state: State) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return response

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie) as answer:
            await answer.content.readany()
            await began.wait()
            answer.close()
        await ended.wait()

    run(state, {"/": endless}, test)


def test_a_client_that_left_in_its_upload_ends_it_behind(state: State) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        try:
            async for _ in request.content.iter_any():
                began.set()
        finally:
            ended.set()
        return web.Response()

    async def test(here: Deployment, cookie: str) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(
            f"POST / HTTP/1.1\r\nHost: {here.desk_host}\r\nCookie: {here.cookie(cookie)}\r\n"
            f"Origin: {here.desk_origin}\r\nContent-Length: 1000\r\n\r\nxxx".encode()
        )
        await began.wait()
        writer.transport.abort()
        await ended.wait()

    run(state, {"/": take}, test)


def test_an_answer_cut_short_is_seen_as_such(state: State) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

    run(state, {"/": cut}, test)


def test_statuses_methods_and_empty_bodies_pass(state: State) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.query["status"]), headers={"Allow": request.method})

    async def test(here: Deployment, cookie: str) -> None:
        for method, status in (
            ("GET", 204),
            ("HEAD", 200),
            ("PUT", 404),
            ("DELETE", 500),
            ("PATCH", 304),
            ("OPTIONS", 200),
        ):
            headers = {"Origin": here.desk_origin}
            async with here.ask(
                method, f"/?status={status}", host=here.desk_host, cookie=cookie, headers=headers
            ) as answer:
                assert (answer.status, answer.headers["Allow"]) == (status, method)

    run(state, {"/": echo}, test)


def test_a_redirect_is_passed_and_not_followed(state: State) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/other"})

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/other")

    run(state, {"/": away}, test)


def test_a_desktop_that_does_not_answer_is_said_to_be_away(state: State) -> None:
    async def drop(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask(
            "POST", "/", host=here.desk_host, cookie=cookie, headers={"Origin": here.desk_origin}
        ) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["reason"] == "desktop_unreachable"

    run(state, {"/": drop}, test)


def test_no_descriptor_is_left(state: State) -> None:
    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    async def test(here: Deployment, cookie: str) -> None:
        async def once() -> None:
            async with here.ask(
                "GET", "/", host=here.desk_host, cookie=cookie, headers={"Connection": "close"}
            ) as answer:
                await answer.read()

        await once()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            await asyncio.gather(*(once() for _ in range(10)))
        here.supervisor.stop(here.sandbox)
        await here.sandbox.settled(5)
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.01)

    run(state, {"/": hello}, test)


def test_the_end_of_the_sandbox_ends_what_streams(state: State) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        await asyncio.Event().wait()
        return response

    async def test(here: Deployment, cookie: str) -> None:
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie) as answer:
            await answer.content.readany()
            here.backend.spawned[0].publish(exited(1))
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

    run(state, {"/": endless}, test)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n", 503),
        ("HTTP/1.1 799 What\r\nContent-Length: 0\r\n\r\n", 503),
        ('HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 5000\r\n\r\n', 304),
    ],
)
def test_a_status_that_is_no_answer_is_not_passed_on(state: State, said: str, status: int) -> None:
    """An upgrade nobody asked for and a number nobody knows; and the length of what a 304 does not send."""

    async def desktop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(said.encode())
        writer.close()

    async def main() -> None:
        path = os.path.join(state.run, "d.sock")
        server = await asyncio.start_unix_server(desktop, path)
        async with server, deployed(state, FakeBackend(desktop=path)) as here:
            await here.ready()
            for _ in range(2):
                async with here.ask("GET", "/", host=here.desk_host, cookie=here.desk_cookie()) as answer:
                    assert answer.status == status
                    body = await answer.read()
                    if status == 304:
                        assert (body, answer.headers["ETag"]) == (b"", '"1"')
                        assert "Content-Length" not in answer.headers

    asyncio.run(asyncio.wait_for(main(), 30))
