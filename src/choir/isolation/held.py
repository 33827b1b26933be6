"""A desktop's sandbox that stands still until its person comes (``choir.isolation.contract.Prepared``).

It is started as every other: with its person's uid, mounts and limits, so that nothing has to be attached afterwards.
Its first process is told nothing but what to import, and waits. A sandbox is what it is by two things only, the plan's
steps and what its first process is told; the steps must be the same when somebody comes, the rest is told then.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choir.channel import Channel, ChannelClosed
from choir.errors import StartError
from choir.ids import new_id
from choir.isolation.begin import precompile, prepare_home, streams, tell
from choir.isolation.contract import Exited, SandboxSpec
from choir.isolation.host import inspect
from choir.isolation.launch import first_message
from choir.isolation.plan import Plan, wire
from choir.isolation.running import KeptSandbox
from choir.isolation.template import Template

PATIENCE = 5.0
"""Seconds that one may take to its listener: it takes a few milliseconds, and another can be started."""

MakePlan = Callable[[SandboxSpec], Plan]


@dataclass(frozen=True)
class Shape:
    """What of a sandbox is settled when it is started: all of the wired plan but what its first process is told, and
    which folders and files its paths were."""

    settled: dict[str, Any]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, wired: dict[str, Any]) -> Shape:
        """
        Raises:
            OSError: one of the paths is not there.
        """
        settled = {name: value for name, value in wired.items() if name not in ("first_process", "mark")}
        found = [os.stat(path) for path, _ in wired["sources"]]
        return cls(settled, tuple((each.st_dev, each.st_ino) for each in found))


class HeldSandbox:
    """Made by ``hold``."""

    def __init__(self, running: KeptSandbox, spec: SandboxSpec, shape: Shape, make_plan: MakePlan) -> None:
        self.sandbox_id = spec.sandbox_id
        self._running = running
        self._shape = shape
        self._make_plan = make_plan

    @property
    def keeper_pid(self) -> int:
        return self._running.keeper_pid

    @property
    def pid(self) -> int:
        return self._running.pid

    def poll(self) -> Exited | None:
        return self._running.poll()

    async def wait(self) -> Exited:
        return await self._running.wait()

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> KeptSandbox:
        started = time.monotonic()
        try:
            wired = wire(self._make_plan(spec), spec, inspect(), "")
            fits = spec.sandbox_id == self.sandbox_id and Shape.of(wired) == self._shape
        except OSError:  # a folder is gone
            fits = False
        if not fits:
            raise StartError("sandbox_unfit", "What this sandbox was prepared for is not what it is to be now.")
        running = self._running
        with streams(spec.log, stdio) as given:
            message = {"op": "claim", "started": started, "log": len(given) > 3, "socket": ""}
            told = first_message(wired)
            opened = [told]
            try:
                if running.keeper_socket is not None:
                    opened.append(os.open(running.keeper_socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    message["socket"] = running.keeper_socket.name
                running.claim(message, [told, *given, *opened[1:]], PATIENCE)
            finally:
                for descriptor in opened:
                    os.close(descriptor)
        try:
            await running.reach("listener")
        except asyncio.CancelledError:
            running.abandon()
            raise
        running.allow(spec.start_timeout)
        return running

    async def discard(self) -> None:
        if self._running.open:
            await self._running.stop(0)
        await self._running.gone()
        self._running.close()

    def abandon(self) -> None:
        self._running.abandon()


async def hold(spec: SandboxSpec, template: Template, keeper_socket: Path | None, make_plan: MakePlan) -> HeldSandbox:
    """Start one, up to where its first process waits.

    Args:
        keeper_socket: where its keeper is to listen once somebody has come.

    Raises:
        StartError, IsolationError: as ``Backend.prepare``.
    """
    host, mark = inspect(), new_id()
    precompile(host)
    prepare_home(spec.home)
    wired = wire(make_plan(spec), spec, host, mark)
    shape = Shape.of(wired)
    wired["first_process"] = {"hold": list(host.sites), "command": []}
    channel = _keeper(template, wired, spec.sandbox_id)
    running = KeptSandbox(
        channel, spec.sandbox_id, asyncio.get_running_loop().time() + spec.start_timeout, keeper_socket, mark
    )
    try:
        await running.held()
    except BaseException:
        running.abandon()
        raise
    return HeldSandbox(running, spec, shape, make_plan)


def _keeper(template: Template, wired: dict[str, Any], sandbox_id: str) -> Channel:
    channel = template.keeper()
    message = {"sandbox_id": sandbox_id, "started": time.monotonic(), "log": False, "socket": "", "hold": True}
    try:
        with streams(None, None) as given:
            tell(channel, message, wired, given)
    except ChannelClosed:
        pass  # whoever reads from it sees what happened
    except BaseException:
        channel.close()
        raise
    return channel
