"""The life of a sandbox as a transition table. No I/O.

::

    absent ──start──▶ starting ──ready──▶ ready ──stop──▶ stopping ──ended──▶ stopped ──start──▶ starting
                         │  stop ▶ stopping   │ ended ▶ failed    │ failed ▶ failed
                         └─ failed ▶ failed   └─ failed ▶ failed

``failed`` can come from anywhere and is left only by ``start``; after a crash Choir itself starts it again at
``retry_at``, and ``stop`` takes that back. What a late message says about a life that is already
ending (a phase reached while stopping) changes nothing. Everything else is a mistake of the caller: ``IllegalMove``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from choir.isolation.contract import Phase

StateName = Literal["absent", "starting", "ready", "stopping", "stopped", "failed"]
EventName = Literal["start", "phase", "ready", "stop", "ended", "failed"]

TRANSITIONS: dict[StateName, dict[EventName, StateName]] = {
    "absent": {"start": "starting", "stop": "absent", "failed": "failed"},
    "starting": {
        "phase": "starting",
        "ready": "ready",
        "stop": "stopping",
        "ended": "failed",
        "failed": "failed",
    },
    "ready": {
        "phase": "ready",
        "ready": "ready",
        "stop": "stopping",
        "ended": "failed",
        "failed": "failed",
    },
    "stopping": {
        "phase": "stopping",
        "ready": "stopping",
        "stop": "stopping",
        "ended": "stopped",
        "failed": "failed",
    },
    "stopped": {"start": "starting", "stop": "stopped", "failed": "failed"},
    "failed": {"start": "starting", "stop": "failed", "failed": "failed"},
}

ALIVE: frozenset[StateName] = frozenset({"starting", "ready", "stopping"})
SETTLED: frozenset[StateName] = frozenset({"absent", "ready", "stopped", "failed"})
"""Nothing further happens by itself: the ends of a progress stream."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a sandbox is not there. ``log_tail`` is redacted before it gets here."""

    reason: str
    message: str
    hint: str = ""
    code: int | None = None
    signal: int | None = None
    log_tail: str = ""
    file: str = ""
    """The file of the home that is to blame, relative to it; it can be set aside."""


class Reached(msgspec.Struct, frozen=True):
    """A phase of the start, ``at`` seconds after it was asked for."""

    phase: Phase
    at: float


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known and stored about one sandbox's present or last life."""

    state: StateName = "absent"
    sandbox_id: str = ""
    since: float = 0.0
    """Unix time at which ``state`` began."""
    started: float = 0.0
    """Unix time at which this life was asked for."""
    phases: tuple[Reached, ...] = ()
    failure: Failure | None = None
    note: str = ""
    """A sentence on how this life ended, when it was not as usual."""
    crashes: tuple[float, ...] = ()
    """Unix times of the recent ends that nobody asked for, before this life and in it."""
    retry_at: float = 0.0
    """Unix time at which it is started again by itself; 0: not."""

    @property
    def phase(self) -> str:
        return self.phases[-1].phase if self.phases else ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """``sandbox_id`` belongs to ``start``, ``reached`` to ``phase``, ``failure``, ``crashes`` and ``retry_at`` to
    ``failed``, ``note`` to ``ended``."""

    name: EventName
    now: float
    sandbox_id: str = ""
    reached: Reached | None = None
    failure: Failure | None = None
    note: str = ""
    crashes: tuple[float, ...] = ()
    retry_at: float = 0.0


class IllegalMove(Exception):  # noqa: N818 - says which move
    """The event makes no sense in this state."""


def advance(status: Status, event: Event) -> Status:
    """The status after ``event``.

    Raises:
        IllegalMove: the table has no such move.
    """
    target = TRANSITIONS[status.state].get(event.name)
    if target is None:
        raise IllegalMove(f"{event.name} while {status.state}")
    since = status.since if target == status.state else event.now
    if event.name == "start":
        return Status(
            state=target,
            sandbox_id=event.sandbox_id,
            since=since,
            started=event.now,
            crashes=status.crashes if status.retry_at else (),  # a person's start begins anew
        )
    phases = status.phases
    if event.reached is not None and event.reached.phase not in {reached.phase for reached in phases}:
        phases += (event.reached,)
    failure = status.failure
    if target == "failed" and failure is None:  # the first reason is the one that explains
        failure = event.failure or Failure(reason="sandbox_ended", message="The sandbox ended unexpectedly.")
    return msgspec.structs.replace(
        status,
        state=target,
        since=since,
        phases=phases,
        failure=failure,
        note=event.note or status.note,
        crashes=event.crashes or status.crashes,
        retry_at=event.retry_at if target == "failed" else 0.0,
    )
