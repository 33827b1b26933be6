"""What the registry says of every sandbox, in memory: who it belongs to, where its home is, what became of it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from choir.contract import Role
from choir.errors import ChoirError
from choir.hypervisor.lifecycle import Event, EventName, Status, advance
from choir.hypervisor.progress import Watch
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.spec import home_name, host_label
from choir.paths import State
from choir.storage.registry import Registry, SandboxRow

_log = structlog.get_logger("choir.hypervisor")


class Records:
    """Every sandbox of the deployment, by label. ``move`` writes each change down at once."""

    def __init__(self, state: State, registry: Registry) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        self.watch = Watch()
        """Of all of them together."""
        self._state = state
        self._registry = registry

    def load(self) -> list[Sandbox]:
        """What was written down before."""
        for row in self._registry.sandboxes():
            status = msgspec.json.decode(row.status, type=Status)
            self.sandboxes[row.label] = Sandbox(row.label, row.user, row.role, row.home, status)  # type: ignore[arg-type]
        return list(self.sandboxes.values())

    def seat(self, user: str, role: Role) -> Sandbox:
        """The sandbox of ``user`` in ``role``, started or not."""
        for sandbox in self.sandboxes.values():
            if (sandbox.user, sandbox.role) == (user, role):
                return sandbox
        label = host_label(user, role, self.sandboxes)
        home = home_name(user, {sandbox.home for sandbox in self.sandboxes.values()})
        sandbox = Sandbox(label, user, role, home, Status(since=time.time()))
        self._store(sandbox)
        self.sandboxes[sandbox.label] = sandbox
        return sandbox

    def forget(self, sandbox: Sandbox) -> None:
        """It and its home's name are nobody's any more; the home itself must be out of the way by now."""
        self._registry.drop_sandbox(sandbox.label)
        del self.sandboxes[sandbox.label]

    def move(self, sandbox: Sandbox, name: EventName, **more: Any) -> None:
        """Advance its status; ``more`` is ``Event``'s."""
        before = sandbox.status
        sandbox.status = advance(before, Event(name=name, now=time.time(), **more))
        if sandbox.status == before:
            return
        if sandbox.status.state != before.state:
            why = sandbox.status.failure.reason if sandbox.status.failure else ""
            _log.info("sandbox", sandbox_id=sandbox.status.sandbox_id, state=sandbox.status.state, reason=why)
        try:
            if name != "phase":  # it is on the clock, and an adopted keeper tells them again
                self._store(sandbox)
        except ChoirError as error:  # what happens, happens, even when it cannot be written down
            _log.error("registry_write_failed", reason=error.reason)
        sandbox.watch.changed()
        self.watch.changed()

    def exchange_homes(self, sandbox: Sandbox, other: Sandbox) -> None:
        """Each gets the other's home, and with it the uid of its files."""
        self._registry.exchange_homes(sandbox.label, other.label)
        sandbox.home, other.home = other.home, sandbox.home

    def host_uid(self, sandbox: Sandbox) -> int | None:
        """The uid that its home's files have and it runs under; None for our own."""
        return self._registry.host_uid(sandbox.home) if os.geteuid() == 0 else None

    def home_path(self, sandbox: Sandbox) -> Path:
        return self._state.homes / sandbox.home

    def log_path(self, sandbox: Sandbox) -> Path:
        """Where its stdout and stderr go."""
        return self._state.logs / f"sandbox-{sandbox.label}.log"

    def keeper_socket(self, sandbox: Sandbox) -> Path:
        return self._state.run / f"{sandbox.status.sandbox_id}.keeper"

    def _store(self, sandbox: Sandbox) -> None:
        status = msgspec.json.encode(sandbox.status).decode()
        self._registry.put_sandbox(SandboxRow(sandbox.label, sandbox.user, sandbox.role, sandbox.home, status))
