"""A sandbox's start as a stream of server-sent events that can be read again from any point.

Events are worked out from the stored ``Status``, so a page opened later, or after a restart of the hypervisor, sees
the same ones. Ids are ``SANDBOX_ID-N``; the last event is terminal and the stream ends with it.
(https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from choir.hypervisor.lifecycle import SETTLED, Failure, Status

KEEPALIVE_SECONDS = 15.0
RETRY_MS = 1000
KEEPALIVE = b": still here\n\n"
OPENING = b"retry: %d\n\n" % RETRY_MS


@dataclass(frozen=True)
class ProgressEvent:
    """``kind`` is phase, stopping, or a terminal one: ready, failed, stopped, absent, signed_out."""

    id: str
    kind: str
    data: dict[str, Any]

    def encode(self) -> bytes:
        return f"id: {self.id}\nevent: {self.kind}\ndata: {json.dumps(self.data, separators=(',', ':'))}\n\n".encode()


SIGNED_OUT = ProgressEvent("signed-out-0", "signed_out", {"message": "You are signed out."})


def events_of(status: Status) -> list[ProgressEvent]:
    """Everything that has happened in this life, oldest first."""
    happened: list[tuple[str, dict[str, Any]]] = [
        ("phase", {"phase": reached.phase, "at": round(reached.at, 3)}) for reached in status.phases
    ]
    if status.state == "stopping":
        happened.append(("stopping", {}))
    elif status.state in SETTLED:
        happened.append((status.state, describe(status.failure) if status.failure else {}))
    prefix = status.sandbox_id or "none"
    return [ProgressEvent(f"{prefix}-{number}", kind, data) for number, (kind, data) in enumerate(happened, 1)]


def describe(failure: Failure) -> dict[str, Any]:
    """A failure as pages and programs are told it."""
    return {
        "reason": failure.reason,
        "message": failure.message,
        "hint": failure.hint,
        "exit": failure.code,
        "signal": failure.signal,
        "log_tail": failure.log_tail,
    }


def unseen(status: Status, last_id: str) -> list[ProgressEvent]:
    """What a reader that has seen ``last_id`` ("" for none) has not; everything when the id is of another life."""
    happened = events_of(status)
    prefix, _, number = last_id.rpartition("-")
    if prefix != (status.sandbox_id or "none") or not number.isdigit():
        return happened
    seen = int(number)
    if status.state in SETTLED:  # the terminal event is said again to whoever asks again
        seen = min(seen, len(happened) - 1)
    return happened[seen:]


class Watch:
    """Wakes everybody who waits for the next change of something."""

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def changed(self) -> None:
        self.version += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def after(self, version: int, seconds: float | None) -> bool:
        """Whether there was a change after ``version`` within ``seconds``."""
        if self.version != version:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._waiting.discard(future)


async def stream(
    current: Callable[[], Status], watch: Watch, last_id: str = "", closing: Callable[[], bool] = lambda: False
) -> AsyncIterator[bytes]:
    """The encoded stream, from after ``last_id`` to the terminal event, or until ``closing``: its reader asks again,
    whoever then answers."""
    yield OPENING
    while True:
        version, status = watch.version, current()
        for event in unseen(status, last_id):
            yield event.encode()
            last_id = event.id
        if status.state in SETTLED or closing():
            return
        if not await watch.after(version, KEEPALIVE_SECONDS):
            yield KEEPALIVE
