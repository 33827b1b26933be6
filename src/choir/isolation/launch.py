"""Start the launcher from a wired plan (``choir.isolation.plan.wire``); the keeper's one fork."""

from __future__ import annotations

import json
import os
from binascii import a2b_base64

from choir.channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BOOT = "import sys; sys.path.append(sys.argv[1]); from choir.sandbox.init import main; main(int(sys.argv[2]))"


class Launch:
    """A started launcher.

    Attributes:
        pid: of the launcher.
        inner: the keeper's end of the channel to the sandbox's first process.
    """

    def __init__(self, pid: int, inner: Channel, information: int) -> None:
        self.pid = pid
        self.inner = inner
        self._information = information

    def first_pid(self) -> int | None:
        """The pid of pid 1 inside, once the launcher has told (``--info-fd``), which is before pid 1 does anything."""
        try:
            pid: int = json.loads(os.pread(self._information, 4096, 0))["child-pid"]
        except ValueError:
            return None
        return pid


class _Passed:
    """Descriptors that the launcher inherits."""

    def __init__(self, *descriptors: int) -> None:
        self.descriptors = list(descriptors)

    def memory(self, name: str, content: bytes) -> str:
        """The number of a new descriptor from which ``content`` can be read. The first process closes what is left of
        these by the prefix of their name."""
        descriptor = os.memfd_create(f"choir-{name}")
        self.descriptors.append(descriptor)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return str(descriptor)

    def inherit(self) -> None:
        for descriptor in self.descriptors:
            os.set_inheritable(descriptor, True)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def launch(plan: dict[str, Any], log: int, join: Callable[[], None]) -> Launch:
    """Stage the folders when root, then start the launcher with an empty environment.

    Args:
        plan: as wired.
        log: a descriptor for what the launcher and the first process print.
        join: called in the launcher before it is one, as who we are: puts it under its limits.

    Raises:
        IsolationError, StartError: see ``choir.isolation.staging.stage``.
        OSError: out of descriptors, memory or processes.
    """
    sources: list[tuple[str, bool]] = [(path, owned) for path, owned in plan["sources"]]
    places = [path for path, _ in sources]
    host_uid = None
    if os.geteuid() == 0:
        from choir.isolation.staging import stage

        host_uid = plan["host_uid"]
        places = stage(sources, host_uid, {path: tuple(found) for path, found in plan["seen"]})
    inner, theirs = Channel.pair()
    channel = theirs.sock.detach()
    passed = _Passed(channel)
    arguments = _arguments(plan, places, passed)
    # Not a pipe: a keeper that dies must not make the launcher fail half-way, with pid 1 waiting for it.
    information = passed.memory("information", b"")
    arguments += ["--info-fd", information, "--chdir", "/"]
    packed = passed.memory("arguments", b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
    launcher = places[plan["launcher"][0]] + plan["launcher"][1]
    command = [plan["python"], "-I", "-S", "-c", _BOOT, plan["source"], str(channel), plan["mark"]]
    pid = _spawn([launcher, "--args", packed, "--", *command], passed, log, host_uid, join)
    kept = os.dup(int(information))
    passed.close()
    return Launch(pid, inner, kept)


def _arguments(plan: dict[str, Any], places: list[str], passed: _Passed) -> list[str]:
    arguments = []
    for argument in plan["arguments"]:
        if isinstance(argument, list):
            arguments.append(places[argument[0]] + argument[1])
        elif isinstance(argument, dict):
            arguments.append(passed.memory("data", argument["data"].encode()))
        else:
            arguments.append(argument)
    if plan["seccomp"]:
        arguments += ["--seccomp", passed.memory("seccomp", a2b_base64(plan["seccomp"]))]
    return arguments


def _spawn(arguments: list[str], passed: _Passed, log: int, host_uid: int | None, join: Callable[[], None]) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    passed.inherit()
    pid = os.fork()
    if pid:
        os.close(null)
        return pid
    try:
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        join()
        if host_uid is not None:
            os.setgroups([])
            os.setresgid(host_uid, host_uid, host_uid)
            os.setresuid(host_uid, host_uid, host_uid)
        os.execve(arguments[0], arguments, {})  # noqa: S606 - no shell is the point
    except BaseException as error:
        os.write(2, f"{arguments[0]}: {error}\n".encode())
    os._exit(127)


def first_message(plan: dict[str, Any]) -> int:
    """A descriptor from which the first process reads what it is to do; not in its argv or environment."""
    descriptor = os.memfd_create("choir-plan")
    os.write(descriptor, json.dumps(plan["first_process"]).encode())
    return descriptor
