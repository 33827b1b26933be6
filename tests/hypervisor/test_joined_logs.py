"""One call is found in all three: the sandbox's record of its run, the gateway's usage record, the hypervisor's log;
and no secret is in any of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from typing import Any

import aiohttp

from choir import tokens
from choir.channel import ChannelClosed
from choir.paths import State
from choir.storage.ledger import Ledger

from .test_main import Whole, prompt_socket, run


def lines(state: State, name: str) -> list[dict[str, Any]]:
    """The JSON lines of a log; every line of it must be one."""
    return [json.loads(line) for line in (state.logs / name).read_text().splitlines()]


async def run_of(socket: aiohttp.ClientWebSocketResponse, text: str) -> list[dict[str, Any]]:
    """The events of the run that ``text`` began, to its end."""
    await socket.send_json({"type": "prompt", "text": text})
    found: list[dict[str, Any]] = []
    while not found or found[-1]["kind"] not in ("run_finished", "run_failed"):
        message = await socket.receive_json()
        found += message.get("events", ())
    return found


def test_one_call_is_found_in_all_three(state: State) -> None:
    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        cookie = await here.enter()
        async with prompt_socket(here, sandbox["url"], cookie) as socket:
            events = await run_of(socket, "Hello")
        (usage,) = [event["data"] for event in events if event["kind"] == "usage"]
        (request_id,) = usage["request_ids"]
        ledger = Ledger(state.ledger)
        while not (records := await asyncio.to_thread(ledger.query, sandbox_id=sandbox["id"], limit=5)):
            await asyncio.sleep(0.02)
        assert [record.request_id for record in records] == [request_id]
        (told,) = [entry for entry in lines(state, "gateway.log") if entry.get("request_id") == request_id]
        assert told["sandbox_id"] == sandbox["id"]
        states = [entry for entry in lines(state, "hypervisor.log") if entry.get("sandbox_id") == sandbox["id"]]
        assert [entry["state"] for entry in states if entry["event"] == "sandbox"] == ["starting", "ready"]
        assert {entry["service"] for entry in states} == {"hypervisor"}

    run(state, test)


def test_secrets_in_every_field_reach_no_sink(state: State) -> None:
    """Not key-shaped, so that nothing but not writing them down helps; and key-shaped ones."""
    plain, shaped = secrets.token_hex(20), f"sk-ant-{secrets.token_hex(24)}"
    token = tokens.sign(secrets.token_bytes(32), "01somebody")
    words = [plain, shaped, token]

    async def test(here: Whole) -> None:
        sandbox = (await here.ask("start"))["sandbox"]
        cookie = await here.enter()
        for word in words:
            for path in (f"/login?once={word}", f"/join?once={word}", f"/{word}?a={word}", f"/desk/{word}"):
                async with here.get(here.url + path, f"a={word}", **{"x-key": word, "authorization": word}) as answer:
                    await answer.read()
            for path in ("/login/code", "/login/passkey", "/join", "/login/passkey/options", f"/api/{word}"):
                for body in (
                    json.dumps({"code": word, "id": word, "response": {"a": word}}),
                    f"once={word}&code={word}",
                ):
                    headers = {"Host": here.url.partition("//")[2], "Origin": here.url, "x-key": word}
                    async with here.client.post(
                        f"http://127.0.0.1:{here.port}{path}", data=body, headers=headers, allow_redirects=False
                    ) as reply:
                        await reply.read()
            for op in (word, "start", "logs", "login_link", "restore", "invite", "revoke", "run"):
                with contextlib.suppress(ChannelClosed):
                    await here.ask(op, user=word, id=word, snapshot=word, session=word, name=word, command=[word])
            async with prompt_socket(here, sandbox["url"], cookie) as socket:
                await run_of(socket, f"Keep this to yourself: {word}")
                for message in ({"type": word}, {"type": "window", "op": word, "app": word}, word):
                    await socket.send_json(message)
                await run_of(socket, "and again")
        await asyncio.to_thread(here.hypervisor.stop, 10.0)
        await asyncio.to_thread(here.gateway.stop)
        for path in (*state.logs.iterdir(), state.ledger, state.journal):
            if path.exists():
                data = path.read_bytes()
                assert [word for word in words if word.encode() in data] == [], path.name
        assert {entry["service"] for entry in lines(state, "hypervisor.log")} == {"hypervisor"}

    run(state, test)
