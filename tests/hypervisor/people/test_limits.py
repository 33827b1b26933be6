"""Limits that admins set: on the page, on the command line's socket, in the file, and in force in a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from choir import user_limits
from choir.config import UserEntry, UserLimits
from choir.control_client import GatewayControl
from choir.errors import ChoirError, ConfigError
from choir.paths import State
from choir.storage.ledger import Ledger
from tests.gateway.harness import Double, Gateway, provider
from tests.hypervisor.fakes import USER, Deployment, FakeBackend, FakeGateway, deployed


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state").prepare()


def run(test: Any, state: State, gateway: Any = None, **configured: Any) -> None:
    async def main() -> None:
        async with deployed(state, FakeBackend(), gateway=gateway, configured=configured) as here:
            here.people.add_user("ben", False, 1.0)
            await test(here)

    asyncio.run(asyncio.wait_for(main(), 60))


def save(here: Deployment, name: str, **fields: str) -> Any:
    data = {"name": name, **fields}
    headers = {"Origin": here.url}
    return here.ask("POST", "/admin/people/limits", cookie=here.hub_cookie(), headers=headers, data=data)


async def form(here: Deployment, name: str = "ben") -> str:
    async with here.ask("GET", f"/admin/people/limits?name={name}", cookie=here.hub_cookie()) as answer:
        return str(await answer.text())


def test_set_on_the_page_and_taken_back(state: State) -> None:
    gateway = FakeGateway()

    async def test(here: Deployment) -> None:
        async with save(here, "ben", usd_per_day="2.5", models="openai/* local/*") as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/admin")
        entry = UserEntry(models=("openai/*", "local/*"), limits=UserLimits(usd_per_day=2.5))
        assert here.people.limits() == user_limits.read(state.limits) == {"ben": entry}
        assert gateway.log == [("subscribe", ""), ("reload", "")]
        text = await form(here)
        assert 'name="usd_per_day" value="2.5" placeholder="none"' in text
        assert 'name="requests_per_minute" value="" placeholder="600"' in text
        async with save(here, "ben") as answer:
            assert answer.status == 303
        assert here.people.limits() == user_limits.read(state.limits) == {}
        told = [(entry.actor, entry.act, entry.target, entry.detail) for entry in here.people.audit(2)]
        assert told == [
            (USER, "set_limits", "ben", "models=, usd_per_day="),
            (USER, "set_limits", "ben", "models=openai/* local/*, usd_per_day=2.5"),
        ]

    run(test, state, gateway)


def test_what_is_wrong_is_said_beside_what_was_typed(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with save(here, "ben", usd_per_day="<much>", tokens_per_minute="7") as answer:
            text = await answer.text()
            assert answer.status == 400
        assert "`usd_per_day` is an amount, or `none` for no limit." in text
        assert 'value="&lt;much&gt;"' in text
        assert 'name="tokens_per_minute" value="7"' in text
        assert here.people.limits() == {}
        async with save(here, "nobody", usd_per_day="1") as answer:
            assert answer.status == 409
            assert "no user `nobody`" in await answer.text()

    run(test, state)


def test_choir_toml_wins_and_says_so(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with save(here, "ben", usd_per_day="50", usd_per_month="60") as answer:
            assert answer.status == 303
        assert here.people.limits() == {"ben": UserEntry(limits=UserLimits(usd_per_month=60.0))}
        text = await form(here)
        assert 'value="1" disabled' in text
        assert "Set in choir.toml" in text

    run(test, state, users={"ben": UserEntry(limits=UserLimits(usd_per_day=1.0))})


def test_limits_of_an_invited_person_wait_for_the_account(state: State) -> None:
    async def test(here: Deployment) -> None:
        secret = here.admin.invite(USER, "cleo", False).partition("once=")[2]
        async with save(here, "cleo", usd_per_day="2") as answer:
            assert answer.status == 303, await answer.text()
        assert 'name="usd_per_day" value="2"' in await form(here, "cleo")
        entry = UserEntry(limits=UserLimits(usd_per_day=2.0))
        assert user_limits.read(state.limits) == {"cleo": entry}
        async with here.ask("POST", "/join", headers={"Origin": here.url}, data={"once": secret}) as answer:
            assert answer.status == 303
        assert user_limits.read(state.limits) == here.people.limits() == {"cleo": entry}

    run(test, state)


def test_with_the_invitation_its_limits_go(state: State) -> None:
    async def test(here: Deployment) -> None:
        here.admin.invite(USER, "cleo", False)
        await here.admin.limits.set(USER, "cleo", {"usd_per_day": "2"})
        assert await here.admin.remove(USER, "cleo") == []
        assert here.people.limits() == user_limits.read(state.limits) == {}
        assert here.people.audit(1)[0].act == "withdrew_invitation"

    run(test, state)


class Refusing(FakeGateway):
    reason = "config_invalid"

    async def reload(self) -> dict[str, Any]:
        raise ConfigError(self.reason, "choir.toml:3: no.")


def test_a_gateway_that_refuses_leaves_all_as_it_was(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with save(here, "ben", usd_per_day="1") as answer:
            assert answer.status == 409
            assert "choir.toml:3: no." in await answer.text()
        assert here.people.limits() == user_limits.read(state.limits) == {}
        assert here.people.audit(9) == []

    run(test, state, Refusing())


def test_a_gateway_that_is_away_reads_it_when_it_is_back(state: State) -> None:
    async def test(here: Deployment) -> None:
        async with save(here, "ben", usd_per_day="1") as answer:
            assert answer.status == 303
        assert user_limits.read(state.limits) == here.people.limits() != {}

    gateway = Refusing()
    gateway.reason = "gateway_unreachable"
    run(test, state, gateway)


def test_a_later_person_of_that_name_has_none(state: State) -> None:
    async def test(here: Deployment) -> None:
        await here.admin.limits.set(USER, "ben", {"usd_per_day": "1"})
        await here.admin.remove(USER, "ben")
        assert here.people.limits() == user_limits.read(state.limits) == {}

    run(test, state)


@pytest.mark.parametrize("present", [None, b"{}", b"broken"])
def test_the_file_follows_the_registry_at_the_start(state: State, present: bytes | None) -> None:
    async def test(here: Deployment) -> None:
        entry = UserEntry(limits=UserLimits(usd_per_day=1.0))
        here.people.set_limits("ben", entry)
        if present is not None:
            state.limits.write_bytes(present)
        await here.admin.limits.begin()
        assert user_limits.read(state.limits) == {"ben": entry}

    run(test, state)


@pytest.fixture
def double() -> Iterator[Double]:
    double = Double()
    yield double
    double.stop()


@pytest.fixture
def gateway(tmp_path: Path, double: Double) -> Iterator[Gateway]:
    prices = '[prices."mock/*"]\ninput = 1000.0\noutput = 1000.0\nmax_output = 100\n'
    gateway = Gateway(tmp_path / "gateway", provider("mock", double.port) + prices)
    yield gateway
    gateway.stop()


def test_in_force_for_the_next_call(gateway: Gateway, double: Double) -> None:
    bens, zoes = gateway.sandbox(user_id="ben"), gateway.sandbox(user_id="zoe")
    Ledger(gateway.state.ledger).close()

    async def test(here: Deployment) -> None:
        async def outcome(sandbox: Any) -> Any:
            answer = await asyncio.to_thread(sandbox.call)
            return answer.status if answer.status == 200 else answer.error["reason"]

        assert await outcome(bens) == 200
        for field, value, reason in [
            ("usd_per_day", "0", "usd_per_day"),
            ("models", "mock/other*", "model_not_allowed"),
            ("requests_per_minute", "0", "requests_per_minute"),
        ]:
            async with save(here, "ben", **{field: value}) as answer:
                assert answer.status == 303, await answer.text()
            assert await outcome(bens) == reason
            assert await outcome(zoes) == 200
        async with save(here, "ben") as answer:
            assert answer.status == 303
        assert await outcome(bens) == 200

    async def main() -> None:
        control = GatewayControl(gateway.state.gateway_socket)
        configured = {"providers": {"mock": None}}
        async with deployed(gateway.state.prepare(), FakeBackend(), gateway=control, configured=configured) as here:
            here.people.add_user("ben", False, 1.0)
            await test(here)
        await control.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert len(double.requests) == 5


def test_a_broken_file_is_refused_and_the_old_limits_stay(gateway: Gateway) -> None:
    sandbox = gateway.sandbox(user_id="ben")
    user_limits.write(gateway.state.limits, {"ben": UserEntry(providers=("other",))})
    assert gateway.ask({"op": "reload"})["ok"]
    assert sandbox.call().error["reason"] == "provider_not_allowed"
    gateway.state.limits.write_text("{}}")
    answer = gateway.ask({"op": "reload"})
    assert (answer["ok"], answer["reason"]) == (False, "limits_unreadable")
    assert sandbox.call().error["reason"] == "provider_not_allowed"


def test_no_gateway_starts_on_a_broken_file(tmp_path: Path, double: Double) -> None:
    state = State(tmp_path / "gateway" / "state").prepare()
    state.limits.write_text("[]")
    with pytest.raises(ChoirError) as caught:
        Gateway(tmp_path / "gateway", provider("mock", double.port))
    assert caught.value.reason == "limits_unreadable"
