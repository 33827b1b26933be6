"""The hypervisor's real process with the real gateway, real sandboxes, and a provider that speaks the real protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvicorn
from aiohttp import web

from choir import config as configuration
from choir.app.secrets import stored_key
from choir.app.up import start_gateway
from choir.channel import Message, connect
from choir.errors import StartError
from choir.hypervisor.main import WebServer, listen_tcp
from choir.paths import State
from choir.service import Service

ANSWER = ["The capital ", "of France ", "is Paris."]


async def complete(request: web.Request) -> web.StreamResponse:
    """OpenAI's chat completions, streamed."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for piece in ANSWER:
        chunk = {**base, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    usage = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
    await response.write(b"data: " + json.dumps({**base, "choices": [], "usage": usage}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@dataclass
class Whole:
    """A running gateway and hypervisor."""

    state: State
    config: Path
    key: str
    gateway: Service
    hypervisor: Service
    answer: Message
    client: aiohttp.ClientSession
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.answer["url"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def start_hypervisor(self) -> None:
        self.hypervisor = Service.spawn("hypervisor", "choir.hypervisor.main", log=self.state.logs / "hypervisor.log")
        self.answer = await self.hypervisor.start(start_message(self.state, self.config, self.environment))

    async def ask(self, op: str, **fields: Any) -> Message:
        with contextlib.closing(connect(str(self.state.hypervisor_socket))) as channel:
            channel.send({"op": op, **fields})
            answer, _ = await channel.receive_async(asyncio.get_running_loop())
            return answer

    def get(self, url: str, cookie: str = "", **headers: str) -> Any:
        """As a browser that resolves ``*.localhost`` to loopback."""
        parts = urlsplit(url)
        headers = {"Host": parts.netloc, "Cookie": cookie, **headers}
        return self.client.get(
            f"http://127.0.0.1:{parts.port}{parts.path}?{parts.query}", headers=headers, allow_redirects=False
        )

    async def sign_in(self) -> str:
        """By a one-time link; the hub's cookie."""
        where = urlsplit((await self.ask("login_link"))["url"])
        async with self.client.post(
            f"http://127.0.0.1:{where.port}/login",
            headers={"Host": where.netloc, "Origin": f"{where.scheme}://{where.netloc}"},
            data={"once": where.query.removeprefix("once=")},
        ) as answer:
            return str(answer.headers["Set-Cookie"].split(";")[0])

    async def enter(self) -> str:
        """Sign in and go to the ready desktop; its origin's cookie."""
        hub = await self.sign_in()
        async with self.get(f"{self.url}/desk/live/enter", hub) as answer:
            there = answer.headers["Location"]
        async with self.get(there) as answer:
            return str(answer.headers["Set-Cookie"].split(";")[0])


def start_message(state: State, config: Path, environment: dict[str, str]) -> Message:
    return {
        "state": str(state.root),
        "config": str(config),
        "token_key": base64.b64encode(stored_key(state.token_key)).decode(),
        "user": "ada",
        "environment": environment,
    }


@contextlib.asynccontextmanager
async def whole(state: State, environment: dict[str, str] | None = None) -> AsyncIterator[Whole]:
    runner = web.AppRunner(provider := web.Application())
    provider.router.add_post("/v1/chat/completions", complete)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    key = secrets.token_hex(16)
    (state.root / "key").write_text(key)
    (state.root / "key").chmod(0o600)
    config = state.root / "choir.toml"
    config.write_text(
        "[hypervisor]\nport = 0\n[providers.local]\nenabled = false\n"
        f'[providers.openai]\nbase_url = "http://127.0.0.1:{port}/v1"\nkey = "file:{state.root}/key"\n'
    )
    gateway = await start_gateway(configuration.load(config), state, {}, log=state.logs / "gateway.log")
    try:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
            here = Whole(state, config, key, gateway, gateway, {}, client, environment or {})
            await here.start_hypervisor()
            try:
                yield here
            finally:
                await asyncio.to_thread(here.hypervisor.stop, 10.0)
    finally:
        await asyncio.to_thread(here.gateway.stop)
        await runner.cleanup()


def run(
    state: State, test: Callable[[Whole], Coroutine[Any, Any, None]], environment: dict[str, str] | None = None
) -> None:
    async def main() -> None:
        async with whole(state, environment) as here:
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 60))


def prompt_socket(here: Whole, url: str, cookie: str) -> Any:
    host = urlsplit(url).netloc
    return here.client.ws_connect(
        f"http://127.0.0.1:{here.port}/api/desktop", headers={"Host": host, "Cookie": cookie}, origin=url
    )


async def answered(socket: aiohttp.ClientWebSocketResponse, text: str) -> str:
    """What is said to a prompt on an open desktop."""
    await socket.send_json({"type": "prompt", "text": text})
    said = ""
    while True:
        message = await socket.receive_json()
        assert message["type"] != "refused", message
        for event in message.get("events", ()):
            assert event["kind"] != "run_failed", event
            if event["kind"] == "run_text":
                said += event["data"]["text"]
            elif event["kind"] == "run_finished":
                return said


def test_a_prompt_is_answered_and_recorded(state: State) -> None:
    async def test(here: Whole) -> None:
        assert here.answer["login_url"].startswith(f"{here.url}/login?once=")
        assert {"name": "openai", "enabled": True, "reason": ""} in here.answer["providers"]
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "ready", sandbox
        cookie = await here.enter()
        async with here.get(sandbox["url"] + "/", cookie) as answer:
            assert answer.status == 200
            assert "Prompt" in await answer.text()
        async with prompt_socket(here, sandbox["url"], cookie) as socket:
            assert (await socket.receive_json())["type"] == "hello"
            assert await answered(socket, "What is the capital of France?") == "".join(ANSWER)
        while True:
            async with here.get(sandbox["url"] + "/.choir/usage", cookie) as answer:
                records = (await answer.json())["records"]
            if records:
                break
            await asyncio.sleep(0.02)
        (record,) = records
        assert (record["provider"], record["status"], record["outcome"]) == ("openai", 200, "ok")
        assert (record["sandbox_id"], record["user_id"]) == (sandbox["id"], "ada")
        assert (record["input_tokens"], record["output_tokens"]) == (12, 7)
        environ = Path(f"/proc/{here.hypervisor.pid}/environ").read_bytes()
        assert environ == b""
        for file in (*state.logs.iterdir(), state.registry):
            assert here.key.encode() not in file.read_bytes()

    run(state, test)


def test_a_credential_in_the_home_is_named_and_kept(state: State) -> None:
    value = "AKIA" + secrets.token_hex(8).upper()
    (state.homes / "ada-1" / ".aws").mkdir(parents=True)
    (state.homes / "ada-1" / ".aws" / "credentials").write_text(f"[default]\naws_access_key_id = {value}\n")

    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "failed"
        assert sandbox["reason"].startswith("credential_")
        assert ".aws/credentials" in sandbox["message"]
        assert value not in json.dumps(sandbox)
        hub = await here.sign_in()
        async with here.get(f"{here.url}/desk/live", hub) as answer:
            page = await answer.text()
        assert ".aws/credentials" in page
        assert value not in page

    run(state, test)


def test_a_forwarded_credential_is_named(state: State) -> None:
    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "failed"
        assert "SOME_API_KEY" in sandbox["message"]
        assert here.environment["SOME_API_KEY"] not in json.dumps(sandbox)

    run(state, test, {"SOME_API_KEY": "sk-proj-" + secrets.token_hex(24)})


def test_a_killed_hypervisor_finds_its_sandbox_again(state: State) -> None:
    async def test(here: Whole) -> None:
        before = (await here.ask("start"))["sandbox"]
        assert before["state"] == "ready"
        cookie = await here.enter()
        os.kill(here.hypervisor.pid, signal.SIGKILL)
        await here.hypervisor.ended()
        here.hypervisor.channel.close()
        await here.start_hypervisor()
        (after,) = (await here.ask("list"))["sandboxes"]
        assert (after["id"], after["state"]) == (before["id"], "ready")
        url = after["url"]
        cookie = f"choir-{here.port}={cookie.partition('=')[2]}"  # another port, the same session
        async with here.get(url + "/", cookie) as answer:
            assert answer.status == 200
        async with prompt_socket(here, url, cookie) as socket:
            assert await answered(socket, "again")

    run(state, test)


@pytest.mark.parametrize("after", ["keeper", "keyless", "ready"])
def test_a_progress_stream_ends_well_across_a_killed_hypervisor(state: State, after: str) -> None:
    async def test(here: Whole) -> None:
        hub = await here.sign_in()
        async with here.get(f"{here.url}/", hub) as answer:
            assert answer.status == 303  # it has begun
        seen: list[tuple[str, str]] = []
        with contextlib.suppress(aiohttp.ClientError):
            async with here.get(f"{here.url}/desk/live/events", hub) as answer:
                async for block in blocks(answer):
                    seen.append((block["id"], block["event"]))
                    if block["event"] == after or (after != "ready" and after in block["data"]):
                        break
        os.kill(here.hypervisor.pid, signal.SIGKILL)
        await here.hypervisor.ended()
        here.hypervisor.channel.close()
        await here.start_hypervisor()
        hub = f"choir-{here.port}={hub.partition('=')[2]}"
        headers = {"Last-Event-ID": seen[-1][0]}
        async with here.get(f"{here.url}/desk/live/events", hub, **headers) as answer:
            assert answer.status == 200
            again = [(block["id"], block["event"]) async for block in blocks(answer)]
        assert again[-1][1] in ("ready", "failed")
        if after == "ready":
            assert again == [seen[-1]]  # said again to whoever asks again
        else:
            ids = [int(number.rpartition("-")[2]) for number, _ in seen + again]
            assert ids == list(range(1, len(ids) + 1))
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "ready", sandbox

    run(state, test)


async def blocks(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """The events of a stream, field by field."""
    fields: dict[str, str] = {}
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
            continue
        if "event" in fields:
            yield fields
        fields = {}


def test_a_terminated_hypervisor_ends_in_order(state: State) -> None:
    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "ready"
        cookie = await here.enter()
        async with (
            here.get(sandbox["url"] + "/.choir/events", cookie) as answer,
            prompt_socket(here, sandbox["url"], cookie) as socket,
        ):
            assert answer.status == 200
            await socket.receive_json()
            os.kill(here.hypervisor.pid, signal.SIGTERM)
            while not socket.closed:
                await socket.receive()
            assert await here.hypervisor.ended() == 0
        assert list(state.run.glob("*.keeper")) == []
        log = (state.logs / "hypervisor.log").read_text()
        assert all(line.startswith("{") for line in log.splitlines()), log

    run(state, test)


def test_a_gateway_that_came_back_answers_running_sandboxes(state: State) -> None:
    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        cookie = await here.enter()
        os.kill(here.gateway.pid, signal.SIGKILL)
        await here.gateway.ended()
        here.gateway.channel.close()
        here.gateway = await start_gateway(configuration.load(here.config), state, {}, log=state.logs / "gateway.log")
        async with prompt_socket(here, sandbox["url"], cookie) as socket:
            assert await answered(socket, "again")

    run(state, test)


def test_stopping_the_hypervisor_leaves_no_process(state: State) -> None:
    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        assert sandbox["state"] == "ready"
        await asyncio.to_thread(here.hypervisor.stop, 10.0)
        needle = sandbox["id"].encode()
        assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and needle in environ_of(pid)]
        assert list(state.run.glob("*.keeper")) == []

    run(state, test)


def environ_of(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(StartError) as caught:
        listen_tcp("127.0.0.1", other.getsockname()[1])
    assert caught.value.reason == "port_in_use"
    assert "--port" in caught.value.hint


def test_an_address_of_another_machine_is_said_so() -> None:
    with pytest.raises(StartError) as caught:
        listen_tcp("192.0.2.1", 0)
    assert caught.value.reason == "address_unusable"


def test_the_reason_of_a_failed_start_reaches_the_parent(state: State) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            config = state.root / "choir.toml"
            config.write_text(f"[hypervisor]\nport = {other.getsockname()[1]}\n")
            hypervisor = Service.spawn("hypervisor", "choir.hypervisor.main", log=state.logs / "hypervisor.log")
            with pytest.raises(StartError) as caught:
                await hypervisor.start(start_message(state, config, {}))
        assert caught.value.reason == "port_in_use"

    asyncio.run(main())


def test_the_web_server_sleeps_while_nobody_asks() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    async def main() -> None:
        server = WebServer(uvicorn.Config(answer, lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve([listen_tcp("127.0.0.1", 0)]))
        while not server.started:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in timers if not timer.cancelled()] == []
        server.should_exit = True
        await serving

    asyncio.run(main())
