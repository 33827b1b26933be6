"""The desktop's backend as its own process, on a real unix socket, against a model double on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import re
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
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri
from yarl import URL

from choir.sandbox.assets import STATIC

SERVE = """
import os, socket, sys
from choir.sandbox.desktop import serve
serve([socket.socket(fileno=int(sys.argv[1]))], lambda: os.write(int(sys.argv[2]), b"ready"))
"""


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    client: aiohttp.ClientSession

    async def page(self) -> Page:
        """An open page, told all of the past."""
        page = Page(await self.client.ws_connect("http://desktop/api/desktop"))
        await page.until(lambda message: message["type"] == "now")
        while not page.layout:
            await page.until(lambda message: message["type"] == "layout")
        return page

    async def shell(self, name: str) -> Shell:
        socket = await self.client.ws_connect(f"http://desktop/api/terminal/{name}")
        hello = await socket.receive_json()
        assert hello["type"] == "hello"
        return Shell(socket, hello)


class Page:
    """A page's WebSocket: ``layout`` is the last one told, ``runs`` all events of runs."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.layout: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []

    async def until(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        while True:
            message: dict[str, Any] = await self.socket.receive_json()
            if message["type"] == "layout":
                self.layout = message["windows"]
            elif message["type"] == "runs":
                self.runs += message["events"]
            if wanted(message):
                return message

    async def until_run(self, kind: str) -> dict[str, Any]:
        while not any(event["kind"] == kind for event in self.runs):
            await self.until(lambda message: message["type"] == "runs")
        return next(event["data"] for event in self.runs if event["kind"] == kind)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send_json({"type": kind, **fields})

    async def window(self, **command: Any) -> None:
        """Give a command and wait until it is told."""
        await self.send("window", **command)
        await self.until(lambda message: message["type"] == "layout")

    def said(self) -> str:
        return "".join(event["data"]["text"] for event in self.runs if event["kind"] == "run_text")


class Shell:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, hello: dict[str, Any]) -> None:
        self.socket = socket
        self.hello = hello

    async def until(self, wanted: bytes) -> bytes:
        said = b""
        while wanted not in said:
            message = await self.socket.receive()
            assert message.type is aiohttp.WSMsgType.BINARY, (message, said)
            said += message.data
        return said


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
            cwd=folder / "home",
            env={
                "HOME": f"{folder}/home",
                "PATH": "/usr/bin:/bin",
                "DATABASE_URL": f"sqlite:///{folder}/home/.choir/choir.db",
                **(environment or {}),
            },
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
        (Path(name) / "home").mkdir()
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
        named = re.findall(r"/static/([^\"]+)", page)
        assert {name.rpartition(".")[2] for name in named} == {"js", "css", "svg"}
        for name in named:
            async with here.client.get(f"http://desktop/static/{name}", headers={"accept-encoding": ""}) as answer:
                assert answer.status == 200, name
                assert "immutable" in answer.headers["cache-control"]
                plain = await answer.read()
            async with here.client.get(f"http://desktop/static/{name}", headers={"accept-encoding": "gzip"}) as answer:
                assert await answer.read() == plain
        for path in ("/nothing", "/static/", "/static/..%2Fdesktop.py", "/static/nothing.js", "/static/../desktop.py"):
            async with here.client.get(aiohttp.client.URL(f"http://desktop{path}", encoded=True)) as answer:
                assert answer.status == 404
        async with here.client.post("http://desktop/") as answer:
            assert answer.status == 405
        async with here.client.head("http://desktop/") as answer:
            assert answer.status == 200

    run(folder, test)


def test_first_paint_needs_less_than_100_kb_of_script() -> None:
    first = [path for path in Path(STATIC).glob("*.js") if not path.name.startswith("shell-")]
    assert 10_000 < sum(path.stat().st_size for path in first) < 100_000
    assert list(Path(STATIC).glob("shell-*.js"))  # the terminal comes when one is opened


