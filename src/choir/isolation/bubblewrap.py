"""The default backend: bubblewrap, started and held by one keeper per sandbox.

As an ordinary user the launcher binds the folders itself. Started by root it runs under ``spec.host_uid``, and the
keeper stages the folders for it (``choir.isolation.staging``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import os
import py_compile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from choir.channel import Channel, ChannelClosed, connect
from choir.errors import StartError
from choir.ids import new_id
from choir.isolation import plan as planning
from choir.isolation.contract import SandboxSpec
from choir.isolation.host import Host, inspect
from choir.isolation.limits import describe
from choir.isolation.running import KeptSandbox

PROBE_UID = 1_899_999_999
"""Host uid of probe sandboxes started by root; far above what systems and /etc/subuid hand out."""

_BOOT = "import sys; sys.path.append(sys.argv[1]); from choir.isolation.keeper import main; main(int(sys.argv[2]))"
_CHANNEL = 3
_FIRST_PROCESS = (
    "__init__", "channel", "errors", "isolation/__init__", "isolation/landlock", "keyfiles", "keyless",
    "sandbox/__init__", "sandbox/init", "tokens",
)  # fmt: skip


class BubblewrapBackend:
    """``choir.isolation.contract.Backend``.

    Args:
        run: folder for keepers' control sockets, 0700. Without it no sandbox outlives this process.
    """

    name = "bubblewrap"

    def __init__(self, run: Path | None = None) -> None:
        self._run = run

    def plan(self, spec: SandboxSpec, terminal: str = "") -> planning.Plan:
        """What ``start`` would do."""
        return planning.build(spec, inspect(), root=os.geteuid() == 0, terminal=terminal)

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
        started = time.monotonic()
        mark = new_id()
        host = inspect()
        _precompile(host)
        # Keepers of people's own sandboxes outlive this process; the others end with it.
        keeper_socket = self._run / f"{spec.sandbox_id}.keeper" if self._run and spec.role in ("live", "dev") else None
        channel = _spawn_keeper(host)  # it imports while the plan is made
        try:
            plan = self.plan(spec, os.ttyname(stdio[0]) if stdio and os.isatty(stdio[0]) else "")
            _prepare_home(spec.home)
            with _descriptors(planning.wire(plan, spec, host, mark), spec.log, stdio) as descriptors:
                channel.send(
                    {
                        "started": started,
                        "log": len(descriptors) > 4,
                        "socket": str(keeper_socket) if keeper_socket else "",
                    },
                    descriptors,
                )
        except ChannelClosed:
            pass  # the reader says what happened
        except BaseException:
            channel.close()
            raise
        loop = asyncio.get_running_loop()
        running = KeptSandbox(channel, spec.sandbox_id, loop.time() + spec.start_timeout, keeper_socket, mark)
        try:
            await running.reach("listener")
        except BaseException:
            running.abandon()
            raise
        return running

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
        if await running.adopted():
            return running
        running.close()
        raise StartError("keeper_gone", f"The keeper at {keeper_socket} died.")


@functools.cache
def _precompile(host: Host) -> None:
    """Bytecode for the first process, which cannot write any itself."""
    for name in _FIRST_PROCESS:
        path = os.path.join(host.source, "choir", f"{name}.py")
        if not os.path.exists(importlib.util.cache_from_source(path)):
            with contextlib.suppress(OSError, py_compile.PyCompileError):  # only slower
                py_compile.compile(path, doraise=True)


def _spawn_keeper(host: Host) -> Channel:
    """Start a keeper with an empty environment in a session of its own; it is reaped by the event loop."""
    loop = asyncio.get_running_loop()
    ours, theirs = Channel.pair()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            host.python,
            [host.python, "-I", "-S", "-c", _BOOT, host.source, str(_CHANNEL)],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), _CHANNEL),
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
            ],
            setsid=True,
        )
    finally:
        theirs.close()
        os.close(null)
    pidfd = os.pidfd_open(pid)

    def reap() -> None:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    loop.add_reader(pidfd, reap)
    return ours


def _prepare_home(home: Path) -> None:
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = "no_space" if error.errno in (28, 122) else "home_unwritable"
        raise StartError(reason, f"Cannot make the sandbox's home {home}: {error.strerror}.") from error


@contextlib.contextmanager
def _descriptors(wired: dict[str, Any], log: Path | None, stdio: tuple[int, int, int] | None) -> Iterator[list[int]]:
    """What goes to the keeper: the plan, three descriptors for the command, and one to read the log's tail from."""
    opened = [os.memfd_create("choir-plan")]
    try:
        os.write(opened[0], json.dumps(wired).encode())
        if stdio is not None:
            yield [opened[0], *stdio]
            return
        opened.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        if log is None:
            yield [opened[0], opened[1], opened[1], opened[1]]
            return
        try:
            opened.append(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
            opened.append(os.open(log, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            reason = "no_space" if error.errno in (28, 122) else "log_unwritable"
            raise StartError(reason, f"Cannot write the sandbox's log {log}: {error.strerror}.") from error
        yield [opened[0], opened[1], opened[2], opened[2], opened[3]]
    finally:
        for descriptor in opened:
            os.close(descriptor)
