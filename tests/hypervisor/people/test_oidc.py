"""Signing in with an identity provider."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from choir.config import OidcEntry
from choir.hypervisor.people.oidc import Identity, IdentityProvider, OidcError, is_admin, may_join, user_name
from choir.storage.people import USER_NAME

from .identity_provider import Provider, serving

PUBLIC = "https://choir.example.org"


Test = Callable[[Provider, IdentityProvider], Awaitable[None]]


def run(test: Test, secret: str = "") -> None:
    async def main() -> None:
        async with serving() as provider:
            entry = OidcEntry(issuer=provider.issuer, client_id="choir")
            await test(provider, IdentityProvider(entry, secret, PUBLIC))

    asyncio.run(asyncio.wait_for(main(), 60))


async def visit(provider: Provider, here: IdentityProvider) -> Identity:
    url, cookie = await here.begin()
    state, code = provider.authorize(url)
    return await here.finish(state, code, cookie)


def test_the_whole_way() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        identity = await visit(provider, here)
        assert identity == Identity(provider.issuer, "subject-1", "ada@example.org", "ada")
        assert provider.query["redirect_uri"] == f"{PUBLIC}/login/oidc/callback"
        assert provider.query["code_challenge_method"] == "S256"
        assert "client_secret" not in provider.seen[0]

    run(test)


def test_a_client_with_a_secret() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        await visit(provider, here)
        assert provider.seen[0]["client_secret"] == "shh"

    run(test, secret="shh")


def test_an_address_that_is_not_verified_is_none() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        for verified in (False, None, "no"):
            provider.claims = {"email_verified": verified}
            assert (await visit(provider, here)).email == ""

    run(test)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": ["choir", "another"]},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": None},
    ],
)
def test_claims_that_are_refused(claims: dict[str, Any]) -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        provider.claims = claims
        with pytest.raises(OidcError) as caught:
            await visit(provider, here)
        assert caught.value.reason == "oidc_refused"

    run(test)


def test_several_audiences_with_the_right_party() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        provider.claims = {"aud": ["choir", "another"], "azp": "choir"}
        assert (await visit(provider, here)).subject == "subject-1"

    run(test)


def test_a_signature_of_another_key() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        provider.published = RSAKey.generate_key(2048, {"kid": "one"})
        with pytest.raises(OidcError):
            await visit(provider, here)

    run(test)


def test_rotated_keys_are_fetched_again() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        await visit(provider, here)
        provider.key = RSAKey.generate_key(2048, {"kid": "two"})
        assert (await visit(provider, here)).subject == "subject-1"

    run(test)


def test_an_unsigned_token() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        parts = [b'{"alg":"none"}', f'{{"iss":"{provider.issuer}","sub":"x","aud":"choir","exp":9999999999}}'.encode()]
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
        with pytest.raises(OidcError):
            await here._verify(token, "nonce")

    run(test)


def test_state_is_bound_to_the_browser_and_good_once() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        url, cookie = await here.begin()
        state, code = provider.authorize(url)
        for wrong in ((state, "another"), ("another", cookie)):
            with pytest.raises(OidcError):
                await here.finish(wrong[0], code, wrong[1])
        with pytest.raises(OidcError):  # the first wrong try used it up
            await here.finish(state, code, cookie)

    run(test)


def test_a_provider_that_fails() -> None:
    async def test(provider: Provider, here: IdentityProvider) -> None:
        provider.token_status = 500
        with pytest.raises(OidcError) as caught:
            await visit(provider, here)
        assert caught.value.reason == "oidc_unreachable"
        gone = IdentityProvider(OidcEntry(issuer="http://127.0.0.1:1", client_id="choir"), "", PUBLIC)
        with pytest.raises(OidcError) as caught:
            await gone.begin()
        assert caught.value.reason == "oidc_unreachable"
        other = IdentityProvider(OidcEntry(issuer=f"{provider.issuer}/", client_id="choir"), "", PUBLIC)
        with pytest.raises(OidcError):  # it says that it is another
            await other.begin()

    run(test)


ENTRY = OidcEntry(issuer="https://idp", client_id="c", allow=("*@example.org",), admins=("Ada@example.org",))


@pytest.mark.parametrize(
    ("email", "joins", "admin"),
    [
        ("ada@example.org", True, True),
        ("ben@example.org", True, False),
        ("ben@example.org.evil", False, False),
        ("", False, False),
    ],
)
def test_who_may_join(email: str, joins: bool, admin: bool) -> None:
    identity = Identity("https://idp", "s", email, "name")
    assert (may_join(ENTRY, identity), is_admin(ENTRY, identity)) == (joins, admin)


@given(st.text(max_size=60), st.sets(st.sampled_from(["ada", "ada-2", "user", "user-2"])))
def test_user_names(name: str, taken: set[str]) -> None:
    made = user_name(Identity("i", "s", "", name), taken)
    assert USER_NAME.match(made)
    assert made not in taken


def test_user_names_are_near_the_persons() -> None:
    assert user_name(Identity("i", "s", "", "Ada.Lovelace@example.org"), set()) == "ada.lovelace"
    assert user_name(Identity("i", "s", "", "ada"), {"ada", "ada-2"}) == "ada-3"
    assert user_name(Identity("i", "s", "", "Ада"), set()) == "user"
