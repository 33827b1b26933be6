"""Stops sandboxes that do no work (``culler`` decides). Looks only while there is something to stop."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from choir.errors import ChoirError
from choir.hypervisor import culler
from choir.hypervisor.culler import Signs
from choir.hypervisor.freeze import processor_seconds
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed


@dataclass
class _Look:
    at: float
    processor: float
    last_work: float


class IdleStop:
    """Args: ``seconds`` without work after which a sandbox is stopped; 0 for never."""

    def __init__(self, supervisor: Supervisor, feed: UsageFeed, seconds: float) -> None:
        self._supervisor = supervisor
        self._feed = feed
        self._seconds = seconds
        self._looks: dict[str, _Look] = {}
        """The last one by sandbox id."""

    async def run(self) -> None:
        """Returns at once when there is nothing to do, else never."""
        while self._seconds > 0:
            await asyncio.sleep(culler.pause(self._seconds))
            await self.look()

    async def look(self) -> None:
        """Judge every sandbox that is ready."""
        ready = [each for each in self._supervisor.sandboxes.values() if each.status.state == "ready" and each.running]
        ids = {sandbox.status.sandbox_id for sandbox in ready}
        for sandbox_id in self._looks.keys() - ids:
            del self._looks[sandbox_id]
        for sandbox_id in self._feed.last_call.keys() - ids:
            self._feed.forget(sandbox_id)
        if not ready:
            return
        try:
            calls = await self._calls()
        except ChoirError:  # nobody is stopped on what is not known
            return
        for sandbox in ready:
            if sandbox.running is not None and sandbox.status.state == "ready" and not sandbox.occupied:
                self._judge(sandbox, sandbox.running.pid, calls)

    async def _calls(self) -> dict[str, int]:
        """Model calls under way by sandbox id."""
        status = await self._supervisor.leases.gateway.status()
        return {each["sandbox_id"]: each["calls"] for each in status.get("sandboxes", ())}

    def _judge(self, sandbox: Sandbox, pid: int, calls: dict[str, int]) -> None:
        now, sandbox_id = time.time(), sandbox.status.sandbox_id
        processor = processor_seconds(pid)
        before = self._looks.get(sandbox_id)
        if before is None:
            self._looks[sandbox_id] = _Look(now, processor, now)
            return
        signs = Signs(
            last_work=before.last_work,
            looked=before.at,
            last_call=self._feed.last_call.get(sandbox_id, 0.0),
            last_input=sandbox.last_input,
            # The gateway lists a limited number; what it leaves out counts as at work.
            calls=calls.get(sandbox_id, 1),
            processor=max(0.0, processor - before.processor),
        )
        worked = culler.last_work(signs, now)
        self._looks[sandbox_id] = _Look(now, processor, worked)
        if culler.is_idle(worked, now, self._seconds):
            self._supervisor.stop(sandbox, culler.idle_note(self._seconds))
