"""The admin page, over real HTTP."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from choir.config import OidcEntry
from choir.contract import UsageRecord
from choir.ids import new_id
from choir.paths import State
from choir.storage.ledger import Ledger
from tests.hypervisor.fakes import USER, Deployment, FakeBackend, deployed
from tests.records import usage_record

Test = Callable[[Deployment], Awaitable[None]]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state").prepare()


@pytest.fixture
def run(state: State) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with deployed(state, FakeBackend()) as here:
                here.people.add_user("ben", False, 1.0)
                await test(here)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


def post(here: Deployment, path: str, cookie: str, **data: str) -> Any:
    return here.ask("POST", path, cookie=cookie, headers={"Origin": here.url}, data=data)


async def admin_page(here: Deployment, query: str = "") -> str:
    async with here.ask("GET", f"/admin{query}", cookie=here.hub_cookie()) as answer:
        assert answer.status == 200
        return str(await answer.text())


def cells(text: str) -> list[list[str]]:
    """What stands in the tables' rows."""
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text)]


def record(user: str, model: str, cost: float | None) -> UsageRecord:
    return usage_record(
        ts=time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        request_id=new_id(),
        sandbox_id=new_id(),
        user_id=user,
        provider="openai",
        model=model,
        route="POST /chat/completions",
        latency_ms=12.0,
        ttft_ms=3.0,
        bytes_in=10,
        bytes_out=20,
        input_tokens=5,
        output_tokens=7,
        cached_tokens=0,
        cost_usd=cost,
    )


ACTS = [
    *("invite", "people/promote", "people/demote", "people/remove", "people/withdraw"),
    *("sandboxes/stop", "sandboxes/restart"),
]


@pytest.mark.parametrize("path", ["", "/usage.csv", *(f"/{act}" for act in [*ACTS, "sandboxes/swap"])])
def test_a_member_finds_nothing_here(run: Callable[[Test], None], path: str) -> None:
    async def test(here: Deployment) -> None:
        method = "GET" if path in ("", "/usage.csv") else "POST"
        cookie = here.sessions.begin("ben")
        data = {"name": USER, "label": here.sandbox.label}
        form = {} if method == "GET" else {"data": data}
        async with here.ask(method, f"/admin{path}", cookie=cookie, headers={"Origin": here.url}, **form) as answer:
            assert answer.status == 404
        foreign = {"Origin": here.desk_origin}
        async with here.ask(method, f"/admin{path}", cookie=here.hub_cookie(), headers=foreign, **form) as answer:
            assert answer.status == 403  # a sandbox's page with an admin's cookie
        assert [user.name for user in here.people.users()] == [USER, "ben"]

    run(test)


