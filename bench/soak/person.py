"""One person with a browser: signs in, enters the desktop, asks, types into a terminal, follows its events; and does it
all again after whatever was killed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from choir.channel import ChannelClosed, connect
from choir.paths import State

PATIENCE = 40.0
CALLER = Path(__file__).with_name("caller.py")


class Trouble(Exception):  # noqa: N818 - counted, not raised to anybody
    """What went wrong, in a word that can be counted."""


async def ask(state: State, op: str, **fields: Any) -> dict[str, Any]:
    """A question to the hypervisor's control socket."""
    try:
        with contextlib.closing(connect(str(state.hypervisor_socket))) as channel:
            channel.send({"op": op, **fields})
            answer, _ = await asyncio.wait_for(channel.receive_async(asyncio.get_running_loop()), PATIENCE)
            return answer
    except (ChannelClosed, TimeoutError):
        raise Trouble("hypervisor away") from None


@dataclass
class Person:
    """``until``: when to stop, as ``time.monotonic``. ``home``: on the host, once the sandbox has been ready."""

    state: State
    name: str
    client: aiohttp.ClientSession
    until: float
    local: bool
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    homes: set[Path] = field(default_factory=set)

    async def live(self) -> None:
        hub = ""
        while time.monotonic() < self.until:
            try:
                if not hub:
                    hub = await self._sign_in()
                    self.counts["signed in"] += 1
                url, cookie = await self._enter(hub)
                self.counts["entered"] += 1
                await self._work(url, cookie)
            except* Trouble as group:
                for error in _leaves(group):
                    self.errors[str(error)] += 1
                    if str(error) == "signed out":
                        hub = ""
            except* (aiohttp.ClientError, OSError, TimeoutError) as group:
                for error in _leaves(group):
                    self.errors[type(error).__name__] += 1
            await asyncio.sleep(0.3)

    # ---------------------------------------------------------------- in

    def _get(self, url: str, cookie: str = "") -> Any:
        where = urlsplit(url)
        headers = {"Host": where.netloc, "Cookie": cookie, "Sec-Fetch-Mode": "navigate"}
        path = f"{where.path}?{where.query}"
        return self.client.get(f"http://127.0.0.1:{where.port}{path}", headers=headers, allow_redirects=False)

    async def _sign_in(self) -> str:
        answer = await ask(self.state, "login_link", user=self.name)
        if not answer.get("ok"):
            raise Trouble(f"no link: {answer.get('reason')}")
        link = urlsplit(answer["url"])
        headers = {"Host": link.netloc, "Origin": f"{link.scheme}://{link.netloc}"}
        once = {"once": link.query.removeprefix("once=")}
        async with self.client.post(f"http://127.0.0.1:{link.port}/login", headers=headers, data=once) as reply:
            return _cookie(reply)

    async def _enter(self, hub: str) -> tuple[str, str]:
        """The desktop's origin and its cookie, once it is there."""
        base = (await ask(self.state, "status"))["url"]
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = await ask(self.state, "start", user=self.name)
            sandbox = answer.get("sandbox") or {}
            if sandbox.get("state") == "ready":
                break
            self.errors[f"start: {sandbox.get('reason') or answer.get('reason')}"] += 1
            if time.monotonic() > deadline:
                raise Trouble("it does not start")
            await asyncio.sleep(0.3)
        self.homes.add(self.state.homes / sandbox["home"])
        async with self._get(f"{base}/desk/live/enter", hub) as reply:
            there = reply.headers.get("Location", "")
        if "ticket=" not in there:
            raise Trouble("signed out" if "login" in there or reply.status in (401, 200) else "not ready")
        async with self._get(there, "") as reply:
            return there.partition("/.choir")[0], _cookie(reply)

    # ---------------------------------------------------------------- work

    async def _work(self, url: str, cookie: str) -> None:
        """Until something breaks, or the time is over."""
        home = max(self.homes, key=lambda path: path.stat().st_mtime)
        script = home / "caller.py"
        script.write_bytes(CALLER.read_bytes())
        script.chmod(0o644)
        async with self._socket(url, cookie, "/api/desktop") as desktop:
            terminal = await self._terminal_id(desktop)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._prompts(desktop))
                tasks.create_task(self._typing(url, cookie, terminal))
                tasks.create_task(self._events(url, cookie))

    @contextlib.asynccontextmanager
    async def _socket(self, url: str, cookie: str, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        where = urlsplit(url)
        headers = {"Host": where.netloc, "Cookie": cookie}
        async with self.client.ws_connect(
            f"http://127.0.0.1:{where.port}{path}", headers=headers, origin=url
        ) as socket:
            yield socket

    async def _terminal_id(self, desktop: aiohttp.ClientWebSocketResponse) -> str:
        """Once the page was told all that is past."""
        found, now, asked = "", False, False
        while not (found and now):
            message = await _json(desktop, "desktop closed")
            now = now or message["type"] == "now"
            if message["type"] == "layout":
                found = next((str(each["id"]) for each in message["windows"] if each["app"] == "terminal"), "")
                if not found and not asked:
                    asked = True
                    await desktop.send_json({"type": "window", "op": "open", "app": "terminal"})
        return found

    async def _prompts(self, desktop: aiohttp.ClientWebSocketResponse) -> None:
        await desktop.send_json({"type": "stop"})  # one that was under way when the page was lost
        while time.monotonic() < self.until:
            await desktop.send_json({"type": "prompt", "text": "Count to three.", "model": "soak/m"})
            self.counts["prompts"] += 1
            end, reason = "", ""
            while not end:
                message = await _json(desktop, "desktop closed")
                if message["type"] == "refused":
                    end, reason = "refused", message["note"][:60]
                for event in message.get("events", ()):
                    if event["kind"] in ("run_finished", "run_failed", "run_stopped"):
                        end, reason = event["kind"], event["data"].get("reason", "")
            self.counts[f"prompts {end.removeprefix('run_')}"] += 1
            if reason:
                self.errors[f"prompt: {reason}"] += 1
            await asyncio.sleep(1.0)

    async def _typing(self, url: str, cookie: str, terminal: str) -> None:
        async with self._socket(url, cookie, f"/api/terminal/{terminal}") as socket:
            seconds = max(1, int(self.until - time.monotonic()))
            kind = "local" if self.local else "-"
            # One caller a sandbox: an older one of this shell's is ended first.
            line = f"pkill -f caller.py; {sys.executable} -I ~/caller.py {seconds} {kind} >/dev/null 2>&1 &\r"
            await socket.send_bytes(line.encode())
            number, seen = 0, 0
            while time.monotonic() < self.until:
                number += 1
                await socket.send_bytes(f"echo mark$(({number}+1000000))\r".encode())
                wanted, shown = f"mark{number + 1000000}".encode(), b""
                while wanted not in shown:
                    message = await asyncio.wait_for(socket.receive(), PATIENCE)
                    if message.type is aiohttp.WSMsgType.BINARY:
                        shown = shown[-4096:] + message.data
                        seen += len(message.data)
                        await socket.send_json({"type": "seen", "bytes": seen})
                    elif message.type is not aiohttp.WSMsgType.TEXT:
                        raise Trouble("terminal closed")
                self.counts["terminal echoes"] += 1
                await asyncio.sleep(0.5)

    async def _events(self, url: str, cookie: str) -> None:
        """The desktop's own stream of usage and state."""
        async with self._get(f"{url}/.choir/events", cookie) as answer:
            while time.monotonic() < self.until:
                with contextlib.suppress(TimeoutError):
                    line = await asyncio.wait_for(answer.content.readline(), 1.0)
                    if not line:
                        raise Trouble("events ended")
                    self.counts["event lines"] += 1


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for each in group.exceptions:
        found += _leaves(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


def _cookie(answer: aiohttp.ClientResponse) -> str:
    found = answer.headers.get("Set-Cookie", "")
    if not re.match(r"[^=;]+=[^;]", found):
        raise Trouble("signed out")
    return found.split(";")[0]


async def _json(socket: aiohttp.ClientWebSocketResponse, otherwise: str) -> dict[str, Any]:
    message = await asyncio.wait_for(socket.receive(), PATIENCE)
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise Trouble(otherwise)
    found: dict[str, Any] = message.json()
    return found
