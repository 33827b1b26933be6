from __future__ import annotations

import asyncio
import dataclasses

import pytest

from choir.hypervisor.login import LINK_SECONDS, TICKET_SECONDS, Login, Tickets
from choir.hypervisor.sessions import SESSION_SECONDS, USED_SECONDS, Sessions, digest
from choir.storage.registry import Registry, SessionRow


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(registry: Registry, clock: Clock) -> Sessions:
    return Sessions(registry, "http://localhost:7000", now=clock)


def row(sessions: Sessions, value: str, label: str = "") -> SessionRow:
    found = sessions.find(f"choir-7000={value}", label)
    assert found is not None
    return found


def test_a_session_is_found_by_its_cookie(sessions: Sessions) -> None:
    value = sessions.begin("ada")
    assert row(sessions, value).user == "ada"
    assert sessions.find(f"a=1; choir-7000={value}; b=2", "") is not None
    for header in (
        "",
        "choir-7000=",
        f"choir-7000={value}x",
        f"other={value}",
        "choir-7000",
        f"choir={sessions.begin('ada')}",
        '"',
        f"choir-7000={digest(value)}",
    ):
        assert sessions.find(header, "") is None


@pytest.mark.parametrize("others", ['prefs={"a":1}; ', "a b; ", '"; ', "choir-7000=stale; ", "=; ;; "])
def test_what_other_programs_set_on_this_host_is_no_hindrance(sessions: Sessions, others: str) -> None:
    value = sessions.begin("ada")
    assert sessions.find(f"{others}choir-7000={value}; choir-7000=stale", "") is not None


def test_only_hashes_are_stored(registry: Registry, sessions: Sessions, clock: Clock) -> None:
    value = sessions.begin("ada")
    link = Login(registry, clock).new_link("ada", "")
    for file in registry.database.path.parent.glob("registry.db*"):
        data = file.read_bytes()
        assert value.encode() not in data
        assert link.partition("=")[2].encode() not in data
    assert registry.database.path.stat().st_mode & 0o777 == 0o600


def test_a_session_expires(sessions: Sessions, clock: Clock) -> None:
    value = sessions.begin("ada")
    clock.time += SESSION_SECONDS
    assert sessions.find(f"choir-7000={value}", "") is None


def test_a_session_is_for_one_origin(sessions: Sessions) -> None:
    hub = sessions.begin("ada")
    desk = sessions.begin("ada", "ada-live", row(sessions, hub))
    assert sessions.find(f"choir-7000={desk}", "") is None
    assert sessions.find(f"choir-7000={desk}", "eve-live") is None
    assert sessions.find(f"choir-7000={hub}", "ada-live") is None
    assert row(sessions, desk, "ada-live").expires == row(sessions, hub).expires


def test_ending_one_ends_what_came_from_it_and_closes_what_is_open(sessions: Sessions) -> None:
    hub = sessions.begin("ada")
    desk = sessions.begin("ada", "ada-live", row(sessions, hub))
    other = sessions.begin("ada")
    closed = []

    async def main() -> None:
        with (
            sessions.holding(row(sessions, desk, "ada-live"), lambda: closed.append("desk")),
            sessions.holding(row(sessions, other), lambda: closed.append("other")),
        ):
            assert sessions.end(row(sessions, hub).hash) == 2

    asyncio.run(main())
    assert closed == ["desk"]
    assert sessions.find(f"choir-7000={desk}", "ada-live") is None
    assert [each.hash for each in sessions.listed()] == [digest(other)]


def test_what_was_let_go_is_not_closed(sessions: Sessions) -> None:
    value = sessions.begin("ada")
    closed = []

    async def main() -> None:
        with sessions.holding(row(sessions, value), lambda: closed.append(1)):
            pass
        sessions.end(row(sessions, value).hash)

    asyncio.run(main())
    assert closed == []


def test_what_is_open_is_closed_when_its_session_expires(
    sessions: Sessions, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the machine slept and its timers with it."""
    monkeypatch.setattr("choir.hypervisor.sessions.LOOK_SECONDS", 0.001)
    brief, longer = row(sessions, sessions.begin("ada")), row(sessions, sessions.begin("ada"))
    brief = dataclasses.replace(brief, expires=clock.time + SESSION_SECONDS / 2)

    async def main() -> None:
        closed, left = asyncio.Event(), asyncio.Event()
        with sessions.holding(longer, left.set), sessions.holding(brief, closed.set):
            await asyncio.sleep(0.01)
            assert not closed.is_set()
            clock.time = brief.expires
            await closed.wait()
            assert not left.is_set()
        with sessions.holding(brief, left.set):  # it expired just before
            await left.wait()

    asyncio.run(asyncio.wait_for(main(), 10))


def test_cookies_over_https(registry: Registry) -> None:
    cookie = Sessions(registry, "https://choir.example.org").set_cookie("v")
    assert cookie.startswith("__Host-choir=v; Path=/; HttpOnly; SameSite=Lax")
    assert cookie.endswith("; Secure")
    assert "__Host-choir=;" in Sessions(registry, "https://choir.example.org").clear_cookie()


def test_a_link_is_taken_once_and_expires(registry: Registry, clock: Clock) -> None:
    login = Login(registry, clock)
    first, second = (login.new_link("ada", "http://localhost:7000").partition("once=")[2] for _ in range(2))
    assert login.look(first) == login.look(first) == "ada"
    assert login.take(first) == "ada"
    assert login.look(first) is None
    assert login.take(first) is None
    assert login.take("made-up") is None
    clock.time += LINK_SECONDS
    assert login.look(second) is None
    assert login.take(second) is None


def test_tickets(sessions: Sessions, clock: Clock) -> None:
    tickets = Tickets(sessions, clock)
    hub = row(sessions, sessions.begin("ada"))
    good = tickets.issue(hub, "ada-live")
    value = tickets.redeem(good, "ada-live")
    assert value is not None
    assert row(sessions, value, "ada-live").parent == hub.hash
    assert tickets.redeem(good, "ada-live") is None
    wrong_place = tickets.issue(hub, "ada-live")
    assert tickets.redeem(wrong_place, "eve-live") is None
    assert tickets.redeem(wrong_place, "ada-live") is None
    late = tickets.issue(hub, "ada-live")
    clock.time += TICKET_SECONDS
    assert tickets.redeem(late, "ada-live") is None
    orphan = tickets.issue(hub, "ada-live")
    sessions.end(hub.hash)
    assert tickets.redeem(orphan, "ada-live") is None


def test_the_last_use_is_known_roughly_also_from_under_it(registry: Registry, sessions: Sessions, clock: Clock) -> None:
    hub = sessions.begin("ada")
    desk = sessions.begin("ada", "ada-live", row(sessions, hub))
    clock.time += USED_SECONDS - 1
    row(sessions, desk, "ada-live")
    assert row(sessions, hub).used == 1000.0  # nothing is written for every request
    clock.time += 1
    row(sessions, desk, "ada-live")
    assert [each.used for each in sessions.listed()] == [1000.0 + USED_SECONDS]