def test_the_layout_is_one_for_all_pages_and_stays(folder: Path) -> None:
    async def first(here: Running) -> None:
        one, two = await here.page(), await here.page()
        assert [window["id"] for window in one.layout] == ["activity", "prompt"]
        await one.window(op="open", app="files")
        await two.until(lambda message: message["type"] == "layout")
        assert two.layout == one.layout
        await two.window(op="place", id="files", x=10, y=20, width=3000, height=4000)
        await one.until(lambda message: message["type"] == "layout")
        assert one.layout == two.layout
        await one.send("window", op="close", id="nothing")
        assert (await one.until(lambda message: message["type"] == "refused"))["note"]

    async def second(here: Running) -> None:
        page = await here.page()
        assert [window["id"] for window in page.layout] == ["activity", "prompt", "files"]
        assert page.layout[-1]["x"] == 10

    run(folder, first)
    run(folder, second)


def test_without_a_provider_it_says_so(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.send("prompt", text="Hello")
        assert (await page.until(lambda message: message["type"] == "refused"))["note"].startswith(
            "No model is available"
        )

    run(folder, test)


def test_nonsense_is_refused_and_the_socket_stays(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        for wrong in ("{", "[]", "null", '{"type": "what"}', '{"type": "prompt"}', '{"type": "prompt", "text": " "}'):
            await page.socket.send_str(wrong)
            assert (await page.socket.receive_json())["type"] == "refused"
        await page.socket.send_bytes(b"\x00")
        assert (await page.socket.receive_json())["type"] == "refused"

    run(folder, test)


def test_a_shell_is_there_again_for_the_next_page(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        one = await here.shell("terminal-1")
        await one.socket.send_bytes(b"cd /usr; echo $((6*7))x\n")
        await one.until(b"42x\r\n")
        await one.socket.send_json({"type": "resize", "columns": 100, "rows": 30})
        await one.socket.close()
        two = await here.shell("terminal-1")
        assert (two.hello["columns"], two.hello["rows"]) == (100, 30)
        assert two.hello["replay"] > 0
        await two.until(b"42x\r\n")
        await two.socket.send_bytes(b"pwd; stty size\n")
        assert b"/usr\r\n30 100" in await two.until(b"30 100")
        three = await here.shell("terminal-1")
        await three.socket.send_json({"type": "resize", "columns": 90, "rows": 20})
        while (message := await two.socket.receive()).type is not aiohttp.WSMsgType.TEXT:
            pass
        assert json.loads(message.data) == {"type": "size", "columns": 90, "rows": 20}

    run(folder, test)


def test_a_shells_end_is_told_and_another_follows(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        shell = await here.shell("terminal-1")
        await shell.socket.send_json({"type": "again"})  # it has not ended
        await shell.socket.send_bytes(b"echo first''one; exit 3\n")
        await shell.until(b"firstone")
        while (message := await shell.socket.receive()).type is not aiohttp.WSMsgType.TEXT:
            pass
        assert json.loads(message.data) == {"type": "exit", "code": 3}
        again = raw(Opcode.TEXT, b'{"type": "again"}') + raw(Opcode.BINARY, b"echo second''one\n")
        shell.socket._conn.transport.write(again)  # type: ignore[union-attr]
        while (message := await shell.socket.receive()).type is not aiohttp.WSMsgType.TEXT:
            pass
        assert json.loads(message.data)["type"] == "hello"
        assert b"firstone" not in await shell.until(b"secondone")

    run(folder, test)


def test_closing_the_window_ends_the_shell_and_all_in_it(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        shell = await here.shell("terminal-1")
        await shell.socket.send_bytes(b"sleep 1000 & echo pid''=$! end''.\n")
        said = await shell.until(b" end.")
        pid = int(said.rpartition(b"pid=")[2].split()[0])
        await page.window(op="close", id="terminal-1")
        while (message := await shell.socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert shell.socket.close_code == 4404
        with contextlib.suppress(FileNotFoundError):  # it was killed before; that it is gone may take a moment
            while b" Z " not in Path(f"/proc/{pid}/stat").read_bytes():
                await asyncio.sleep(0.01)
        for name in ("terminal-1", "prompt-1", "../files", ""):
            socket = await here.client.ws_connect(f"http://desktop/api/terminal/{name}")
            await socket.receive()
            assert socket.close_code == 4404

    run(folder, test)


def test_more_than_a_page_can_take_is_held_back_and_nothing_is_lost(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        shell = await here.shell("terminal-1")
        await shell.socket.send_bytes(b"seq 1 400000; echo all''done\n")
        said, size = bytearray(), 0
        while b"alldone" not in said[-2000:]:
            message = await shell.socket.receive()
            assert message.type is aiohttp.WSMsgType.BINARY
            said += message.data
            size += len(message.data)
            if size > 32 * 1024:
                await shell.socket.send_json({"type": "seen", "bytes": size})
                size = 0
        numbers = [int(line) for line in said.split(b"\r\n") if line.isdigit()]
        assert numbers == list(range(2, 400_001))  # the shell turns off bracketed paste before the first

    run(folder, test)


def test_a_page_that_reads_late_is_shown_all_of_it(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        shell = await here.shell("terminal-1")
        await shell.socket.send_bytes(b"seq 1 100000; echo all''done\n")
        size = 0
        while b"alldone" not in (message := (await shell.socket.receive()).data)[-2000:]:
            size += len(message)
            if size > 32 * 1024:
                await shell.socket.send_json({"type": "seen", "bytes": size})
                size = 0
        late = ClientProtocol(parse_uri("ws://desktop/api/terminal/terminal-1"))
        late.send_request(late.connect())
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(folder / "d.sock"))
            connection.sendall(b"".join(late.data_to_send()))
            for _ in range(3):  # meanwhile it is sent more than fits between
                await page.window(op="minimise", id="terminal-1")
                await page.window(op="raise", id="terminal-1")
            said = b""
            while b"alldone\r\n" not in said[-2000:]:
                late.receive_data(await asyncio.to_thread(connection.recv, 100_000))
                for event in late.events_received():
                    said += event.data if isinstance(event, Frame) and event.opcode is Opcode.BINARY else b""
        assert said.count(b"\n") > 70_000

    run(folder, test)


def raw(opcode: Opcode, data: bytes, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


def test_what_is_typed_arrives_however_it_is_framed(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        socket = await here.client.ws_connect("http://desktop/api/terminal/terminal-1", autoping=False)
        await socket.send_bytes(b"echo ear''ly\n")  # before there is a shell
        shell = Shell(socket, await socket.receive_json())
        await shell.until(b"early\r\n")

        async def write(data: bytes, *cuts: int) -> None:
            for start, end in itertools.pairwise((0, *cuts, len(data))):
                socket._conn.transport.write(data[start:end])  # type: ignore[union-attr]
                await asyncio.sleep(0.01)  # so that it is read for itself

        await write(b"".join(raw(Opcode.BINARY, bytes((key,))) for key in b"echo to''gether\n"))
        await shell.until(b"together\r\n")
        await write(raw(Opcode.BINARY, b"echo a''part\n"), 1, 2, 5, 9)
        await shell.until(b"apart\r\n")
        await write(raw(Opcode.BINARY, b"echo fr", fin=False))
        await write(raw(Opcode.CONT, b"ag''", fin=False) + raw(Opcode.PING, b"?"))
        await write(raw(Opcode.CONT, b"ments\n"))
        said, ponged = b"", False
        while b"fragments\r\n" not in said or not ponged:
            message = await socket.receive()
            ponged = ponged or message.type is aiohttp.WSMsgType.PONG
            said += message.data if message.type is aiohttp.WSMsgType.BINARY else b""
        inner = raw(Opcode.BINARY, b"k")
        typed = b"a" + inner + b"z"
        await socket.send_bytes(b"stty raw -echo; echo rea''dy; head -c %d | base64; stty sane\n" % len(typed))
        await shell.until(b"ready")
        plain = bytes((0x82, 0x80 | len(typed), 0, 0, 0, 0)) + typed
        await write(plain, 7, 7 + len(inner))  # a piece of it looks like a key of its own
        await shell.until(base64.b64encode(typed))
        for _ in range(3):
            await socket.send_bytes(b"")
        await socket.send_bytes(b"echo a''live\n")
        await shell.until(b"alive\r\n")
        await write(raw(Opcode.TEXT, b"\xff"))
        while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1007)

    run(folder, test)


def test_more_than_a_program_reads_is_held_back_and_nothing_is_lost(folder: Path) -> None:
    async def test(here: Running) -> None:
        page = await here.page()
        await page.window(op="open", app="terminal")
        shell = await here.shell("terminal-1")
        await shell.socket.send_bytes(
            b"stty raw -echo; echo rea''dy; until [ -e go ]; do sleep 0.05; done; head -c 5000000 | cksum\n"
        )
        await shell.until(b"ready")
        said = b"xyz\n" * 1_250_000

        async def paste() -> None:
            for at in range(0, len(said), 1_000_000):
                await shell.socket.send_bytes(said[at : at + 1_000_000])

        pasting = asyncio.create_task(paste())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(pasting), 0.3)
        (folder / "home" / "go").touch()
        await pasting
        wanted = subprocess.run(["cksum"], input=said, stdout=subprocess.PIPE, check=True).stdout.split()[0]
        await shell.until(wanted)

    run(folder, test)


def test_files_over_http(folder: Path) -> None:
    url = "http://desktop/api/files/"

    async def test(here: Running) -> None:
        big = os.urandom(3_000_000)

        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(big), 100_000):
                yield big[at : at + 100_000]

        new = {"if-none-match": "*"}
        async with here.client.put(url + "content?path=big", data=pieces(), headers=new) as answer:
            assert answer.status == 200
            etag = answer.headers["etag"]
        async with here.client.put(url + "content?path=big", data=b"", headers=new) as answer:
            assert answer.status == 409
        async with here.client.put(url + "content?path=big", data=b"") as answer:
            assert answer.status == 400
        async with here.client.get(url + "content?path=big") as answer:
            assert await answer.read() == big
            assert answer.headers["etag"] == etag
            assert answer.headers["content-disposition"].startswith("attachment")
        async with here.client.get(url + "content?path=big&text=1") as answer:
            assert (answer.status, (await answer.json())["error"]["reason"]) == (413, "too_large")
        async with here.client.post(url + "folder?path=d") as answer:
            assert answer.status == 200
        async with here.client.put(url + "content?path=d/t%C3%A9xt", data="é".encode(), headers=new) as answer:
            etag = answer.headers["etag"]
        async with here.client.get(url + "content?path=d/t%C3%A9xt&text=1") as answer:
            assert (await answer.text(), answer.content_type) == ("é", "text/plain")
        for data, status in ((b"two", 200), (b"three", 412)):
            given = {"if-match": etag}
            async with here.client.put(url + "content?path=d/t%C3%A9xt", data=data, headers=given) as answer:
                assert answer.status == status
        assert (folder / "home/d/téxt").read_text() == "two"
        async with here.client.get(url + "content?path=.choir/choir.db") as answer:
            assert (answer.status, (await answer.json())["error"]["reason"]) == (403, "not_permitted")
        latin = folder / "home" / os.fsdecode(b"caf\xe9")  # a name is bytes, not always UTF-8
        latin.write_text("found")
        async with here.client.get(URL(url + "content?path=caf%E9", encoded=True)) as answer:
            assert await answer.text() == "found"
            assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''caf%E9"
        async with here.client.post(URL(url + "rename?path=caf%E9&to=caf%C3%A9", encoded=True)) as answer:
            assert answer.status == 200
        assert not latin.exists()
        async with here.client.post(url + "rename?path=d/t%C3%A9xt&to=d/text") as answer:
            assert answer.status == 200
        async with here.client.get(url + "list?path=d") as answer:
            assert [entry["name"] for entry in (await answer.json())["entries"]] == ["text"]
        async with here.client.post(url + "delete?path=d") as answer:
            assert answer.status == 200
        for path, status in (
            ("list?path=d", 404),
            ("list?path=..", 400),
            ("content?path=/etc/passwd", 400),
            ("x", 404),
        ):
            async with here.client.get(url + path) as answer:
                assert answer.status == status
        async with here.client.post(url + "list") as answer:
            assert answer.status == 405

    run(folder, test)


def test_an_upload_that_breaks_off_leaves_nothing(folder: Path) -> None:
    async def test(here: Running) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"x" * 100_000
            while not list((folder / "home").glob("*.part")) and not list((folder / "home").glob(".*.part")):
                await asyncio.sleep(0.01)
            raise RuntimeError

        with pytest.raises((RuntimeError, aiohttp.ClientError)):
            await here.client.put(
                "http://desktop/api/files/content?path=big", data=pieces(), headers={"if-none-match": "*"}
            )
        while os.listdir(folder / "home") != []:
            await asyncio.sleep(0.01)

    run(folder, test)


def test_the_memory_is_there(folder: Path) -> None:
    async def test(here: Running) -> None:
        url = "http://desktop/api/memory/"
        draft = {"collection": "user_inputs", "content": "likes green tea"}
        async with here.client.post(url + "ingest", json={"draft": draft}) as answer:
            assert answer.status == 200, await answer.text()
        async with here.client.post(url + "search", json={"collection": "user_inputs", "query": "tea"}) as answer:
            (found,) = (await answer.json())["result"]
            assert found["item"]["content"] == "likes green tea"

    run(folder, test)


async def openai(request: web.Request) -> web.StreamResponse:
    assert request.headers["Authorization"] == "Bearer token"
    body = await request.json()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    asked = body["messages"][-1]["content"]
    for piece in (body["model"], " says ", asked):
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": {"content": piece}}],
        }
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    if asked == "hang":
        await asyncio.Event().wait()
    await response.write(b"data: [DONE]\n\n")
    return response


def with_model(folder: Path, *tests: Callable[[Running], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        provider = web.Application()
        provider.router.add_post("/v1/chat/completions", openai)
        runner = web.AppRunner(provider, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.5)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        given = {
            "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
            "OPENAI_API_KEY": "token",
            "CHOIR_MODEL": "chosen",
        }
        try:
            for test in tests:
                async with desktop(folder, given) as here:
                    await test(here)
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(main(), 90))


def test_a_run_is_told_to_every_page_and_goes_on_without_one(folder: Path) -> None:
    async def first(here: Running) -> None:
        page = await here.page()
        await page.send("warm")
        await page.send("prompt", text="hello")
        await page.until_run("run_finished")
        assert page.said() == "chosen says hello"
        await page.send("prompt", text="hang")
        while "hang" not in page.said():
            await page.until(lambda message: message["type"] == "runs")
        await page.socket.close()
        again = await here.page()
        assert [event["data"]["prompt"] for event in again.runs if event["kind"] == "run_started"] == ["hello", "hang"]
        assert again.said() == "chosen says hellochosen says hang"
        await again.send("stop")
        assert (await again.until_run("run_stopped"))["by"] == "person"
        await again.send("prompt", text="hang")
        while again.said().count("hang") < 2:
            await again.until(lambda message: message["type"] == "runs")
        here.process.send_signal(signal.SIGTERM)
        while not (await again.socket.receive()).type.name.startswith("CLOS"):
            pass

    async def second(here: Running) -> None:
        page = await here.page()
        assert [event["kind"] for event in page.runs if event["kind"].startswith("run_st")] == [
            "run_started",
            "run_started",
            "run_stopped",
            "run_started",
            "run_stopped",
        ]
        await page.send("clear")
        await page.until_run("conversation_cleared")
        assert [event["kind"] for event in (await here.page()).runs] in ([], ["conversation_cleared"])

    with_model(folder, first, second)


LEAN = """
import sys
from choir.sandbox import desktop
import uvicorn.config, uvicorn.server, uvicorn.protocols.http.httptools_impl
heavy = {"starlette", "sqlalchemy", "openai", "anthropic", "aiohttp", "pydantic", "msgspec", "httpx2", "structlog"}
heavy |= {"choir.sandbox." + name for name in ("terminals", "files", "live", "event_store", "agent", "memory")}
print(sorted(heavy & {*sys.modules, *(name.partition(".")[0] for name in sys.modules)}))
"""


def test_the_imports_are_lean() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", LEAN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
