"""The beginning of a sandbox: a keeper that was told the plan. No event loop: ``choir run`` is on the clock."""

from __future__ import annotations

import _socket
import contextlib
import functools
import importlib.util
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from choir import plain_json
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import StartError, is_full
from choir.ids import new_id
from choir.isolation import plan as planning
from choir.isolation.contract import Exited, SandboxSpec
from choir.isolation.host import Host, inspect
from choir.isolation.listener import check_listener
from choir.isolation.template import Template

_FIRST_PROCESS = (
    "__init__", "channel", "errors", "isolation/__init__", "isolation/guards", "isolation/landlock", "keyfiles",
    "keyless", "plain_json", "sandbox/__init__", "sandbox/doorman", "sandbox/init", "token_shape",
)  # fmt: skip


def make_plan(spec: SandboxSpec, terminal: str = "") -> planning.Plan:
    """On this host, by this process.

    Args:
        terminal: path of the terminal that the command gets, if any.
    """
    return planning.build(spec, inspect(), root=os.geteuid() == 0, terminal=terminal)


def begin(
    spec: SandboxSpec,
    stdio: tuple[int, int, int] | None,
    template: Template,
    keeper_socket: Path | None = None,
    plan: Callable[[SandboxSpec, str], planning.Plan] = make_plan,
) -> tuple[Channel, str]:
    """A keeper's channel, and the mark of the launcher that it starts.

    Args:
        stdio: descriptors for the command; None: none, and the log.
        keeper_socket: where the keeper is to listen when the sandbox may outlive this process.

    Raises:
        StartError, IsolationError: it was not begun.
    """
    started = time.monotonic()
    mark = new_id()
    host = inspect()
    precompile(host)
    channel = template.keeper()  # it comes while the plan is made
    try:
        terminal = os.ttyname(stdio[0]) if stdio and os.isatty(stdio[0]) else ""
        planned = plan(spec, terminal)
        prepare_home(spec.home)
        with streams(spec.log, stdio) as given:
            message = {
                "sandbox_id": spec.sandbox_id,
                "started": started,
                "log": len(given) > 3,
                "socket": str(keeper_socket) if keeper_socket else "",
            }
            tell(channel, message, planning.wire(planned, spec, host, mark), given)
    except ChannelClosed:
        pass  # whoever reads from it sees what happened
    except BaseException:
        channel.close()
        raise
    return channel, mark


def listener_of(keeper: Channel, seconds: float) -> _socket.socket:
    """Wait for the listener of a sandbox that has begun, checked.

    Raises:
        StartError, KeylessError, IsolationError: it ended first, took longer than ``seconds``, or passed something
            else; it ends when the caller closes ``keeper``.
    """
    until = time.monotonic() + seconds
    while select.select([keeper], [], [], max(0.0, until - time.monotonic()))[0]:
        try:
            message, descriptors = keeper.receive()
        except ChannelClosed:
            raise StartError("keeper_died", "The sandbox's keeper died, and the sandbox with it.") from None
        if message["event"] == "exited":
            from choir.isolation.history import start_error

            known = ("code", "signal", "reason", "message", "hint", "log_tail")
            raise start_error(Exited(**{name: message[name] for name in known}))
        if message.get("phase") == "listener":
            listener = _socket.socket(fileno=descriptors[0])
            try:
                check_listener(listener, message["first_pid"])
            except BaseException:
                listener.close()
                raise
            return listener
    raise StartError("start_timeout", f"The sandbox had no listener after {seconds:g} s.")


@functools.cache
def precompile(host: Host) -> None:
    """Bytecode for the first process, which cannot write any itself."""
    for name in _FIRST_PROCESS:
        path = os.path.join(host.source, "choir", f"{name}.py")
        if not _is_compiled(path, importlib.util.cache_from_source(path)):
            import py_compile

            with contextlib.suppress(OSError, py_compile.PyCompileError):  # only slower
                py_compile.compile(path, doraise=True)


def _is_compiled(path: str, compiled: str) -> bool:
    """Whether an interpreter would take ``compiled`` for ``path`` as it is now (PEP 552)."""
    try:
        with open(compiled, "rb") as file:
            head = file.read(16)
        info = os.stat(path)
    except OSError:
        return False
    flags, changed, size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 8, 12))
    return bool(flags) or (changed, size) == (int(info.st_mtime) & 0xFFFFFFFF, info.st_size & 0xFFFFFFFF)


def prepare_home(home: Path) -> None:
    """Make the folder, mode 0700.

    Raises:
        StartError: ``no_space`` or ``home_unwritable``.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = "no_space" if is_full(error) else "home_unwritable"
        raise StartError(reason, f"Cannot make the sandbox's home {home}: {error.strerror}.") from error


def tell(channel: Channel, message: Message, wired: dict[str, Any], given: list[int]) -> None:
    """Send a keeper ``message`` with its plan, as a file in memory, and the descriptors ``given``.

    Raises:
        ChannelClosed: it is gone.
    """
    plan = os.memfd_create("choir-plan")
    try:
        os.write(plan, plain_json.dumps(wired).encode())
        channel.send(message, [plan, *given])
    finally:
        os.close(plan)


@contextlib.contextmanager
def streams(log: Path | None, stdio: tuple[int, int, int] | None) -> Iterator[list[int]]:
    """Three descriptors for the command and, when they are none of its own, one to read the log's tail from if there is
    a log.

    Raises:
        StartError: ``no_space`` or ``log_unwritable``.
    """
    if stdio is not None:
        yield list(stdio)
        return
    opened = [os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)]
    try:
        if log is None:
            yield [opened[0], opened[0], opened[0]]
            return
        try:
            opened.append(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
            opened.append(os.open(log, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            reason = "no_space" if is_full(error) else "log_unwritable"
            raise StartError(reason, f"Cannot write the sandbox's log {log}: {error.strerror}.") from error
        yield [opened[0], opened[1], opened[1], opened[2]]
    finally:
        for descriptor in opened:
            os.close(descriptor)
