from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.config import UserEntry, UserLimits
from choir.errors import StartError
from choir.storage.people import Invitation, Passkey, People
from choir.storage.registry import Registry, SessionRow


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "r.db")
    yield registry
    registry.close()


@pytest.fixture
def people(registry: Registry) -> People:
    people = People(registry.database)
    people.add_user("ada", True, 1.0)
    return people


def test_an_invitation_makes_its_user_once(people: People) -> None:
    people.add_invitation("d1", Invitation("ben", False, 100.0, "ada"))
    assert people.invitation("d1", 50.0) == people.invitation("d1", 50.0) == Invitation("ben", False, 100.0, "ada")
    assert people.accept("d1", 50.0) == Invitation("ben", False, 100.0, "ada")
    assert people.accept("d1", 50.0) is None
    assert [user.name for user in people.users()] == ["ada", "ben"]


def test_an_invitation_too_old_or_replaced(people: People) -> None:
    people.add_invitation("d1", Invitation("ben", False, 100.0, "ada"))
    people.add_invitation("d2", Invitation("ben", True, 100.0, "ada"))
    assert people.invitation("d1", 50.0) is None
    assert people.invitation("d2", 100.0) is None
    assert people.accept("d2", 100.0) is None
    assert people.user("ben") is None


@pytest.mark.parametrize("name", ["", "Ada", "1st", "a b", "a/b", "../x", "a" * 33, "ада", "a\n", "-x"])
def test_names_that_are_none(people: People, name: str) -> None:
    with pytest.raises(StartError) as caught:
        people.add_invitation("d", Invitation(name, False, 100.0, "ada"))
    assert caught.value.reason == "user_name_invalid"


def test_one_who_is_here_is_not_invited(people: People) -> None:
    with pytest.raises(StartError) as caught:
        people.add_invitation("d", Invitation("ada", False, 100.0, "ada"))
    assert caught.value.reason == "user_exists"


def test_there_is_always_an_admin(people: People) -> None:
    people.add_user("ben", False, 1.0)
    for act in (lambda: people.remove_user("ada"), lambda: people.set_admin("ada", False)):
        with pytest.raises(StartError) as caught:
            act()
        assert caught.value.reason == "last_admin"
    people.set_admin("ben", True)
    people.set_admin("ada", False)
    people.remove_user("ada")
    assert [user.name for user in people.users()] == ["ben"]


def test_a_removed_user_leaves_nothing_to_sign_in_with(people: People, registry: Registry) -> None:
    people.add_user("ben", False, 1.0)
    people.add_passkey(Passkey("id", "ben", b"k", 0, "phone", 1.0, None))
    people.set_recovery_codes("ben", ["c1", "c2"])
    people.add_identity("https://idp", "sub", "ben")
    people.set_limits("ben", UserEntry(providers=("local",)))
    registry.add_link("l", "ben", 1e9)
    registry.add_session(SessionRow("h", "ben", "", "", 1.0, 1e9))
    registry.add_session(SessionRow("h2", "ben", "ben-live", "h", 1.0, 1e9))
    assert sorted(people.remove_user("ben")) == ["h", "h2"]
    assert people.passkey("id") is None
    assert people.take_recovery_code("c1") is None
    assert people.identity("https://idp", "sub") is None
    assert people.limits() == {}
    assert registry.take_link("l", 2.0) is None
    assert registry.session("h", 2.0) is None
    with pytest.raises(StartError) as caught:
        people.remove_user("ben")
    assert caught.value.reason == "unknown_user"


def test_an_invitation_is_withdrawn(people: People) -> None:
    people.add_invitation("d", Invitation("zoe", False, 100.0, "ada"))
    people.set_limits("zoe", UserEntry(models=("local/*",)))
    assert people.is_invited("zoe", 99.0)
    assert not people.is_invited("zoe", 100.0)
    assert people.spoken_for() == {"ada", "zoe"}
    assert people.withdraw("zoe")
    assert (people.accept("d", 1.0), people.limits(), people.spoken_for()) == (None, {}, {"ada"})
    assert not people.withdraw("zoe")


def test_whoever_has_come_is_not_withdrawn(people: People) -> None:
    people.add_invitation("d", Invitation("zoe", False, 100.0, "ada"))
    assert people.accept("d", 1.0)
    people.set_limits("zoe", UserEntry(models=("local/*",)))
    assert not people.withdraw("zoe")
    assert "zoe" in people.limits()
    assert people.user("zoe")


def test_limits_are_kept_and_replaced(people: People) -> None:
    some = UserEntry(models=("local/*",), limits=UserLimits(usd_per_day=2.5, usd_per_month="none"))
    people.set_limits("ada", some)
    assert people.limits() == {"ada": some}
    people.set_limits("ada", UserEntry(providers=("local",)))
    assert people.limits() == {"ada": UserEntry(providers=("local",))}
    people.set_limits("ada", UserEntry())
    assert people.limits() == {}


def test_recovery_codes_work_once_and_are_replaced(people: People) -> None:
    people.set_recovery_codes("ada", ["c1", "c2"])
    assert people.take_recovery_code("c1") == "ada"
    assert people.take_recovery_code("c1") is None
    assert people.recovery_codes("ada") == 1
    people.set_recovery_codes("ada", ["c3"])
    assert people.take_recovery_code("c2") is None


def test_the_audit_log_is_read_from_the_newest(people: People) -> None:
    for number in range(5):
        people.note(float(number), "ada", "invited", f"user{number}")
    first = people.audit(2)
    assert [entry.target for entry in first] == ["user4", "user3"]
    assert [entry.target for entry in people.audit(9, before=first[-1].seq)] == ["user2", "user1", "user0"]
