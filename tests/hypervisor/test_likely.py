from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.contract import Role
from choir.hypervisor.lifecycle import ALIVE, StateName
from choir.hypervisor.likely import Seat, is_short, likely


def seat(user: str, role: Role = "live", state: StateName = "stopped", since: float = 1.0, **more: object) -> Seat:
    return Seat(user, role, state, since, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seats", "seen", "limit", "expected"),
    [
        ([], {}, 3, []),
        ([seat("ada")], {}, 0, []),
        ([seat("ada")], {}, 3, [("ada", "live")]),
        # Who was here last comes first; and only so many.
        ([seat("ada", since=1), seat("ben", since=2)], {}, 3, [("ben", "live"), ("ada", "live")]),
        ([seat("ada", since=1), seat("ben", since=2)], {}, 1, [("ben", "live")]),
        ([seat("ada", since=1), seat("ben", since=2)], {"ada": 3}, 1, [("ada", "live")]),
        ([seat("ada", since=1, last_input=3), seat("ben", since=2)], {}, 1, [("ada", "live")]),
        # Whoever has one running needs no other.
        ([seat("ada", state="ready"), seat("ada", "dev")], {"ada": 9}, 3, []),
        ([seat("ada", state="starting")], {"ada": 9}, 3, []),
        ([seat("ada", state="stopping")], {"ada": 9}, 3, []),
        # One a person: in the role that they were in last.
        ([seat("ada", "live", since=1), seat("ada", "dev", since=2)], {"ada": 9}, 3, [("ada", "dev")]),
        ([seat("ada", "live", since=2), seat("ada", "dev", since=1)], {"ada": 9}, 3, [("ada", "live")]),
        # A failed one is not started by a visit; one that crashed comes back by itself.
        ([seat("ada", state="failed")], {"ada": 9}, 3, []),
        ([seat("ada", state="failed", returns=True)], {"ada": 9}, 3, []),
        # Signed in, and no desktop opened yet.
        ([], {"ada": 9}, 3, [("ada", "live")]),
        ([seat("ada", state="absent")], {}, 3, [("ada", "live")]),
        # One that was only looked at says nothing.
        ([seat("ada"), seat("ada", "dev", "absent", since=2)], {}, 3, [("ada", "live")]),
        ([seat("ada", "dev", "absent", since=2), seat("ada", state="absent")], {}, 3, [("ada", "live")]),
    ],
)
def test_who_is_likely(seats: list[Seat], seen: dict[str, float], limit: int, expected: list[tuple[str, Role]]) -> None:
    assert likely(seats, seen, limit) == expected


_states: list[StateName] = ["absent", "starting", "ready", "stopping", "stopped", "failed"]
_seats = st.lists(
    st.builds(
        Seat,
        st.sampled_from("abcd"),
        st.sampled_from(["live", "dev"]),
        st.sampled_from(_states),
        st.integers(0, 9),
        st.integers(0, 9),
        st.booleans(),
    ),
    unique_by=lambda each: (each.user, each.role),
)


@given(_seats, st.dictionaries(st.sampled_from("abcde"), st.integers(0, 9)), st.integers(0, 4))
def test_one_a_person_and_never_for_one_who_has_one(seats: list[Seat], seen: dict[str, float], limit: int) -> None:
    found = likely(seats, seen, limit)
    assert len(found) <= limit
    users = [user for user, _ in found]
    assert len(set(users)) == len(users)
    assert not {each.user for each in seats if each.state in ALIVE or each.returns} & set(users)
    assert likely(reversed(seats), seen, limit) == found


@pytest.mark.parametrize(
    ("available", "short"), [("2000000", False), ("1000000", False), ("999999", True), ("0", True)]
)
def test_short_of_memory(available: str, short: bool) -> None:
    text = f"MemTotal: 10000000 kB\nMemFree: 123 kB\nMemAvailable:   {available} kB\nHugePages_Total:       0\n"
    assert is_short(text) is short
