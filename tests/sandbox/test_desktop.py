"""The desktop's backend as its own process, on a real unix socket, against a model double on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from choir.sandbox import desktop as module

SERVE = """
import os, socket, sys
from choir.sandbox.desktop import serve
serve([socket.socket(fileno=int(sys.argv[1]))], lambda: os.write(int(sys.argv[2]), b"ready"))
"""


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    client: aiohttp.ClientSession

    async def socket(self) -> aiohttp.ClientWebSocketResponse:
        return await self.client.ws_connect("http://desktop/api/prompt")


@contextlib.asynccontextmanager
async def desktop(folder: Path, environment: dict[str, str] | None = None) -> AsyncIterator[Running]:
    path = str(folder / "d.sock")
    read, write = os.pipe()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", SERVE, str(listener.fileno()), str(write)],
            env={"HOME": f"{folder}/home", "DATABASE_URL": f"sqlite:///{folder}/home/choir.db", **(environment or {})},
            pass_fds=(listener.fileno(), write),
        )
    os.close(write)
    said = await asyncio.to_thread(os.read, read, 100)
    os.close(read)
    assert said == b"ready"
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=path)) as client:
            yield Running(process, client)
    finally:
        process.terminate()
        code = await asyncio.to_thread(process.wait, 10)
    assert code == 0


def run(
    folder: Path, test: Callable[[Running], Coroutine[Any, Any, None]], environment: dict[str, str] | None = None
) -> None:
    async def main() -> None:
        async with desktop(folder, environment) as here:
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture
def folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="choir-t-") as name:
        yield Path(name)


def test_the_page_and_its_files(folder: Path) -> None:
    async def test(here: Running) -> None:
        async with here.client.get("http://desktop/") as answer:
            assert answer.status == 200
            assert answer.content_type == "text/html"
            page = await answer.text()
        assert "style=" not in page  # the policy allows no inline style or script
        assert "<style" not in page
        assert "onclick" not in page
        for name in sorted(os.listdir(module.STATIC)):
            async with here.client.get(f"http://desktop/static/{name}") as answer:
                assert answer.status == 200, name
                assert "://" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "").replace(
                    '"wss" : "ws"}://', ""
                ), name
        for path in ("/nothing", "/static/", "/static/..%2Fdesktop.py", "/static/nothing.js", "/static/../desktop.py"):
            async with here.client.get(aiohttp.client.URL(f"http://desktop{path}", encoded=True)) as answer:
                assert answer.status == 404
        async with here.client.post("http://desktop/") as answer:
            assert answer.status == 405
        async with here.client.head("http://desktop/") as answer:
            assert answer.status == 200

    run(folder, test)


def test_without_a_provider_it_says_so(folder: Path) -> None:
    async def test(here: Running) -> None:
        socket = await here.socket()
        assert await socket.receive_json() == {"type": "history", "messages": [], "busy": False}
        await socket.send_json({"type": "prompt", "text": "Hello"})
        while (event := await socket.receive_json())["type"] != "end":
            pass
        assert event["state"] == "failed"
        assert event["note"].startswith("No model is available")
        await socket.close()

    run(folder, test)


def test_nonsense_is_refused_and_the_socket_stays(folder: Path) -> None:
    async def test(here: Running) -> None:
        socket = await here.socket()
        await socket.receive_json()
        for wrong in ("{", "[]", "null", '{"type": "what"}', '{"type": "prompt"}', '{"type": "prompt", "text": " "}'):
            await socket.send_str(wrong)
            assert (await socket.receive_json())["type"] == "refused"
        await socket.send_bytes(b"\x00")
        assert (await socket.receive_json())["type"] == "refused"
        await socket.close()

    run(folder, test)


async def openai(request: web.Request) -> web.StreamResponse:
    assert request.headers["Authorization"] == "Bearer token"
    body = await request.json()
    assert body["stream"] is True
    if body["messages"][-1]["content"] == "refuse":
        return web.json_response(
            {"error": {"type": "gateway", "reason": "rate", "message": "Too many calls."}}, status=429
        )
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for piece in (body["model"], " says ", body["messages"][-1]["content"]):
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": piece}}],
        }
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    if body["messages"][-1]["content"] == "hang":
        await asyncio.Event().wait()
    await response.write(b"data: [DONE]\n\n")
    return response


async def models(request: web.Request) -> web.StreamResponse:
    return web.json_response(
        {
            "object": "list",
            "data": [
                {"id": "first", "object": "model", "created": 1, "owned_by": "x"},
                {"id": "second", "object": "model", "created": 1, "owned_by": "x"},
            ],
        }
    )


async def anthropic(request: web.Request) -> web.StreamResponse:
    assert "token" in (
        request.headers.get("x-api-key", ""),
        request.headers.get("Authorization", "").removeprefix("Bearer "),
    )
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    message = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in ("Bonjour", ", monde")
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 2},
        },
        {"type": "message_stop"},
    ]
    for event in events:
        await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    return response


def with_model(
    folder: Path, test: Callable[[Running], Coroutine[Any, Any, None]], variables: Callable[[str], dict[str, str]]
) -> None:
    async def main() -> None:
        provider = web.Application()
        provider.router.add_post("/v1/chat/completions", openai)
        provider.router.add_get("/v1/models", models)
        provider.router.add_post("/v1/messages", anthropic)
        runner = web.AppRunner(provider, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.5)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        try:
            async with desktop(folder, variables(f"http://127.0.0.1:{port}")) as here:
                await test(here)
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 60))


async def answer_to(socket: aiohttp.ClientWebSocketResponse, text: str) -> tuple[list[str], dict[str, Any]]:
    await socket.send_json({"type": "prompt", "text": text})
    pieces = []
    while (event := await socket.receive_json())["type"] != "end":
        if event["type"] == "token":
            pieces.append(event["text"])
    return pieces, event


def openai_at(base: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": "token"}


def test_an_answer_through_the_openai_sdk(folder: Path) -> None:
    async def test(here: Running) -> None:
        socket = await here.socket()
        await socket.receive_json()
        await socket.send_json({"type": "warm"})
        pieces, end = await answer_to(socket, "hello")
        assert (pieces, end["state"]) == (["first", " says ", "hello"], "done")
        pieces, end = await answer_to(socket, "refuse")
        assert (pieces, end["state"], end["note"]) == ([], "failed", "Too many calls.")
        again = await here.socket()
        messages = (await again.receive_json())["messages"]
        assert [each["text"] for each in messages] == ["hello", "first says hello", "refuse", ""]
        await again.close()
        await socket.close()

    with_model(folder, test, openai_at)


def test_the_operators_model_is_asked_for(folder: Path) -> None:
    async def test(here: Running) -> None:
        socket = await here.socket()
        await socket.receive_json()
        assert (await answer_to(socket, "hello"))[0][0] == "chosen"
        await socket.close()

    with_model(folder, test, lambda base: {**openai_at(base), "CHOIR_MODEL": "chosen"})


def test_an_answer_through_the_anthropic_sdk(folder: Path) -> None:
    async def test(here: Running) -> None:
        socket = await here.socket()
        await socket.receive_json()
        pieces, end = await answer_to(socket, "hello")
        assert ("".join(pieces), end["state"], end["note"]) == ("Bonjour, monde", "done", "")
        await socket.close()

    with_model(
        folder, test, lambda base: {"ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": "token", "CHOIR_MODEL": "m"}
    )


def test_stop_and_the_event_stream(folder: Path) -> None:
    async def test(here: Running) -> None:
        async with here.client.get("http://desktop/api/events") as stream:
            assert stream.content_type == "text/event-stream"
            assert await stream.content.readuntil(b"\n\n") == b'event: run\ndata: {"busy": false}\n\n'
            socket = await here.socket()
            await socket.receive_json()
            await socket.send_json({"type": "prompt", "text": "hang"})
            assert await stream.content.readuntil(b"\n\n") == b'event: run\ndata: {"busy": true}\n\n'
            while (event := await socket.receive_json()).get("text") != "hang":
                pass
            await socket.send_json({"type": "stop"})
            event = await socket.receive_json()
            assert (event["type"], event["state"]) == ("end", "stopped")
            assert await stream.content.readuntil(b"\n\n") == b'event: run\ndata: {"busy": false}\n\n'
            await socket.close()

    with_model(folder, test, openai_at)


def test_sigterm_ends_it_at_once_with_a_run_under_way_and_keeps_it(folder: Path) -> None:
    async def first(here: Running) -> None:
        socket = await here.socket()
        await socket.receive_json()
        await socket.send_json({"type": "prompt", "text": "hang"})
        while (await socket.receive_json()).get("text") != "hang":
            pass
        here.process.send_signal(signal.SIGTERM)
        while not (await socket.receive()).type.name.startswith("CLOS"):
            pass

    async def second(here: Running) -> None:
        socket = await here.socket()
        messages = (await socket.receive_json())["messages"]
        assert [(each["text"], each["state"]) for each in messages] == [
            ("hang", "done"),
            ("first says hang", "stopped"),
        ]
        await socket.close()

    with_model(folder, first, openai_at)
    with_model(folder, second, openai_at)


LEAN = """
import sys
from choir.sandbox import desktop
import uvicorn.config, uvicorn.server, uvicorn.protocols.http.httptools_impl
heavy = {"starlette", "sqlalchemy", "openai", "anthropic", "aiohttp", "pydantic", "msgspec", "httpx2", "structlog"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_imports_are_lean() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", LEAN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
