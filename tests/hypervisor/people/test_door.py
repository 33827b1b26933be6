"""The ways in, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import WSMsgType, web

from choir.hypervisor.people.attempts import PER_ADDRESS
from choir.paths import State
from choir.storage.registry import SessionRow
from tests.hypervisor.fakes import USER, Deployment, FakeBackend, deployed, desktop_server

from .authenticator import Authenticator

Test = Callable[[Deployment], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with deployed(State(tmp_path / "state").prepare(), FakeBackend()) as here:
                await test(here)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def post(here: Deployment, path: str, cookie: str = "", **more: Any) -> Any:
    headers = {"Origin": here.url, **more.pop("headers", {})}
    return here.ask("POST", path, cookie=cookie, headers=headers, **more)


def cookie_of(answer: Any) -> str:
    return str(answer.headers["Set-Cookie"]).partition("=")[2].partition(";")[0]


async def page(here: Deployment, path: str, cookie: str) -> str:
    async with here.ask("GET", path, cookie=cookie) as answer:
        assert answer.status == 200
        return str(await answer.text())


def test_an_invitation_from_link_to_desktop(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        link = path_of(here.admin.invite(USER, "ben", False))
        for _ in range(2):  # looking does not use it up
            async with here.ask("GET", link) as answer:
                assert answer.status == 200
                text = await answer.text()
                assert "ben" in text
                assert USER in text
        secret = link.partition("once=")[2]
        async with here.ask("POST", "/join", data={"once": secret}) as answer:
            assert answer.status == 403  # no Origin
        async with post(here, "/join", data={"once": secret}) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/account?welcome=1")
            cookie = cookie_of(answer)
        assert "Add a passkey now" in await page(here, "/account?welcome=1", cookie)
        async with post(here, "/join", data={"once": secret}) as answer:
            assert answer.status == 401
        async with here.ask("GET", "/", cookie=cookie) as answer:
            assert "//ben-live.localhost" in answer.headers["Location"]
        assert {sandbox.user for sandbox in here.supervisor.sandboxes.values()} == {"ben"}
        assert [entry.act for entry in here.people.audit(9)] == ["joined", "invited"]

    run(test)


def test_a_passkey_from_making_to_use(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        mine = Authenticator(here.url)
        cookie = here.hub_cookie()
        async with post(here, "/account/passkeys/options", cookie, json={}) as answer:
            made = mine.create(await answer.text())
        async with post(here, "/account/passkeys", cookie, json={"credential": made, "name": "Key"}) as answer:
            assert (answer.status, await answer.json()) == (200, {"where": "/account"})
        async with post(here, "/login/passkey/options", json={}) as answer:
            got = mine.get(await answer.text())
        async with post(here, "/login/passkey", json=got) as answer:
            assert (answer.status, await answer.json()) == (200, {"where": "/"})
            fresh = cookie_of(answer)
        text = await page(here, "/account", fresh)
        assert "by a passkey, this browser" in text
        async with post(here, "/login/passkey", json=got) as answer:  # replayed
            assert (answer.status, (await answer.json())["error"]["reason"]) == (401, "passkey_refused")
            assert "Set-Cookie" not in answer.headers
        async with post(here, "/account/passkeys/remove", fresh, data={"id": made["id"]}) as answer:
            assert answer.status == 303
        async with post(here, "/login/passkey/options", json={}) as answer:
            got = mine.get(await answer.text())
        async with post(here, "/login/passkey", json=got) as answer:
            assert answer.status == 401

    run(test)


def test_recovery_codes(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        async with post(here, "/account/codes", here.hub_cookie()) as answer:
            codes = re.findall(r"[a-z0-9]{5}(?:-[a-z0-9]{5}){3}", await answer.text())
        assert len(codes) == 10
        async with post(here, "/login/code", data={"code": codes[0].upper()}) as answer:
            assert answer.headers["Location"] == "/account?welcome=1"
            assert "by a recovery code" in await page(here, "/account", cookie_of(answer))
        async with post(here, "/login/code", data={"code": codes[0]}) as answer:
            assert answer.status == 401
            assert "not known" in await answer.text()
        assert here.people.recovery_codes(USER) == 9

    run(test)


def test_attempts_are_counted(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        for _ in range(PER_ADDRESS):
            async with post(here, "/login/code", data={"code": "wrong"}) as answer:
                assert answer.status == 401
        for path, more in (
            ("/login/code", {"data": {"code": "wrong"}}),
            ("/login/passkey/options", {"json": {}}),
            ("/login/code", {"data": {}, "headers": {"X-Forwarded-For": "10.1.1.1"}}),  # nobody trusts this peer
        ):
            async with post(here, path, **more) as answer:
                assert answer.status == 429
                assert 0 < int(answer.headers["Retry-After"]) <= 61
        async with here.ask("GET", path_of(here.login.new_link(USER, here.url))) as answer:
            assert answer.status == 429
        assert "Your account" in await page(here, "/account", here.hub_cookie())  # who is in stays in

    run(test)


def test_sessions_are_listed_and_ended(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        here.people.add_user("ben", False, 1.0)
        mine, other, bens = here.hub_cookie(), here.hub_cookie(), here.sessions.begin("ben", browser="Ben's browser")
        text = await page(here, "/account", mine)
        ids = re.findall(r'action="/account/sessions/end"><input type="hidden" name="id" value="([0-9a-f]+)"', text)
        assert len(ids) == 2
        assert "Ben" not in text
        bens_row = here.sessions.find(here.cookie(bens), "")
        other_row = here.sessions.find(here.cookie(other), "")
        assert bens_row is not None
        assert other_row is not None
        for row in (bens_row, other_row):
            async with post(here, "/account/sessions/end", mine, data={"id": row.hash}) as answer:
                assert answer.status == 303
        assert here.sessions.find(here.cookie(bens), "") is not None  # another person's
        assert here.sessions.find(here.cookie(other), "") is None
        async with here.ask("GET", "/account", cookie=other) as answer:
            assert answer.status == 401

    run(test)


@pytest.mark.parametrize("way", ["account page", "command line", "signing out", "removal"])
def test_the_end_of_a_session_closes_its_open_sockets(tmp_path: Path, way: str) -> None:
    """A WebSocket to the sandbox, through the hypervisor; another person's stays open."""
    said: list[str] = []

    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            said.append(message.data)
            await socket.send_str(message.data)
        return socket

    async def open_desktop(here: Deployment, user: str) -> tuple[SessionRow, Any]:
        seat = here.supervisor.seat(user, "live")
        here.supervisor.start(seat)
        await seat.settled(10)
        hub = here.sessions.find(here.cookie(here.sessions.begin(user)), "")
        assert hub is not None
        cookie = here.sessions.begin(user, seat.label, hub)
        host = f"{seat.label}.localhost:{here.port}"
        headers = {"Host": host, "Cookie": here.cookie(cookie)}
        socket = await here.client.ws_connect(
            f"http://127.0.0.1:{here.port}/ws", headers=headers, origin=f"http://{host}"
        )
        await socket.send_str(user)
        assert await socket.receive_str() == user
        return hub, socket

    async def main() -> None:
        state = State(tmp_path / "state").prepare()
        async with (
            desktop_server(state, {"/ws": echo}) as path,
            deployed(state, FakeBackend(desktop=path)) as here,
        ):
            here.people.add_user("ben", False, 1.0)
            theirs, closing = await open_desktop(here, "ben")
            _, staying = await open_desktop(here, USER)
            if way == "account page":
                other = here.sessions.begin("ben")
                async with post(here, "/account/sessions/end", other, data={"id": theirs.hash}) as answer:
                    assert answer.status == 303
            elif way == "command line":
                assert here.sessions.end(theirs.hash) == 2
            elif way == "signing out":
                cookie = here.sessions.begin("ben")
                row = here.sessions.find(here.cookie(cookie), "")
                assert row is not None
                await closing.close()
                closing = await here.client.ws_connect(
                    f"http://127.0.0.1:{here.port}/ws",
                    headers={
                        "Host": f"ben-live.localhost:{here.port}",
                        "Cookie": here.cookie(here.sessions.begin("ben", "ben-live", row)),
                    },
                    origin=f"http://ben-live.localhost:{here.port}",
                )
                async with post(here, "/logout", cookie) as answer:
                    assert answer.status == 303
            else:
                await here.admin.remove(USER, "ben")
            assert (await closing.receive()).type is WSMsgType.CLOSE
            assert closing.close_code == 1008
            await staying.send_str("still here")
            assert await staying.receive_str() == "still here"
            await staying.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_api_tokens(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        form = {"name": "nightly", "scope": "control", "days": "7"}
        async with post(here, "/account/tokens", here.hub_cookie(), data=form) as answer:
            found = re.search(r"choir-api-[\w-]+", await answer.text())
        assert found
        bearer = {"Authorization": f"Bearer {found[0]}"}
        async with here.ask("GET", "/api/me", headers=bearer) as answer:
            said = await answer.json()
            assert (said["user"], said["scope"]) == (USER, "control")
        async with here.ask("POST", "/api/sandboxes/live/start", headers=bearer) as answer:
            assert answer.status == 202
        await here.sandbox.settled(10)
        async with here.ask("GET", "/api/sandboxes", headers=bearer) as answer:
            (sandbox,) = (await answer.json())["sandboxes"]
            assert (sandbox["role"], sandbox["state"]) == ("live", "ready")
        for path in ("/api/sandboxes/live/erase", "/api/sandboxes/run/stop"):
            async with here.ask("POST", path, headers=bearer) as answer:
                assert answer.status == 404
        # A page cannot use it: neither with the person's cookie, nor from elsewhere.
        async with here.ask("GET", "/api/me", cookie=here.hub_cookie()) as answer:
            assert answer.status == 401
        foreign = {**bearer, "Origin": "https://evil.example"}
        async with here.ask("POST", "/api/sandboxes/live/stop", headers=foreign) as answer:
            assert answer.status == 403
        # And it is no session.
        async with here.ask("GET", "/account", headers=bearer) as answer:
            assert answer.status == 401

    run(test)


@pytest.mark.parametrize(
    "path",
    ["passkeys/options", "passkeys", "passkeys/remove", "codes", "sessions/end", "tokens", "tokens/remove"],
)
def test_nothing_of_an_account_without_a_session(run: Callable[[Test], None], path: str) -> None:
    async def test(here: Deployment) -> None:
        async with post(here, f"/account/{path}", data=b"{}") as answer:
            assert answer.status == 401
        foreign = {"Origin": here.desk_origin}
        async with post(here, f"/account/{path}", here.hub_cookie(), data=b"{}", headers=foreign) as answer:
            assert answer.status == 403  # a sandbox's page

    run(test)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"credential": 7}', b"\xff", b"[" * 60_000, b"a" * 100_000])
