"""What is done to sandboxes as a whole: restart, swap, snapshot, restore, setting a file aside.

Swap promotes ``dev`` to ``live``: the two exchange their homes (each with the uid of its files), so doing it again
takes it back. Both are stopped for it, and started again if they ran. The exchange is one transaction of the registry,
which alone says whose home a folder is; no file moves. A hypervisor that is killed before it leaves both stopped and
as before, after it both stopped and exchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from choir.contract import Role
from choir.errors import ChoirError, StartError
from choir.hypervisor.freeze import frozen
from choir.hypervisor.lifecycle import ALIVE
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.workspace import Snapshot, Workspaces


class Maintenance:
    """Operations that wait until they are done. Each raises ``StartError`` ``busy`` when another is under way."""

    def __init__(self, supervisor: Supervisor, workspaces: Workspaces) -> None:
        self._supervisor = supervisor
        self._workspaces = workspaces

    async def restart(self, sandbox: Sandbox) -> None:
        """Stop it, wait for its end, start it.

        Raises:
            StartError: as ``Supervisor.start``.
        """
        async with self._at_rest("It is being restarted.", sandbox):
            pass
        self._supervisor.start(sandbox)

    async def swap(self, user: str) -> tuple[Sandbox, Sandbox]:
        """Exchange the homes of the user's ``live`` and ``dev``."""
        live, dev = self._supervisor.seat(user, "live"), self._supervisor.seat(user, "dev")
        async with self._at_rest("Live and dev are being swapped.", live, dev):
            self._supervisor.records.exchange_homes(live, dev)
        return live, dev

    async def snapshot(self, sandbox: Sandbox) -> Snapshot:
        """Take one. While it runs its processes stand still for as long: what is copied is what a power failure at
        that moment would have left, which databases can go on from.

        Raises:
            ChoirError: ``no_home``, ``too_deep``, ``no_space``.
        """
        if not self._supervisor.records.home_path(sandbox).is_dir():
            raise ChoirError("no_home", f"{sandbox.label} has never been started: there is nothing to keep.")
        with sandbox.occupy("A snapshot of it is being taken."):
            if sandbox.status.state in ("starting", "stopping"):
                await sandbox.settled(self._supervisor.config.sandbox.start_timeout)
            pid = sandbox.running.pid if sandbox.running is not None else 0
            return await asyncio.to_thread(self._snapshot, sandbox.label, sandbox.home, pid)

    def _snapshot(self, label: str, home: str, pid: int) -> Snapshot:
        with frozen(pid) if pid else contextlib.nullcontext():
            return self._workspaces.snapshot(label, home)

    def snapshots(self, sandbox: Sandbox) -> list[Snapshot]:
        """Newest first."""
        return self._workspaces.snapshots(sandbox.label)

    async def restore(self, sandbox: Sandbox, name: str, role: Role | None = None) -> Snapshot:
        """Make its home what a snapshot holds; what it was before becomes a snapshot too, which is returned.

        Args:
            role: whose snapshot of the same user, when not its own: so dev can begin from live.

        Raises:
            ChoirError: ``unknown_snapshot``, ``snapshot_broken``, ``no_space``; the home is as before.
        """
        source = self._supervisor.seat(sandbox.user, role or sandbox.role)
        snapshot = self._workspaces.find(source.label, name)
        home, records = sandbox.home, self._supervisor.records
        async with self._at_rest("A snapshot of it is being restored.", sandbox):
            records.home_path(sandbox).mkdir(mode=0o700, exist_ok=True)
            owner = records.host_uid(sandbox)
            return await asyncio.to_thread(self._restore, sandbox.label, snapshot, home, owner)

    def _restore(self, label: str, snapshot: Snapshot, home: str, owner: int | None) -> Snapshot:
        with snapshot.path.open("rb") as held:  # the one below may push it out
            before = self._workspaces.snapshot(label, home)
            self._workspaces.restore(held, home, owner)
        return before

    async def set_aside(self, sandbox: Sandbox) -> Path:
        """Move the file that its last start named out of its reach, and start it again.

        Raises:
            ChoirError: ``no_file`` is to blame; ``link_refused``, ``file_gone``.
        """
        failure = sandbox.status.failure
        if failure is None or not failure.file:
            raise ChoirError("no_file", "No file is in the way of this sandbox.")
        async with self._at_rest("A file of it is being set aside.", sandbox):
            moved = await asyncio.to_thread(self._workspaces.set_aside, sandbox.label, sandbox.home, failure.file)
        self._supervisor.start(sandbox)
        return moved

    @contextlib.asynccontextmanager
    async def _at_rest(self, sentence: str, *sandboxes: Sandbox) -> AsyncIterator[None]:
        """None of them runs within the block; those that did, run again after it."""
        ran = [sandbox for sandbox in sandboxes if sandbox.status.state in ALIVE or sandbox.status.retry_at]
        try:
            with contextlib.ExitStack() as stack:
                for sandbox in sandboxes:
                    stack.enter_context(sandbox.occupy(sentence))
                for sandbox in sandboxes:
                    self._supervisor.stop(sandbox)
                for sandbox in sandboxes:
                    await sandbox.ended()
                    await self._supervisor.standby.discard(sandbox)
                yield
        finally:
            for sandbox in ran:
                with contextlib.suppress(StartError):  # too many at once: they are as after a stop
                    self._supervisor.start(sandbox)
            self._supervisor.standby.wake()
