"""How long a key press in the terminal takes to come back: ``python bench/desktop/echo.py [KEYS]``.

The same shell on a PTY, reached in three ways, one key after the other, in turns of a few keys each so that a busy
machine hits all alike:

pty      written and read in this process
direct   over a WebSocket to a small process that has the PTY: what a terminal in a browser needs at least
choir    over a WebSocket to the hypervisor, from there to the desktop in the sandbox, which has the PTY

Then ``direct`` and ``choir`` once more as a person has them: the desktop's own page in Chromium, from the key's event
to the frame after its echo is on the page. Prints medians and 95th percentiles in milliseconds, and the ratio of choir
to direct, whose limit is 1.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import uvloop
from aiohttp import web
from playwright.async_api import Page, async_playwright

CHOIR = Path(sys.executable).parent / "choir"
SHELL = ("/bin/bash", "--norc", "--noprofile", "-i")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PS1": "$ ", "TERM": "xterm-256color", "HOME": "/"}
TURN = 20
"""Keys in one turn; then the line is emptied."""
KILL_LINE = b"\x15"
WINDOW = {"width": 1280, "height": 820}

Press = Callable[[bytes], Awaitable[bytes]]
"""Send a key, wait for what comes back first."""


def spawn() -> int:
    """A shell's PTY, past its first prompt."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve(SHELL[0], SHELL, ENVIRONMENT)
    said = b""
    while not said.endswith(b"$ "):
        said += os.read(master, 1000)
    return master


async def press_pty(master: int, key: bytes) -> bytes:
    os.write(master, key)
    return os.read(master, 1000)


async def serve_directly(master: int) -> int:
    """The small server; its port."""
    loop = asyncio.get_running_loop()

    async def terminal(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        await socket.send_str(json.dumps({"type": "hello", "columns": 80, "rows": 24, "replay": 0}))
        loop.add_reader(master, lambda: asyncio.ensure_future(socket.send_bytes(os.read(master, 65536))))
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                os.write(master, message.data)
        loop.remove_reader(master)
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", terminal)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    return int(site._server.sockets[0].getsockname()[1])  # type: ignore[attr-defined]


@contextlib.contextmanager
def direct_server() -> Iterator[int]:
    """The small server in a process of its own; its port. Before any event loop: it forks."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:

        async def serve() -> None:
            os.write(writing, str(await serve_directly(spawn())).encode())
            await asyncio.Event().wait()

        uvloop.run(serve())
    try:
        yield int(os.read(reading, 100))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def press_socket(socket: aiohttp.ClientWebSocketResponse) -> Press:
    async def press(key: bytes) -> bytes:
        await socket.send_bytes(key)
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                return bytes(message.data)

    return press


@contextlib.asynccontextmanager
async def deployment() -> AsyncIterator[str]:
    """A running ``choir up``; its one-time link."""
    root = Path(tempfile.mkdtemp(prefix="choir-bench-"))
    environment = {"HOME": str(root), "PATH": "/usr/bin:/bin", "CHOIR_STATE": str(root / "state")}
    process = subprocess.Popen(
        [CHOIR, "up", "--port", "0"],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = ""
        while not (found := re.search(r"http://\S+once=\S+", said)):
            line = await asyncio.to_thread(process.stdout.readline)
            assert line, said
            said += line
        reading = asyncio.create_task(asyncio.to_thread(process.stdout.read))
        yield found[0]
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
        await reading
        shutil.rmtree(root)


async def open_terminal(page: Page, link: str) -> None:
    await page.goto(link)
    await page.get_by_role("button", name="Sign in as").click()
    await page.get_by_text("Connected", exact=True).wait_for()
    await page.get_by_role("button", name="Terminal", exact=True).click()
    await page.locator(".xterm-rows").get_by_text("$").first.wait_for()


async def with_choirs_socket(page: Page, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    """The open page's terminal once more, from this process."""
    where = urlsplit(page.url)
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in await page.context.cookies(page.url))  # type: ignore[typeddict-item]
    return await session.ws_connect(
        f"http://127.0.0.1:{where.port}/api/terminal/terminal-1",
        headers={"Host": where.netloc, "Cookie": cookies},
        origin=f"http://{where.netloc}",
    )