def test_garbage_is_refused(run: Callable[[Test], None], body: bytes) -> None:
    async def test(here: Deployment) -> None:
        for path, cookie in (("/login/passkey", ""), ("/account/passkeys", here.hub_cookie())):
            async with post(here, path, cookie, data=body) as answer:
                assert answer.status in (400, 401, 413)
                assert json.loads(await answer.text())["error"]["type"] == "choir"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        async with post(here, "/login/code", data=body, headers=form) as answer:
            assert answer.status in (401, 413)

    run(test)


def test_a_removed_person(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        here.people.add_user("ben", False, 1.0)
        cookie = here.sessions.begin("ben")
        seat = here.supervisor.seat("ben", "live")
        home = here.supervisor.records.home_path(seat)
        home.mkdir()
        (home / "notes").write_text("mine")
        here.supervisor.start(seat)
        assert (await seat.settled(10)).state == "ready"
        (kept,) = await here.admin.remove(USER, "ben")
        assert Path(kept, "notes").read_text() == "mine"
        assert not home.exists()
        assert here.sessions.find(here.cookie(cookie), "") is None
        assert seat.label not in here.supervisor.sandboxes
        here.people.add_user("ben", False, 2.0)  # somebody else of that name
        again = here.supervisor.seat("ben", "live")
        assert not here.supervisor.records.home_path(again).exists()

    run(test)
