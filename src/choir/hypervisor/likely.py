"""Who is likely to open a desktop next. Pure.

A prepared sandbox belongs to a person and a role from its beginning, so this is a guess about people: whoever was here
last comes back first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from choir.contract import Role
from choir.hypervisor.lifecycle import ALIVE, StateName

FREE_MEMORY = 0.1
"""The share of the machine's memory that must be available for sandboxes that nobody uses yet."""


@dataclass(frozen=True)
class Seat:
    """What is known of one (user, role)."""

    user: str
    role: Role
    state: StateName
    since: float
    """Unix time at which ``state`` began."""
    last_input: float = 0.0
    returns: bool = False
    """Choir itself will start it again."""

    @property
    def last(self) -> float:
        """When it was last of use; 0: never."""
        return 0.0 if self.state == "absent" else max(self.since, self.last_input)


def likely(seats: Iterable[Seat], seen: Mapping[str, float], limit: int) -> list[tuple[str, Role]]:
    """(user, role) of at most ``limit`` sandboxes that may be wanted soon, the most likely first; one a person.

    Nobody who has one running, and nobody whose last start failed: a visit does not start that again.

    Args:
        seen: Unix time at which each signed-in person was last here.
    """
    latest: dict[str, Seat] = {}
    busy = set()
    for seat in sorted(seats, key=lambda seat: (seat.last, seat.role == "live")):
        latest[seat.user] = seat
        if seat.state in ALIVE or seat.returns:
            busy.add(seat.user)
    known = {user: (seat.last, seat.role) for user, seat in latest.items() if seat.state != "failed"}
    for user, at in seen.items():
        if user not in latest:
            known[user] = (at, "live")
        elif user in known:
            known[user] = (max(at, known[user][0]), known[user][1])
    found = sorted(((at, user, role) for user, (at, role) in known.items() if user not in busy), reverse=True)
    return [(user, role) for _, user, role in found[:limit]]


def is_short(meminfo: str) -> bool:
    """Whether memory is short, by /proc/meminfo (proc_meminfo(5))."""
    figures = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in meminfo.splitlines())}
    return figures.get("MemAvailable", 0) < FREE_MEMORY * figures.get("MemTotal", 0)
