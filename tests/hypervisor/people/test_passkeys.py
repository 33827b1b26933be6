from __future__ import annotations

import copy
import json

import pytest

from choir.errors import StartError
from choir.hypervisor.people.passkeys import CEREMONY_SECONDS, PasskeyError, Passkeys
from choir.storage.people import People

from .authenticator import USER_PRESENT, Authenticator

ORIGIN = "http://localhost:7000"


class Clock:
    time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def passkeys(people: People, clock: Clock) -> Passkeys:
    return Passkeys(people, ORIGIN, clock)


@pytest.fixture
def authenticator(passkeys: Passkeys) -> Authenticator:
    """Registered for ada."""
    made = Authenticator(ORIGIN)
    passkeys.finish_registration("ada", made.create(passkeys.begin_registration("ada")), "  My   phone ")
    return made


def test_a_passkey_is_the_whole_sign_in(passkeys: Passkeys, authenticator: Authenticator, people: People) -> None:
    assert passkeys.finish_sign_in(authenticator.get(passkeys.begin_sign_in())) == "ada"
    (kept,) = people.passkeys("ada")
    assert (kept.name, kept.sign_count, kept.used) == ("My phone", 1, 1_000_000.0)


def test_what_is_asked_of_the_browser(passkeys: Passkeys, authenticator: Authenticator) -> None:
    options = json.loads(passkeys.begin_registration("ada"))
    assert options["rp"] == {"name": "Choir", "id": "localhost"}
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"
    assert len(options["excludeCredentials"]) == 1
    assert json.loads(passkeys.begin_sign_in()).get("allowCredentials", []) == []  # nobody learns who has one


def test_an_answer_is_good_once(passkeys: Passkeys, authenticator: Authenticator) -> None:
    answer = authenticator.get(passkeys.begin_sign_in())
    assert passkeys.finish_sign_in(answer) == "ada"
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(answer)


def test_an_answer_too_late(passkeys: Passkeys, authenticator: Authenticator, clock: Clock) -> None:
    options = passkeys.begin_sign_in()
    clock.time += CEREMONY_SECONDS
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(authenticator.get(options))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("origin", "http://evil.localhost:7000"),
        ("origin", "http://localhost:7001"),
        ("rp_id", "evil.example"),
        ("flags", USER_PRESENT),  # found lying about, without its owner
        ("count", -1),  # will be 0, which is less than what was seen: a copy
        ("id", b"x" * 32),
    ],
)
def test_what_is_refused(passkeys: Passkeys, authenticator: Authenticator, attribute: str, value: object) -> None:
    assert passkeys.finish_sign_in(authenticator.get(passkeys.begin_sign_in())) == "ada"
    setattr(authenticator, attribute, value)
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(authenticator.get(passkeys.begin_sign_in()))


def test_another_key_under_the_same_id(passkeys: Passkeys, authenticator: Authenticator) -> None:
    thief = Authenticator(ORIGIN)
    thief.id = authenticator.id
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(thief.get(passkeys.begin_sign_in()))


def test_a_challenge_for_a_sign_in_registers_nothing(passkeys: Passkeys, people: People) -> None:
    made = Authenticator(ORIGIN)
    for options in (passkeys.begin_sign_in(), passkeys.begin_registration("ben")):
        with pytest.raises(PasskeyError):
            passkeys.finish_registration("ada", made.create(options), "")
    assert people.passkeys("ada") == []


def test_the_same_passkey_twice(passkeys: Passkeys, authenticator: Authenticator) -> None:
    with pytest.raises(StartError) as caught:
        passkeys.finish_registration("ada", authenticator.create(passkeys.begin_registration("ada")), "")
    assert caught.value.reason == "passkey_exists"


def test_a_removed_user_is_nobody(passkeys: Passkeys, people: People) -> None:
    made = Authenticator(ORIGIN)
    passkeys.finish_registration("ben", made.create(passkeys.begin_registration("ben")), "")
    people.remove_user("ben")
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(made.get(passkeys.begin_sign_in()))


@pytest.mark.parametrize("path", [("id",), ("response",), ("response", "clientDataJSON"), ("response", "signature")])
@pytest.mark.parametrize("value", [None, "", "%%%", 7, [], {}, "AAAA"])
def test_garbage(passkeys: Passkeys, authenticator: Authenticator, path: tuple[str, ...], value: object) -> None:
    answer = copy.deepcopy(authenticator.get(passkeys.begin_sign_in()))
    inner = answer
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(PasskeyError):
        passkeys.finish_sign_in(answer)


def test_nobody_is_crowded_out_and_nothing_piles_up(passkeys: Passkeys, authenticator: Authenticator) -> None:
    first = passkeys.begin_sign_in()
    for _ in range(1000):
        passkeys.begin_sign_in()
    assert passkeys.finish_sign_in(authenticator.get(first)) == "ada"
    assert len(passkeys._challenges) + len(passkeys._answered) == 1


def test_another_deployments_challenge_is_refused(
    passkeys: Passkeys, authenticator: Authenticator, people: People, clock: Clock
) -> None:
    with pytest.raises(PasskeyError, match="not accepted") as caught:
        passkeys.finish_sign_in(authenticator.get(Passkeys(people, ORIGIN, clock).begin_sign_in()))
    assert caught.value.why == "unknown challenge"