def test_people(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        cookie = here.hub_cookie()
        async with post(here, "/admin/invite", cookie, name="cleo", role="admin") as answer:
            found = re.search(r"/join\?once=[\w-]+", await answer.text())
        assert found
        async with here.ask("GET", found[0]) as answer:
            assert "cleo" in await answer.text()
        text = await admin_page(here)
        assert ["cleo", "admin", "invited"] in [row[:3] for row in cells(text)]
        assert "/join?once=" not in text  # shown once
        async with post(here, "/admin/people/promote", cookie, name="ben") as answer:
            assert answer.status == 303
        user = here.people.user("ben")
        assert user is not None
        assert user.admin
        async with post(here, "/admin/people/remove", cookie, name="ben") as answer:
            assert answer.status == 303
        async with post(here, "/admin/people/demote", cookie, name=USER) as answer:
            assert answer.status == 409
            assert "last admin" in await answer.text()
        acts = [(entry.actor, entry.act, entry.target) for entry in here.people.audit(9)]
        assert acts == [(USER, "removed", "ben"), (USER, "made_admin", "ben"), (USER, "invited", "cleo")]

    run(test)


def test_an_invitation_is_withdrawn(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        cookie = here.hub_cookie()
        link = here.admin.invite(USER, "cleo", False).removeprefix(here.url)
        await here.admin.limits.set(USER, "cleo", {"usd_per_day": "1"})
        assert 'action="/admin/people/withdraw"' in await admin_page(here)
        async with post(here, "/admin/people/withdraw", cookie, name="cleo") as answer:
            assert answer.status == 303
        async with here.ask("GET", link) as answer:
            assert answer.status == 401
        async with post(here, "/join", "", once=link.partition("once=")[2]) as answer:
            assert answer.status == 401
        assert here.people.limits() == {}
        entry = here.people.audit(1)[0]
        assert (entry.actor, entry.act, entry.target) == (USER, "withdrew_invitation", "cleo")
        for name in ("cleo", "ben"):  # gone, and somebody who has an account
            async with post(here, "/admin/people/withdraw", cookie, name=name) as answer:
                assert answer.status == 409
                assert f"no open invitation for `{name}`" in await answer.text()
        assert here.people.user("ben") is not None

    run(test)


def test_removing_asks_first(run: Callable[[Test], None], state: State) -> None:
    async def test(here: Deployment) -> None:
        cookie = here.hub_cookie()
        assert 'href="/admin/people/remove?name=ben"' in await admin_page(here)
        async with here.ask("GET", "/admin/people/remove?name=ben", cookie=cookie) as answer:
            text = await answer.text()
            assert answer.status == 200
        assert f"{state.root / 'removed'}" in text
        assert '<form method="post" action="/admin/people/remove">' in text
        assert "identity provider" not in text
        assert here.people.user("ben") is not None
        for name in ("nobody", ""):
            async with here.ask("GET", f"/admin/people/remove?name={name}", cookie=cookie) as answer:
                assert answer.status == 409
        async with here.ask("GET", "/admin/people/remove?name=ben", cookie=here.sessions.begin("ben")) as answer:
            assert answer.status == 404

    run(test)


def test_who_can_come_back_is_said_before(state: State) -> None:
    async def main() -> None:
        oidc = OidcEntry(issuer="https://login.example.org", client_id="choir", allow=("*@example.org",))
        async with deployed(state, FakeBackend(), configured={"oidc": oidc}) as here:
            here.people.add_user("ben", False, 1.0)
            async with here.ask("GET", "/admin/people/remove?name=ben", cookie=here.hub_cookie()) as answer:
                assert "identity provider" in await answer.text()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_only_what_can_be_done_is_offered(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        def offered(text: str) -> list[str]:
            return re.findall(r'aria-label="([^"]*ben/[^"]*)"', text)

        here.supervisor.seat("ben", "dev")
        assert offered(await admin_page(here)) == []
        seat = here.supervisor.seat("ben", "live")
        here.supervisor.start(seat)
        await seat.settled(10)
        assert offered(await admin_page(here)) == ["Stop ben/live", "Restart ben/live"]
        here.supervisor.stop(seat)
        await seat.settled(10)
        assert offered(await admin_page(here)) == ["Start ben/live"]
        home = here.supervisor.records.home_path(here.supervisor.seat("ben", "dev"))
        home.mkdir()
        assert offered(await admin_page(here)) == ["Start ben/live"]
        (home / "notes").touch()
        assert offered(await admin_page(here)) == ["Start ben/dev", "Make live: ben/dev", "Start ben/live"]

    run(test)


def test_sandboxes(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment) -> None:
        cookie = here.hub_cookie()
        seat = here.supervisor.seat("ben", "live")
        here.supervisor.start(seat)
        await seat.settled(10)
        assert ["ben/live", "ready"] in [row[:2] for row in cells(await admin_page(here))]
        async with post(here, "/admin/sandboxes/stop", cookie, label=seat.label) as answer:
            assert answer.status == 303
        assert (await seat.settled(10)).state == "stopped"
        assert seat.status.note == f"{USER} stopped it."
        async with post(here, "/admin/sandboxes/restart", cookie, label=seat.label) as answer:
            assert answer.status == 303
        assert (await seat.settled(10)).state == "ready"
        async with post(here, "/admin/sandboxes/stop", cookie, label="nobody-live") as answer:
            assert answer.status == 409
        assert [entry.act for entry in here.people.audit(9)] == ["restarted_sandbox", "stopped_sandbox"]

    run(test)


def test_usage(run: Callable[[Test], None], state: State) -> None:
    ledger = Ledger(state.ledger)
    ledger.append([record("ben", "<b>gpt</b>", 0.25), record("ben", "gpt", None), record(USER, "=1+1", 0.5)])

    async def test(here: Deployment) -> None:
        text = await admin_page(here, "?days=30")
        assert ["ben", "2", "0", "10", "14", "$0.25 + 1 unpriced"] in cells(text)
        assert "openai/&lt;b&gt;gpt&lt;/b&gt;" in text
        assert "<rect" in text
        async with here.ask("GET", "/admin/usage.csv?days=1", cookie=here.hub_cookie()) as answer:
            assert answer.headers["Content-Type"].startswith("text/csv")
            rows = list(csv.DictReader(io.StringIO(await answer.text())))
        assert {row["model"] for row in rows} == {"<b>gpt</b>", "gpt", "'=1+1"}

    run(test)
    ledger.close()
