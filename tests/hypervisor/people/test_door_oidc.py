"""Signing in with an identity provider, over real HTTP on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from choir.config import OidcEntry
from choir.paths import State
from tests.hypervisor.fakes import USER, Deployment, FakeBackend, deployed

from .identity_provider import Provider, serving

Test = Callable[[Deployment, Provider], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        async def main() -> None:
            async with serving() as provider:
                entry = OidcEntry(
                    issuer=provider.issuer,
                    client_id="choir",
                    name="Example Ltd",
                    allow=("*@example.org",),
                    admins=("cleo@example.org",),
                )
                state = State(tmp_path / "state").prepare()
                async with deployed(state, FakeBackend(), configured={"oidc": entry}) as here:
                    await test(here, provider)

        asyncio.run(asyncio.wait_for(main(), 60))

    return run


async def begin(here: Deployment) -> tuple[str, str]:
    """A browser sent off: where to, and the cookie it was given."""
    async with here.ask("GET", "/login/oidc") as answer:
        assert answer.status == 303
        set_cookie = answer.headers["Set-Cookie"]
        for attribute in ("HttpOnly", "SameSite=Lax", "Path=/;"):
            assert attribute in set_cookie
        return answer.headers["Location"], set_cookie.partition(";")[0]


async def at_the_provider(here: Deployment, where: str) -> str:
    """Where the provider sends the browser back to."""
    async with here.client.get(where, allow_redirects=False) as answer:
        back = urlsplit(answer.headers["Location"])
        assert f"{back.scheme}://{back.netloc}" == here.url
        return f"{back.path}?{back.query}"


def back(here: Deployment, path: str, cookie: str) -> Any:
    headers = {
        "Cookie": cookie,
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    return here.ask("GET", path, headers=headers)


async def visit(here: Deployment) -> tuple[int, str, str]:
    """The whole way: status, the session's user ("" is none), the page."""
    where, cookie = await begin(here)
    async with back(here, await at_the_provider(here, where), cookie) as answer:
        session = answer.headers.get("Set-Cookie", "").partition(";")[0]
        row = here.sessions.find(session, "")
        return answer.status, row.user if row else "", await answer.text()


def test_the_sign_in_page_offers_it(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        async with here.ask("GET", "/login") as answer:
            assert "Sign in with Example Ltd" in await answer.text()

    run(test)


def test_who_is_allowed_joins_and_stays_who_they_are(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        provider.claims = {"email": "ben@example.org", "preferred_username": "ben"}
        assert (await visit(here))[:2] == (303, "ben")
        # Married, and moved away: the subject counts.
        provider.claims = {"email": "ben.new@elsewhere.example", "preferred_username": "benjamin"}
        assert (await visit(here))[:2] == (303, "ben")
        # Somebody else is given the old address.
        provider.claims = {"sub": "subject-2", "email": "ben@example.org", "preferred_username": "ben"}
        assert (await visit(here))[:2] == (303, "ben-2")
        assert [(user.name, user.admin) for user in here.people.users()] == [
            (USER, True),
            ("ben", False),
            ("ben-2", False),
        ]
        assert [(entry.act, entry.target) for entry in here.people.audit(9)] == [("joined", "ben-2"), ("joined", "ben")]

    run(test)


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "eve@elsewhere.example"},
        {"email": "eve@example.org.elsewhere.example"},
        {"email": "eve@example.org", "email_verified": False},
        {"email": None},
    ],
)
def test_others_are_told_that_nobody_let_them_in(run: Callable[[Test], None], claims: dict[str, Any]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        provider.claims = {"preferred_username": USER, **claims}  # a name proves nothing
        status, user, page = await visit(here)
        assert (status, user) == (403, "")
        assert "nobody has let you in" in page
        assert [each.name for each in here.people.users()] == [USER]

    run(test)


def test_an_admin_by_configuration(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        provider.claims = {"email": "Cleo@Example.org", "preferred_username": "cleo"}
        assert (await visit(here))[:2] == (303, "cleo")
        cleo = here.people.user("cleo")
        assert cleo is not None
        assert cleo.admin

    run(test)


def test_a_removed_person_has_to_join_again(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        provider.claims = {"email": "ben@example.org", "preferred_username": "ben"}
        await visit(here)
        await here.admin.remove(USER, "ben")
        provider.claims["email"] = "ben@elsewhere.example"
        assert (await visit(here))[:2] == (403, "")

    run(test)


def test_only_the_browser_that_was_sent_off_comes_in(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        where, cookie = await begin(here)
        path = await at_the_provider(here, where)
        _, others = await begin(here)
        for wrong in ("", others):  # a link with somebody else's code, opened in one's own browser
            async with back(here, path, wrong) as answer:
                assert answer.status == 401
                assert "Set-Cookie" not in answer.headers
        async with back(here, path, cookie) as answer:  # and it was used up
            assert answer.status == 401
        async with back(here, "/login/oidc/callback?error=access_denied&state=x", cookie) as answer:
            assert answer.status == 401
            assert "did not let you in" in await answer.text()

    run(test)


def test_a_provider_that_is_away(run: Callable[[Test], None]) -> None:
    async def test(here: Deployment, provider: Provider) -> None:
        where, cookie = await begin(here)
        path = await at_the_provider(here, where)
        provider.token_status = 500
        async with back(here, path, cookie) as answer:
            assert answer.status == 502
            assert "Sign in" in await answer.text()

    run(test)
