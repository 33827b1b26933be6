"""Routes of both origins over a real server: sign-in, start, progress, entering, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from aiohttp import web

from choir.contract import UsageRecord
from choir.hypervisor import hub as hub_module
from choir.hypervisor import progress
from choir.paths import State

from .fakes import (
    BadExit,
    Deployment,
    FakeBackend,
    FakeGateway,
    NeverReady,
    RefusesToSpawn,
    SlowSpawn,
    SlowStop,
    deployed,
    desktop_server,
    exited,
)

PAGE = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def run(
    state: State, backend: Callable[..., FakeBackend], test: Callable[[Deployment], Coroutine[Any, Any, None]]
) -> None:
    async def hello(request: web.Request) -> web.StreamResponse:
        return web.Response(text="the desktop")

    async def main() -> None:
        async with desktop_server(state, {"/": hello}) as path, deployed(state, backend(desktop=path)) as here:
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 30))


async def events(answer: Any) -> list[tuple[str, str, Any]]:
    """(id, event, data) of a finished stream."""
    blocks = (await answer.text()).split("\n\n")
    fields = [dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")) for block in blocks]
    return [(each["id"], each["event"], json.loads(each["data"])) for each in fields if "event" in each]


# Signing in.


def test_the_link_opens_once(state: State) -> None:
    async def test(here: Deployment) -> None:
        path = here.login.new_link("ada", "")
        for method in ("HEAD", "GET", "GET"):  # a mail scanner's look does not use it up
            async with here.ask(method, path) as answer:
                assert answer.status == 200
                assert "Set-Cookie" not in answer.headers
                assert method == "HEAD" or "Sign in as ada" in await answer.text()
        form = {"once": path.partition("once=")[2]}
        async with here.ask("POST", "/login", data=form, headers={"Origin": "https://evil.example"}) as answer:
            assert answer.status == 403
        async with here.ask("POST", "/login", data=form, headers={"Origin": here.url}) as answer:
            # No redirect: the content policy's form-action would end it at the sandbox's origin.
            assert (answer.status, answer.headers["Refresh"]) == (200, "0; url=/")
            cookie = answer.headers["Set-Cookie"]
            assert "; HttpOnly; SameSite=Lax" in cookie
            assert "Path=/" in cookie
            assert "Domain" not in cookie
        async with here.ask("GET", path, headers=PAGE) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers
            assert "no longer works" in await answer.text()
        async with here.ask("POST", "/login", data=form, headers={"Origin": here.url}) as answer:
            assert answer.status == 401
            assert "Set-Cookie" not in answer.headers
        async with here.ask("GET", "/desk/live", headers={"Cookie": cookie.split(";")[0]}) as answer:
            assert answer.status == 200

    run(state, FakeBackend, test)


def test_a_used_link_is_forgiven_to_who_is_signed_in(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/login?once=used", cookie=here.hub_cookie()) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")

    run(state, FakeBackend, test)


def test_a_link_for_another_person_says_whom_it_signs_out(state: State) -> None:
    async def test(here: Deployment) -> None:
        here.people.add_user("ben", False, 1.0)
        path, mine = here.login.new_link("ben", ""), here.hub_cookie()
        own = here.login.new_link("ada", "")
        async with here.ask("GET", own, cookie=mine) as answer:  # who is in already goes on
            assert (answer.status, answer.headers["Location"]) == (303, "/")
        async with here.ask("GET", path, cookie=mine) as answer:
            text = await answer.text()
        assert "signed in as <b>ada</b>" in text
        assert "Sign in as ben" in text
        form = {"once": path.partition("once=")[2]}
        async with here.ask("POST", "/login", cookie=mine, data=form, headers={"Origin": here.url}) as answer:
            assert answer.status == 200
        assert {each.user for each in here.sessions.listed()} == {"ben"}

    run(state, FakeBackend, test)


@pytest.mark.parametrize("path", ["/", "/desk/live", "/desk/live/enter"])
def test_without_a_session_a_page_says_so_and_nothing_starts(state: State, path: str) -> None:
    async def test(here: Deployment) -> None:
        for cookie in ("", "made-up", here.desk_cookie()):
            async with here.ask("GET", path, cookie=cookie, headers=PAGE) as answer:
                assert answer.status == 401
                assert "Sign in" in await answer.text()
        assert here.backend.specs == []

    run(state, FakeBackend, test)


def test_signing_out_ends_the_session_everywhere(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        hub = here.hub_cookie()
        desk = here.desk_cookie(hub)
        async with here.ask("POST", "/logout", cookie=hub, headers={"Origin": here.url}) as answer:
            assert "Max-Age=0" in answer.headers["Set-Cookie"]
        async with here.ask("GET", "/desk/live", cookie=hub) as answer:
            assert answer.status == 401
        async with here.ask("GET", "/", host=here.desk_host, cookie=desk) as answer:
            assert answer.status == 401

    run(state, FakeBackend, test)


# From the link to the desktop.


def test_the_whole_way_in(state: State) -> None:
    async def test(here: Deployment) -> None:
        hub = here.hub_cookie()
        async with here.ask("GET", "/", cookie=hub, headers=PAGE) as answer:
            there = urlsplit(answer.headers["Location"])
            assert answer.status == 303
            assert f"{there.scheme}://{there.netloc}" == here.desk_origin
            assert there.path == "/.choir/enter"
        assert here.sandbox.status.state == "ready"
        enter = f"{there.path}?{there.query}"
        async with here.ask("GET", enter, host=here.desk_host, headers=PAGE) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            cookie = answer.headers["Set-Cookie"].split(";")[0]
        async with here.ask("GET", enter, host=here.desk_host, headers=PAGE) as answer:
            assert answer.status == 403  # once
        async with here.ask("GET", "/", host=here.desk_host, headers={"Cookie": cookie}) as answer:
            assert await answer.text() == "the desktop"
        async with here.ask("GET", "/desk/live", headers={"Cookie": cookie}) as answer:
            assert answer.status == 401  # a sandbox's cookie opens nothing of the hypervisor's

    run(state, FakeBackend, test)


def test_a_start_that_takes_longer_is_watched_on_a_page(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "PROMPT_SECONDS", 0.01)

    async def test(here: Deployment) -> None:
        hub = here.hub_cookie()
        for path in ("/", "/desk/live/open", "/desk/live/enter"):
            async with here.ask("GET", path, cookie=hub, headers=PAGE) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/desk/live?opening")
        async with here.ask("GET", "/desk/live?opening", cookie=hub, headers=PAGE) as answer:
            assert answer.status == 200
        here.backend.go.set()
        assert (await here.sandbox.settled(5)).state == "ready"
        async with here.ask("GET", "/desk/live?opening", cookie=hub, headers=PAGE) as answer:
            # No redirect: it may be the end of a form's, which may not lead to another origin.
            assert (answer.status, answer.headers["Refresh"]) == (200, "0; url=/desk/live/enter")
        async with here.ask("GET", "/desk/live/enter", cookie=hub, headers=PAGE) as answer:
            assert answer.headers["Location"].startswith(f"{here.desk_origin}/.choir/enter?ticket=")

    run(state, SlowSpawn, test)


def test_a_ticket_is_for_one_origin(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        async with here.ask("GET", "/desk/live/enter", cookie=here.hub_cookie()) as answer:
            there = urlsplit(answer.headers["Location"])
        other = f"eve-live.localhost:{here.port}"
        async with here.ask("GET", f"{there.path}?{there.query}", host=other) as answer:
            assert answer.status == 403
            assert "Set-Cookie" not in answer.headers

    run(state, FakeBackend, test)


def test_a_navigation_without_the_origins_cookie_is_sent_through_the_hub(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        async with here.ask("GET", "/", host=here.desk_host, headers=PAGE) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, f"{here.url}/desk/live/enter")
        async with here.ask("GET", "/api", host=here.desk_host) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["reason"] == "signed_out"

    run(state, FakeBackend, test)


# Progress and failure.


def test_progress_replays_and_ends_with_ready(state: State) -> None:
    async def test(here: Deployment) -> None:
        hub = here.hub_cookie()
        async with here.ask("GET", "/", cookie=hub):
            pass
        async with here.ask("GET", "/desk/live", cookie=hub) as answer:
            page = await answer.text()
            assert "Starting your desktop" in page
            assert 'http-equiv="refresh"' in page
        async with here.ask("GET", "/desk/live/events", cookie=hub) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.headers["X-Accel-Buffering"] == "no"
            here.backend.go.set()
            got = await events(answer)
        assert [each[1] for each in got] == ["phase"] * 6 + ["ready"]
        async with here.ask("GET", "/desk/live/events", cookie=hub, headers={"Last-Event-ID": got[3][0]}) as answer:
            assert await events(answer) == got[4:]

    run(state, SlowSpawn, test)


def test_the_stream_is_kept_alive(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "KEEPALIVE_SECONDS", 0.02)

    async def test(here: Deployment) -> None:
        hub = here.hub_cookie()
        here.supervisor.start(here.sandbox)
        async with here.ask("GET", "/desk/live/events", cookie=hub) as answer:
            assert (await answer.content.readuntil(b"\n\n")) == progress.OPENING
            assert (await answer.content.readuntil(b"\n\n")) == progress.KEEPALIVE

    run(state, SlowSpawn, test)


def test_the_stream_answers_200_to_anyone(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/desk/live/events") as answer:
            assert answer.status == 200
            assert [each[1] for each in await events(answer)] == ["signed_out"]
        async with here.ask("GET", "/desk/live/events", cookie=here.hub_cookie()) as answer:
            assert [each[1] for each in await events(answer)] == ["absent"]

    run(state, FakeBackend, test)


def test_a_failure_is_shown_to_a_page_opened_later_and_never_respawned(state: State) -> None:
    async def test(here: Deployment) -> None:
        hub = here.hub_cookie()
        async with here.ask("GET", "/", cookie=hub):
            pass
        await here.sandbox.settled(5)
        for _ in range(3):  # polling changes nothing
            async with here.ask("GET", "/", cookie=hub, headers=PAGE) as answer:
                assert answer.headers["Location"] == "/desk/live?opening"
            async with here.ask("GET", "/desk/live/enter", cookie=hub, headers=PAGE) as answer:
                assert answer.headers["Location"] == "/desk/live?opening"
            async with here.ask("GET", "/desk/live", cookie=hub, headers=PAGE) as answer:
                page = await answer.text()
            for words in (
                "did not start",
                "MY_API_KEY",
                "Do not forward it.",
                "credential_in_environment",
                "last line",
                "Start again",
            ):
                assert words in page
        async with here.ask("GET", "/desk/live/events", cookie=hub) as answer:
            assert (await events(answer))[-1][1:] == (
                "failed",
                {
                    "reason": "credential_in_environment",
                    "message": "The variable MY_API_KEY holds a credential.",
                    "hint": "Do not forward it.",
                    "exit": 77,
                    "signal": None,
                    "log_tail": "first line\nlast line\n",
                },
            )
        assert len(here.backend.specs) == 1
        async with here.ask("POST", "/desk/live/start", cookie=hub, headers={"Origin": here.url}) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/desk/live?opening")
        assert len(here.backend.specs) + (here.sandbox.status.state == "starting") >= 2

    run(state, BadExit, test)


def test_a_failure_is_shown_after_a_restart_of_the_hypervisor(state: State) -> None:
    async def main() -> None:
        async with deployed(state, RefusesToSpawn()) as here:
            here.supervisor.start(here.sandbox)
            await here.sandbox.settled(5)
        async with deployed(state, RefusesToSpawn()) as here:
            async with here.ask("GET", "/desk/live", cookie=here.hub_cookie()) as answer:
                assert "user_namespaces_unavailable" in await answer.text()
            assert here.backend.specs == []

    asyncio.run(main())


def test_what_a_sandbox_says_is_never_markup(state: State) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        here.backend.spawned[0].publish(
            exited(1, reason="<i>", message="<script>1</script>", hint="<b>", log_tail="</pre><script>")
        )
        while sandbox.status.state != "failed":
            await sandbox.watch.after(sandbox.watch.version, 1)
        async with here.ask("GET", "/desk/live", cookie=here.hub_cookie()) as answer:
            page = await answer.text()
        assert "<script>1" not in page
        assert "</pre><script>" not in page
        assert "<b>" not in page
        assert "&lt;script&gt;1" in page

    run(state, FakeBackend, test)


def test_a_storm_is_answered_429(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choir.hypervisor.admission.admit.__defaults__", (0,))

    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/", cookie=here.hub_cookie()) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0

    run(state, FakeBackend, test)


def test_stop_and_start_again(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        hub, post = here.hub_cookie(), {"Origin": here.url}
        async with here.ask("POST", "/desk/live/stop", cookie=hub, headers=post) as answer:
            assert answer.headers["Location"] == "/desk/live"
        async with here.ask("GET", "/desk/live", cookie=hub) as answer:
            assert "Stopping your sandbox" in await answer.text()
        async with here.ask("POST", "/desk/live/start", cookie=hub, headers=post) as answer:
            assert answer.status == 409
        here.backend.killed.set()
        await here.sandbox.settled(5)
        async with here.ask("GET", "/desk/live", cookie=hub) as answer:
            assert "Your sandbox is stopped" in await answer.text()
        async with here.ask("POST", "/desk/live/start", cookie=hub, headers=post):
            pass
        assert (await here.sandbox.settled(5)).state == "ready"

    run(state, SlowStop, test)


# A dead sandbox behind a live tab.


def test_a_dead_sandbox_says_so_and_polling_does_not_bring_it_back(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choir.hypervisor.restart.BACK_OFF", (1000.0,))

    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        cookie = here.desk_cookie()
        here.backend.spawned[0].publish(exited(1, reason="out_of_memory", message="Out of memory.", hint="Less."))
        while sandbox.status.state != "failed":
            await sandbox.watch.after(sandbox.watch.version, 1)
        for _ in range(3):
            async with here.ask("GET", "/api", host=here.desk_host, cookie=cookie) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
                error = (await answer.json())["error"]
            assert (error["reason"], error["message"], error["hint"], error["state"]) == (
                "out_of_memory",
                "Out of memory.",
                "Less.",
                "failed",
            )
            async with here.ask("GET", "/", host=here.desk_host, cookie=cookie, headers=PAGE) as answer:
                assert answer.status == 503
                page = await answer.text()
            assert "Out of memory." in page
            assert f"{here.url}/desk/live" in page
        async with here.ask("GET", "/.choir/state", host=here.desk_host, cookie=cookie) as answer:
            assert (await answer.json())["reason"] == "out_of_memory"
        async with here.ask("GET", "/desk/live", cookie=here.hub_cookie()) as answer:
            page = await answer.text()
        assert "It is started again in a moment." in page
        assert 'action="/desk/live/stop"' in page
        assert len(here.backend.specs) == 1

    run(state, FakeBackend, test)


def test_one_that_was_stopped_for_idleness_comes_back_with_a_visit(state: State) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        cookie = here.desk_cookie()
        here.supervisor.stop(sandbox, "It was stopped after 30 minutes without work.")
        await sandbox.settled(5)
        async with here.ask("GET", "/api", host=here.desk_host, cookie=cookie) as answer:
            assert answer.status == 503  # a script is no visit
        async with here.ask("GET", "/desk/live", cookie=here.hub_cookie()) as answer:
            assert "without work" in await answer.text()
        assert sandbox.status.state == "stopped"
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie, headers=PAGE) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, f"{here.url}/desk/live/open")
        async with here.ask("GET", "/desk/live/open", cookie=here.hub_cookie()) as answer:
            assert answer.status == 303
            assert answer.headers["Location"].startswith(f"{here.desk_origin}/.choir/enter?ticket=")
        assert sandbox.status.state == "ready"
        here.supervisor.stop(sandbox)  # by the person: it stays so
        await sandbox.settled(5)
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie, headers=PAGE) as answer:
            assert answer.status == 503

    run(state, FakeBackend, test)


def test_what_a_person_sends_is_a_sign_of_work_and_looking_is_not(state: State) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        cookie = here.desk_cookie()
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie) as answer:
            assert answer.status == 200
        assert sandbox.last_input == 0
        async with here.ask("GET", "/", host=here.desk_host, cookie=cookie, headers=PAGE):
            pass
        assert sandbox.last_input > 0
        sandbox.last_input = 0
        headers = {"Origin": here.desk_origin}
        async with here.ask("POST", "/", host=here.desk_host, cookie=cookie, headers=headers, data=b"x"):
            pass
        assert sandbox.last_input > 0

    run(state, FakeBackend, test)


def test_dev_is_a_sandbox_of_its_own_and_can_be_made_live(state: State) -> None:
    async def test(here: Deployment) -> None:
        live, hub, post = await here.ready(), here.hub_cookie(), {"Origin": here.url}
        async with here.ask("GET", "/desk/live", cookie=hub) as answer:
            assert 'href="/desk/dev"' in await answer.text()
        async with here.ask("POST", "/desk/dev/start", cookie=hub, headers=post):
            pass
        dev = here.supervisor.seat("ada", "dev")
        assert (await dev.settled(5)).state == "ready"
        homes = (live.home, dev.home)
        async with here.ask("GET", "/desk/dev", cookie=hub) as answer:
            assert 'action="/swap"' in await answer.text()
        async with here.ask("POST", "/swap", headers=post) as answer:
            assert answer.status == 401
        async with here.ask("POST", "/swap", cookie=hub, headers=post) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/desk/live")
        assert (dev.home, live.home) == homes
        async with here.ask("GET", "/desk/nothing", cookie=hub) as answer:
            assert answer.status == 404

    run(state, FakeBackend, test)


def test_restart_from_the_page(state: State) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        before = sandbox.status.sandbox_id
        path, headers = "/desk/live/restart", {"Origin": here.url}
        async with here.ask("POST", path, cookie=here.hub_cookie(), headers=headers) as answer:
            assert answer.headers["Location"] == "/desk/live?opening"
        assert (await sandbox.settled(5)).sandbox_id != before
        sandbox.occupied = "It is being copied."
        async with here.ask("POST", path, cookie=here.hub_cookie(), headers=headers) as answer:
            assert answer.status == 409
            assert "It is being copied." in await answer.text()

    run(state, FakeBackend, test)


def test_a_navigation_to_a_starting_sandbox_goes_to_its_progress(state: State) -> None:
    async def test(here: Deployment) -> None:
        here.supervisor.start(here.sandbox)
        async with here.ask("GET", "/", host=here.desk_host, cookie=here.desk_cookie(), headers=PAGE) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, f"{here.url}/desk/live")

    run(state, NeverReady, test)


# The hypervisor's own paths on a sandbox's origin.


def record(sandbox_id: str, number: int) -> UsageRecord:
    return UsageRecord(
        ts="2026-01-01T00:00:00.000Z",
        request_id=f"r{number}",
        sandbox_id=sandbox_id,
        user_id="ada",
        provider="local",
        model="m",
        route="POST /x",
        status=200,
        outcome="ok",
        latency_ms=1.5,
    )


def test_usage_is_this_sandboxs_and_for_who_is_signed_in(state: State) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        here.usage += [record(sandbox.status.sandbox_id, 2), record("another", 9), record(sandbox.status.sandbox_id, 1)]
        async with here.ask("GET", "/.choir/usage", host=here.desk_host) as answer:
            assert answer.status == 401
        cookie = here.desk_cookie()
        async with here.ask("GET", "/.choir/usage", host=here.desk_host, cookie=cookie) as answer:
            records = (await answer.json())["records"]
        assert [each["request_id"] for each in records] == ["r2", "r1"]
        assert records[0]["input_tokens"] is None
        async with here.ask("GET", "/.choir/usage?limit=1", host=here.desk_host, cookie=cookie) as answer:
            assert len((await answer.json())["records"]) == 1

    run(state, FakeBackend, test)


async def next_event(answer: Any) -> tuple[str, Any]:
    """(event, data) of the next one on a stream."""
    fields: dict[str, str] = {}
    async for line in answer.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        fields[name] = value
        if not name and "event" in fields:
            return fields["event"], json.loads(fields["data"])
    return "end", None


def test_records_are_pushed_as_they_come(state: State) -> None:
    gateway = FakeGateway()

    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        while ("subscribe", "") not in gateway.log:
            await asyncio.sleep(0)
        hub = here.hub_cookie()
        cookie = here.desk_cookie(hub)
        async with here.ask("GET", "/.choir/events", host=here.desk_host) as answer:
            assert answer.status == 401
        for end in ("stopped", "signed out"):
            async with here.ask("GET", "/.choir/events", host=here.desk_host, cookie=cookie) as answer:
                assert answer.headers["Content-Type"].startswith("text/event-stream")
                await answer.content.readuntil(b"\n\n")
                for other, number in (("another", 9), (sandbox.status.sandbox_id, 1), (sandbox.status.sandbox_id, 2)):
                    gateway.say({"event": "usage", "record": msgspec.to_builtins(record(other, number))})
                for number in (1, 2):
                    kind, data = await next_event(answer)
                    assert (kind, data["request_id"], data["input_tokens"]) == ("usage", f"r{number}", None)
                if end == "stopped":
                    here.supervisor.stop(sandbox)
                    assert await next_event(answer) == ("state", {"state": "stopping"})
                    await sandbox.ended()
                    await here.ready()
                else:
                    here.sessions.end(here.sessions.find(here.cookie(hub), "").hash)  # type: ignore[union-attr]
                    assert await next_event(answer) == ("state", {"state": "ready"})
                assert await next_event(answer) == ("end", None)
        assert sandbox.last_input == 0

    async def main() -> None:
        async with deployed(state, FakeBackend(), gateway=gateway) as here:
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_sandbox_is_not_asked_for_paths_of_ours(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        for path in ("/.choir/nothing", "/%2echoir/nothing", "/.choir/"):
            async with here.ask("GET", path, host=here.desk_host, cookie=here.desk_cookie()) as answer:
                assert answer.status == 404
                assert await answer.text() != "the desktop"

    run(state, FakeBackend, test)


def test_static_files_are_there_on_both_origins(state: State) -> None:
    async def test(here: Deployment) -> None:
        for file in hub_module.STATIC.iterdir():
            async with here.ask("GET", f"/static/{file.name}") as answer:
                assert answer.status == 200
            async with here.ask("GET", f"/.choir/static/{file.name}", host=here.desk_host) as answer:
                assert answer.status == 200

    run(state, FakeBackend, test)


# What is refused.


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7000",
        "localhost",
        "127.0.0.1:1",
        "a.b.localhost:{port}",
        "localhost.evil.example:{port}",
    ],
)
def test_another_host_is_refused(state: State, host: str) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/", host=host.format(port=here.port), cookie=here.hub_cookie()) as answer:
            assert answer.status == 421

    run(state, FakeBackend, test)


def test_the_address_is_sent_to_the_name(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with here.ask("GET", "/login?once=x", host=f"127.0.0.1:{here.port}") as answer:
            assert (answer.status, answer.headers["Location"]) == (307, f"{here.url}/login?once=x")
        async with here.ask("POST", "/logout", host=f"127.0.0.1:{here.port}") as answer:
            assert answer.status == 421

    run(state, FakeBackend, test)


CROSS = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {},
    {"Origin": "desk"},
]


@pytest.mark.parametrize("headers", CROSS)
def test_a_post_from_elsewhere_is_refused(state: State, headers: dict[str, str]) -> None:
    async def test(here: Deployment) -> None:
        sandbox = await here.ready()
        given = {name: here.desk_origin if value == "desk" else value for name, value in headers.items()}
        for path in ("/desk/live/stop", "/desk/live/start", "/logout"):
            async with here.ask("POST", path, cookie=here.hub_cookie(), headers=given) as answer:
                assert answer.status == 403
        assert sandbox.status.state == "ready"
        given = {name: here.url if value == "desk" else value for name, value in headers.items()}
        async with here.ask("POST", "/", host=here.desk_host, cookie=here.desk_cookie(), headers=given) as answer:
            assert answer.status == 403
            assert await answer.text() != "the desktop"

    run(state, FakeBackend, test)


def test_another_sites_fetch_of_the_desktop_is_refused(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
            async with here.ask("GET", "/", host=here.desk_host, cookie=here.desk_cookie(), headers=headers) as answer:
                assert answer.status == 403

    run(state, FakeBackend, test)


def test_no_service_worker(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        headers = {"Service-Worker": "script"}
        async with here.ask("GET", "/", host=here.desk_host, cookie=here.desk_cookie(), headers=headers) as answer:
            assert answer.status == 403

    run(state, FakeBackend, test)


def test_every_answer_is_hardened(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.ready()
        hub, desk = here.hub_cookie(), here.desk_cookie()
        for path, host, cookie in (
            ("/", "", ""),
            ("/desk/live", "", hub),
            ("/nothing", "", hub),
            ("/static/choir.css", "", ""),
            ("/", "evil.example", ""),
            ("/", here.desk_host, desk),
            ("/nothing", here.desk_host, desk),
            ("/.choir/state", here.desk_host, desk),
            ("/", here.desk_host, ""),
        ):
            async with here.ask("GET", path, host=host, cookie=cookie) as answer:
                csp = answer.headers.getall("Content-Security-Policy")
                assert len(csp) == 1
                assert "frame-ancestors 'none'" in csp[0]
                assert "unsafe" not in csp[0]
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Referrer-Policy"]
                assert "Server" not in answer.headers

    run(state, FakeBackend, test)


def test_the_end_of_a_session_ends_its_view_of_a_start(state: State) -> None:
    async def test(here: Deployment) -> None:
        cookie = here.hub_cookie()
        row = here.sessions.find(here.cookie(cookie), "")
        assert row is not None
        here.supervisor.start(here.sandbox)
        async with here.ask("GET", "/desk/live/events", cookie=cookie) as answer:
            await answer.content.readany()
            here.sessions.end(row.hash)
            assert (await events(answer))[-1][1] == "signed_out"

    run(state, NeverReady, test)


def test_two_hosts_are_refused(state: State) -> None:
    async def test(here: Deployment) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(f"GET /login HTTP/1.1\r\nHost: localhost:{here.port}\r\nHost: elsewhere.example\r\n\r\n".encode())
        assert b" 421 " in await reader.readline()
        writer.close()
        await writer.wait_closed()

    run(state, FakeBackend, test)
