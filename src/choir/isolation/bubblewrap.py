"""The default backend: bubblewrap, started and held by one keeper per sandbox.

As an ordinary user the launcher binds the folders itself. Started by root it runs under ``spec.host_uid``, and the
keeper stages the folders for it (``choir.isolation.staging``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

from choir.channel import ChannelClosed, connect
from choir.errors import StartError
from choir.isolation.begin import begin, make_plan
from choir.isolation.contract import SandboxSpec
from choir.isolation.held import HeldSandbox, hold
from choir.isolation.host import inspect
from choir.isolation.limits import describe
from choir.isolation.plan import Plan
from choir.isolation.running import KeptSandbox
from choir.isolation.template import Template, own_template

PROBE_UID = 1_899_999_999
"""Host uid of probe sandboxes started by root; far above what systems and /etc/subuid hand out."""


class BubblewrapBackend:
    """``choir.isolation.contract.Backend``.

    Args:
        run: folder for keepers' control sockets, 0700. Without it no sandbox outlives this process.
        template: where keepers come from; None: this process's own.
    """

    name = "bubblewrap"

    def __init__(self, run: Path | None = None, template: Template | None = None) -> None:
        self._run = run
        self._template = template

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        """What ``start`` would do."""
        return make_plan(spec, terminal)

    def explain(self, spec: SandboxSpec) -> list[str]:
        return [f"{inspect().launcher} ({inspect().launcher.path})", *self.plan(spec).describe()]

    async def probe(self) -> str:
        host = inspect()
        with tempfile.TemporaryDirectory(prefix="choir-probe-") as home:
            root = os.geteuid() == 0
            spec = SandboxSpec(
                sandbox_id="probe",
                user_id="probe",
                role="probe",
                home=Path(home),
                host_uid=PROBE_UID if root else None,
                environment={},
                command=("true",),
            )
            running = await self.start(spec)
            try:
                await running.wait_ready()
                await running.wait()
            finally:
                running.close()
        plan = self.plan(spec)
        rules, landlock = plan.filter, plan.first_process["landlock"]
        return (
            f"{host.launcher} · user+pid+net+ipc+uts+cgroup namespaces · no network · "
            f"seccomp {rules.rules if rules else 0} rules · "
            f"{'landlock ABI ' + str(landlock['abi']) if landlock else 'no landlock'} · {describe(running.limits)}"
        )

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> KeptSandbox:
        keeper_socket = self._socket(spec)
        channel, mark = begin(spec, stdio, self._template or own_template(), keeper_socket, self.plan)
        loop = asyncio.get_running_loop()
        running = KeptSandbox(channel, spec.sandbox_id, loop.time() + spec.start_timeout, keeper_socket, mark)
        try:
            await running.reach("listener")
        except BaseException:
            running.abandon()
            raise
        return running

    async def prepare(self, spec: SandboxSpec) -> HeldSandbox:
        return await hold(spec, self._template or own_template(), self._socket(spec), self.plan)

    def _socket(self, spec: SandboxSpec) -> Path | None:
        """Keepers of people's own sandboxes outlive this process; the others end with it."""
        return self._run / f"{spec.sandbox_id}.keeper" if self._run and spec.role in ("live", "dev") else None

    async def adopt(self, keeper_socket: Path) -> KeptSandbox:
        folder = os.open(keeper_socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            channel = connect(f"/proc/self/fd/{folder}/{keeper_socket.name}")
        except ChannelClosed:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(keeper_socket)
            raise StartError("keeper_gone", f"No keeper answers at {keeper_socket}; its sandbox has ended.") from None
        finally:
            os.close(folder)
        loop = asyncio.get_running_loop()
        running = KeptSandbox(channel, keeper_socket.stem, loop.time() + 30.0, keeper_socket, "")
        adopted = False
        try:
            adopted = await running.adopted()
        finally:
            if not adopted:
                running.close()
        if adopted:
            return running
        raise StartError("keeper_gone", f"The keeper at {keeper_socket} died.")
