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
from multidict import CIMultiDict
from yarl import URL

from choir.config import HypervisorEntry
from choir.errors import StartError
from choir.hypervisor.people.api_tokens import ApiTokens
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


async def slowly(here: Deployment, path: str, cookie: str, body: bytes, meanwhile: Callable[[], object]) -> int:
    """The status of a POST whose body comes after ``meanwhile``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost:{here.port}\r\nOrigin: {here.url}\r\n"
        f"Cookie: {here.cookie(cookie)}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    writer.write(head.encode())
    assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # it waits for the body
    meanwhile()
    writer.write(body)
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


def test_a_request_begun_before_the_end_of_a_session_comes_too_late(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        for path, body in (("tokens", b"name=x&scope=control&days=300"), ("passkeys", b'{"credential": {}}')):
            cookie = here.hub_cookie()
            row = here.sessions.find(here.cookie(cookie), "")
            assert row is not None
            assert await slowly(here, f"/account/{path}", cookie, body, lambda: here.sessions.end(row.hash)) == 401  # noqa: B023
        assert here.people.api_tokens(USER, 0.0) == []

    run(test)


@pytest.mark.parametrize(
    ("path", "body"),
    [("people/promote", b"name=mel"), ("invite", b"name=zoe&role=admin"), ("people/limits", b"name=mel")],
)
def test_who_is_no_admin_any_more_cannot_finish_an_admins_request(
    run: Callable[[Test], None], path: str, body: bytes
) -> None:
    async def test(here: Deployment) -> None:
        here.people.add_user("eve", True, 1.0)
        here.people.add_user("mel", False, 1.0)
        cookie = here.sessions.begin("eve")
        status = await slowly(here, f"/admin/{path}", cookie, body, lambda: here.admin.set_admin(USER, "eve", False))
        assert status == 404
        assert {each.name for each in here.people.users() if each.admin} == {USER}
        assert here.people.invitations(0.0) == []

    run(test)


def test_every_line_of_a_proxy_counts(tmp_path: Path) -> None:
    """HAProxy adds a line of its own below the one a client made up."""

    async def main() -> None:
        entry = HypervisorEntry(trusted_proxies=("127.0.0.1",))
        state = State(tmp_path / "state").prepare()
        async with deployed(state, FakeBackend(), configured={"hypervisor": entry}) as here:
            answers = []
            for number in range(PER_ADDRESS + 1):
                lines = CIMultiDict(
                    [("Host", f"localhost:{here.port}"), ("Origin", here.url)]
                    + [("X-Forwarded-For", each) for each in (f"192.0.2.{number}", "203.0.113.9")]
                )
                url = f"http://127.0.0.1:{here.port}/login/code"
                async with here.client.post(url, data={"code": "wrong"}, headers=lines) as answer:
                    answers.append(answer.status)
            assert answers == [401] * PER_ADDRESS + [429]

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("number", ["%C2%B2", "%D9%A3", "9" * 5000, "-1", ""])
def test_a_number_that_is_none(run: Callable[[Test], None], number: str) -> None:
    async def test(here: Deployment) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        body = f"name=x&scope=read&days={number}".encode()
        async with post(here, "/account/tokens", here.hub_cookie(), data=body, headers=form) as answer:
            assert answer.status == 400
        _, secret = ApiTokens(here.people).create(USER, "x", "read", 1)
        path = URL(f"http://127.0.0.1:{here.port}/api/usage?limit={number}", encoded=True)
        headers = {"Host": f"localhost:{here.port}", "Authorization": f"Bearer {secret}"}
        async with here.client.get(path, headers=headers) as answer:
            assert answer.status == 200
        path = URL(f"http://127.0.0.1:{here.port}/.choir/usage?limit={number}", encoded=True)
        here.supervisor.seat(USER, "live")
        headers = {"Host": here.desk_host, "Cookie": here.cookie(here.desk_cookie())}
        async with here.client.get(path, headers=headers) as answer:
            assert answer.status == 200

    run(test)


def test_half_a_character_is_refused(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        mine = Authenticator(here.url)
        async with post(here, "/login/passkey/options", json={}) as answer:
            got = mine.get(await answer.text())
        async with post(here, "/login/passkey", data=json.dumps({**got, "id": "\ud800"})) as answer:
            assert (answer.status, (await answer.json())["error"]["reason"]) == (401, "passkey_refused")

    run(test)


def test_a_page_that_a_form_led_to_is_asked_for_again(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        for path, where in (("/account/codes", "/account"), ("/admin/invite", "/admin"), ("/logout", "/")):
            async with here.ask("GET", path, headers={"Accept": "text/html"}) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, where)
        async with here.ask("GET", "/api/sandboxes/live/stop") as answer:
            assert (answer.status, (await answer.json())["error"]["reason"]) == (405, "method_not_allowed")
        async with post(here, "/desk/live/start", headers={"Accept": "text/html"}) as answer:
            assert answer.status == 401
            assert 'href="/login"' in await answer.text()

    run(test)


@pytest.mark.parametrize("act", ["snapshot", "restart"])
def test_a_person_is_removed_while_something_is_done_to_their_home(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    async def test(here: Deployment) -> None:
        here.people.add_user("ben", False, 1.0)
        seat = here.supervisor.seat("ben", "live")
        here.supervisor.records.home_path(seat).mkdir()
        here.supervisor.start(seat)
        assert (await seat.settled(10)).state == "ready"
        if act == "restart":
            restarting = asyncio.create_task(here.maintenance.restart(seat))
            await asyncio.sleep(0)
            assert seat.occupied
            assert len(await here.admin.remove(USER, "ben")) == 1
            await restarting
        else:
            monkeypatch.setattr("choir.hypervisor.people.admin.FREE_SECONDS", 0.01)
            with seat.occupy("A snapshot of it is being taken."), pytest.raises(StartError, match="snapshot"):
                await here.admin.remove(USER, "ben")
            assert here.people.user("ben") is None
            with pytest.raises(StartError, match="not put away yet"):  # they would have had the home
                here.admin.invite(USER, "ben", False)
            assert len(await here.admin.remove(USER, "ben")) == 1
        assert here.supervisor.users() == set()
        assert (seat.status.state, seat.running) == ("stopped", None)
        here.admin.invite(USER, "ben", False)

    run(test)
