"""Where the audit attacks from: sandboxes of its own, with homes of their own, on the deployment's gateway."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from choir import ids, inside, tokens
from choir.app.run import Gateway
from choir.app.run_spec import own_uid
from choir.app.secrets import stored_key
from choir.config import Config
from choir.isolation.contract import Backend, Exited, Running, SandboxLimits, SandboxSpec
from choir.paths import State

USER = "choir-verify"
"""Whose the audit's calls are in the usage log."""
SECONDS = 90.0
_PREFIX = "verify-"


@dataclass
class Ground:
    """``program`` is a command that runs Python code inside."""

    config: Config
    state: State
    backend: Backend
    gateway: Gateway
    key: bytes
    host_uid: int | None
    homes: list[Path] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def open(cls, config: Config, state: State, backend: Backend, gateway: Gateway) -> Iterator[Ground]:
        """Nothing of it is left afterwards; what a killed one left goes now, when no other is at it."""
        ground = cls(config, state, backend, gateway, stored_key(state.token_key), own_uid(state, f"{USER}/probe"))
        lock = os.open(state.homes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in state.homes.glob(f"{_PREFIX}*"):
                    shutil.rmtree(left, ignore_errors=True)
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield ground
        finally:
            for home in ground.homes:
                shutil.rmtree(home, ignore_errors=True)
            os.close(lock)

    def home(self) -> Path:
        """A further empty home."""
        home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.state.homes))
        self.homes.append(home)
        self.give(home)
        return home

    def give(self, *paths: Path) -> None:
        """To the uid that the audit's sandboxes have."""
        if self.host_uid is not None:
            for path in paths:
                os.chown(path, self.host_uid, self.host_uid)

    def write(self, home: Path, name: str, text: str) -> Path:
        """A file in a home, as if an agent had left it there."""
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        folders = [parent for parent in path.parents if parent.is_relative_to(home) and parent != home]
        self.give(path, *folders)
        return path

    def spec(self, *command: str, home: Path | None = None, **changes: Any) -> SandboxSpec:
        """Of a sandbox that runs ``command`` as the deployment would run one."""
        sandbox_id = ids.new_id()
        token = tokens.sign(self.key, sandbox_id)
        sandbox = self.config.sandbox
        spec = SandboxSpec(
            sandbox_id=sandbox_id,
            user_id=USER,
            role="probe",
            home=home or self.home(),
            host_uid=self.host_uid,
            environment=inside.identity_environment(sandbox_id, USER, "probe", token)
            | inside.provider_environment(self.gateway.providers, token),
            command=command,
            limits=SandboxLimits(
                max_processes=sandbox.max_processes,
                max_open_files=sandbox.max_open_files,
                max_memory_bytes=sandbox.max_memory_bytes,
                max_disk_bytes=sandbox.max_disk_bytes,
                cpu_weight=sandbox.cpu_weight,
            ),
            start_timeout=sandbox.start_timeout,
        )
        return spec._replace(**changes)

    @contextlib.asynccontextmanager
    async def running(self, spec: SandboxSpec, attached: bool = False) -> Any:
        """``(running, read end of its output)`` while the block lasts, and nothing of it afterwards."""
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            running = await self.backend.start(spec, (null, write, null))
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
            os.close(null)
        control = self.gateway.control
        try:
            with open(read, "rb") as output:  # noqa: ASYNC230 - a pipe, read on a thread
                if attached:
                    await control.attach(spec.sandbox_id, spec.user_id, spec.role, running.listener, lease_s=SECONDS)
                await running.wait_ready()
                yield running, output
        finally:
            if attached:
                await control.detach(spec.sandbox_id)
            await running.stop(0.0)
            running.close()

    async def output(self, spec: SandboxSpec, attached: bool = False) -> bytes:
        """What its command printed, once it has ended.

        Raises:
            ChoirError: it did not start.
        """
        async with self.running(spec, attached) as (_, output):
            return await asyncio.wait_for(asyncio.to_thread(output.read), SECONDS)

    async def ended(self, spec: SandboxSpec) -> Exited:
        """How it ended, by itself or by its limits."""
        async with self.running(spec) as (running, output):
            await asyncio.wait_for(asyncio.to_thread(output.read), SECONDS)
            return await asyncio.wait_for(_wait(running), SECONDS)

    async def answer(self, spec: SandboxSpec, attached: bool = False) -> Any:
        """The JSON that it printed; None when it printed none."""
        try:
            return json.loads(await self.output(spec, attached))
        except ValueError:
            return None


async def _wait(running: Running) -> Exited:
    return await running.wait()


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """A command that runs ``code``, with nothing of the home in its way."""
    return (sys.executable, "-I", "-c", code, *arguments)