async def settled(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Until nothing more comes."""
    with contextlib.suppress(TimeoutError):
        while True:
            await asyncio.wait_for(socket.receive(), 0.5)


async def wires(ways: dict[str, Press], keys: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    for turn in range(keys // TURN + 1):
        for name, press in ways.items():
            for _ in range(TURN):
                started = time.perf_counter()
                await press(b"x")
                if turn:  # the first is for warming up
                    times[name].append((time.perf_counter() - started) * 1000)
                await asyncio.sleep(0.002)
            await press(KILL_LINE)
            await asyncio.sleep(0.02)
    return times


WATCH = """() => {
    window.echoes = [];
    let pressed = 0;
    addEventListener('keydown', (event) => { pressed = performance.now(); }, true);
    const rows = document.querySelector('.xterm-rows');
    let before = rows.textContent;
    new MutationObserver(() => {
        if (!pressed || rows.textContent === before) return;
        before = rows.textContent;
        const since = pressed;
        pressed = 0;
        const arrived = performance.now() - since;
        requestAnimationFrame(() => window.echoes.push([arrived, performance.now() - since]));
    }).observe(rows, {subtree: true, childList: true, characterData: true});
}"""


async def eyes(pages: dict[str, Page], keys: int) -> dict[str, list[float]]:
    for page in pages.values():
        await page.locator(".shell textarea").focus()
        await page.evaluate(WATCH)
    for _ in range(keys // TURN + 1):
        for page in pages.values():
            await page.bring_to_front()
            for _ in range(TURN):
                await page.keyboard.press("x")
                await page.wait_for_timeout(25)
            await page.keyboard.press("Control+u")
            await page.wait_for_timeout(60)
    return {name: [each[1] for each in (await page.evaluate("echoes"))[TURN:]] for name, page in pages.items()}


def told(title: str, times: dict[str, list[float]]) -> None:
    print(title)
    for name, each in times.items():
        p95 = statistics.quantiles(each, n=20)[-1]
        print(f"  {name:8} median {statistics.median(each):7.3f} ms   95 % {p95:7.3f} ms   ({len(each)} keys)")
    print(f"  choir : direct {statistics.median(times['choir']) / statistics.median(times['direct']):.2f}")


async def main(keys: int, port: int) -> None:
    async with deployment() as link, async_playwright() as playwright, aiohttp.ClientSession() as session:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        context = await browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
        page = await context.new_page()
        await open_terminal(page, link)
        desktop = page.url
        through_choir = await with_choirs_socket(page, session)
        await page.goto("about:blank")  # nobody else looks on, as with the other two
        await through_choir.send_bytes(b"exec bash --norc --noprofile -i\n")
        await settled(through_choir)
        direct = await session.ws_connect(f"http://127.0.0.1:{port}/")
        await direct.receive()
        master = spawn()
        ways: dict[str, Press] = {
            "pty": lambda key: press_pty(master, key),
            "direct": press_socket(direct),
            "choir": press_socket(through_choir),
        }
        told("on the wire", await wires(ways, keys))
        await through_choir.close()
        await direct.close()
        await page.goto(desktop)
        await page.locator(".xterm-rows").get_by_text("$").first.wait_for()
        # The same page, but its terminal's WebSocket goes straight to the small server.
        other = await browser.new_context(
            viewport=WINDOW,  # type: ignore[arg-type]
            bypass_csp=True,
            storage_state=await context.storage_state(),
        )
        await other.add_init_script(
            f"""const Real = WebSocket;
            window.WebSocket = class extends Real {{
                constructor(url) {{ super(url.includes('/api/terminal/') ? 'ws://127.0.0.1:{port}/' : url); }}
            }};"""
        )
        beside = await other.new_page()
        await beside.goto(desktop)
        await beside.locator(".xterm-rows").wait_for()
        seen: dict[str, Any] = await eyes({"direct": beside, "choir": page}, keys // 3)
        told("as seen in Chromium, to the next frame", seen)
        await browser.close()


if __name__ == "__main__":
    with direct_server() as port:
        uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 400, port))
