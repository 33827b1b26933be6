"""The keeper: one small process per sandbox, outside it, that starts it, holds its descriptors and sees it end.

It receives the plan over its channel, starts the launcher from its only thread (``--die-with-parent`` means that
thread: a killed keeper takes the sandbox along), and relays what the sandbox's first process says. To its clients it
sends, in order and again to every new one::

    {"event": "hello", "keeper_pid", "pid", "mark", "limits"}
    {"event": "phase", "phase", "at"}        with "listener": first_pid, [gateway listener, desktop socket if any]
    {"event": "exited", "code", "signal", "reason", "message", "hint", "log_tail"}

and takes ``{"op": "proceed"}``, ``{"op": "stop", "grace", "reason", "message"}`` and ``{"op": "resize", "rows",
"columns"}``. With a control socket it outlives its parent once the sandbox was told to proceed, and keeps the exit
status until somebody has asked. Standard library only; forked from ``choir.isolation.template``.

One that was told to *hold* starts the sandbox without a plan for its first process, says ``{"event": "held"}`` when
that waits for one, and passes on what comes with ``{"op": "claim", "started", "log", "socket"}``: what the first
process reads, three descriptors for the desktop, perhaps the log, perhaps the folder of the control socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time

from choir.channel import Channel, ChannelClosed
from choir.errors import ChoirError, is_full
from choir.isolation.clients import Clients
from choir.isolation.launch import Launch, first_message, launch
from choir.isolation.launch_errors import explain_launch_failure
from choir.isolation.limits import Limits
from choir.isolation.strays import kill_strays
from choir.isolation.terminals import Bound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LOG_TAIL = 4096  # bytes
_LINGER = 600.0  # seconds that an exit status waits for somebody to ask
_TREE_GONE = 5.0  # seconds to wait for the last process after the kill


class Keeper:
    """One sandbox's keeper. ``run`` returns when the sandbox is gone and everybody was told.

    Args:
        message: ``sandbox_id``, ``started`` (monotonic seconds), ``log`` (whether a descriptor to read the log from is
            the last), ``socket`` (path of the control socket or ""), ``hold`` (when it is to be held).
        descriptors: the plan, three for the command, perhaps the log.
    """

    def __init__(self, parent: Channel, message: dict[str, Any], descriptors: list[int]) -> None:
        self._started: float = message["started"]
        self._socket_path: str = message["socket"]
        with open(descriptors.pop(0), "rb") as file:
            file.seek(0)
            self._plan: dict[str, Any] = json.loads(file.read())
        self._log = descriptors.pop() if message["log"] else -1
        self._stdio = descriptors
        self._terminal = self._stdio[0] if os.isatty(self._stdio[0]) else -1
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._clients = Clients(parent, self._watch, self._unwatch, self._hear, self._orphaned)
        self._inner: Channel | None = None
        self._launched: Launch | None = None
        self._limits: Limits | None = None
        self._launcher_pidfd = -1
        self._launcher_log = os.memfd_create("choir-launcher-log")
        self._first_pidfd = -1  # pid 1 inside: its death is the death of all
        self._command_pidfd = -1
        self._phases: set[str] = set()
        self._held: bool = message.get("hold", False)
        self._proceeded = False
        self._executing = False
        self._terminals: Bound | None = None
        self._failure: dict[str, str] | None = None
        self._kill_at: float | None = None
        self._ended = False

    def run(self) -> None:
        if not self._held:
            self._phase("keeper")
        try:
            if self._socket_path:
                self._clients.listen(self._socket_path)
            self._launch()
        except (ChoirError, OSError) as error:
            self._exited(None, None, _as_failure(error))
        while not self._ended:
            self._turn()
        until = time.monotonic() + _LINGER
        while self._clients.may_return and not self._clients and time.monotonic() < until:
            self._turn(until)
        self._clients.close()

    # The event loop.

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _turn(self, until: float | None = None) -> None:
        looking = self._limits.next_look if self._limits is not None and not self._ended else None
        moments = [moment for moment in (self._kill_at, until, looking) if moment is not None]
        wait = max(0.0, min(moments) - time.monotonic()) * 1000 if moments else None
        for descriptor, _ in self._poll.poll(wait):
            handler = self._handlers.get(descriptor)
            if handler is not None:
                handler()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._kill_at = None
            self._kill()
        if self._limits is not None and looking is not None and not self._ended and time.monotonic() >= looking:
            failure = self._limits.look(time.monotonic())
            if failure is not None:
                self._fail(**failure)
                self._kill()

    # Clients.

    def _phase(self, name: str, descriptors: list[int] | None = None, **more: Any) -> None:
        self._phases.add(name)
        message = {"event": "phase", "phase": name, "at": time.monotonic() - self._started, **more}
        self._clients.publish(message, descriptors or [])

    def _orphaned(self) -> None:
        if not (self._clients.may_return and self._proceeded):
            self._fail("abandoned", "Whoever started the sandbox is gone.")
            self._kill()

    def _hear(self, message: dict[str, Any], descriptors: list[int]) -> None:
        operation = message.get("op")
        if operation == "claim" and self._held:
            self._claim(message, descriptors)
        elif operation == "proceed" and not (self._proceeded or self._held):
            self._proceeded = True
            self._bind_terminals()
            self._say({"op": "proceed"}, [])
            self._find_first()
            first = self._launched.first_pid() if self._launched is not None else None
            if self._limits is not None and first is not None:
                self._limits.begin(time.monotonic(), first)
        elif operation == "stop":
            self._fail(message.get("reason", "stopped"), message.get("message", "The sandbox was stopped."))
            self._stop(message.get("grace", 0.0))
        elif operation == "resize" and self._terminal >= 0:
            import termios

            termios.tcsetwinsize(self._terminal, (message["rows"], message["columns"]))

    def _claim(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Somebody has come for it: from here on it starts like any other."""
        assert self._limits is not None
        self._held = False
        self._started = message["started"]
        self._phase("keeper")
        told, others = descriptors[:4], descriptors[4:]
        if message["log"]:
            self._log = os.dup(others.pop(0))
            self._limits.log = self._log
        try:
            if message["socket"]:
                self._clients.listen_in(os.dup(others.pop(0)), message["socket"])
        except OSError as error:
            self._fail(**_as_failure(error))
            self._kill()
            return
        self._say({"terminal": False}, told)

    # The sandbox.

    def _launch(self) -> None:
        # Before the folders are staged, which may hide them from us.
        self._limits = Limits(self._plan["limits"], self._log)
        self._launched = launched = launch(self._plan, self._launcher_log, self._limits.join)
        self._inner = launched.inner
        hello = {
            "event": "hello",
            "keeper_pid": os.getpid(),
            "pid": launched.pid,
            "mark": self._plan["mark"],
            "limits": self._limits.in_force,
        }
        self._clients.publish(hello, [])
        self._launcher_pidfd = os.pidfd_open(launched.pid)
        self._watch(self._launcher_pidfd, self._launcher_ended)
        self._watch(self._inner.fileno(), self._first_process_speaks)
        first = first_message(self._plan)
        self._say({"terminal": self._terminal >= 0}, [first, *self._stdio])
        for descriptor in {first, *self._stdio} - {self._terminal}:
            os.close(descriptor)
        if self._failure is not None:  # orphaned meanwhile
            self._kill()

    def _say(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if self._inner is not None:
            with contextlib.suppress(ChannelClosed):  # it has ended; the launcher's exit says so
                self._inner.send(message, descriptors)

    def _bind_terminals(self) -> None:
        bound, self._terminals = self._terminals, None
        if bound is not None:
            bound.wait()

    def _find_first(self) -> None:
        """Get hold of pid 1 inside, if there is one yet."""
        pid = self._launched.first_pid() if self._launched is not None and self._first_pidfd < 0 else None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                self._first_pidfd = os.pidfd_open(pid)

    def _first_process_speaks(self) -> None:
        assert self._inner is not None
        self._find_first()
        try:
            message, descriptors = self._inner.receive()
        except ChannelClosed:
            self._first_process_silent()
            return
        if "reason" in message:
            self._failure = {name: str(message.get(name, "")) for name in ("reason", "message", "hint")}
        elif message.get("held"):
            self._clients.publish({"event": "held"}, [])
        elif message.get("executing"):
            self._executing = True
        elif message.get("phase") == "listener":
            self._command_pidfd = descriptors.pop()
            self._phase("listener", descriptors, first_pid=_pid_of(self._command_pidfd))
        elif "phase" in message:
            self._phase(str(message["phase"]))
            first = self._launched.first_pid() if self._launched is not None else None
            if message["phase"] == "namespace" and first is not None:
                self._terminals = Bound(first)

    def _first_process_silent(self) -> None:
        """Its channel closes when it has become the command (close-on-exec), or has ended."""
        assert self._inner is not None
        self._unwatch(self._inner.fileno())
        self._inner.close()
        self._inner = None
        if self._executing and self._failure is None:
            self._phase("ready")

    def _fail(self, reason: str, message: str, hint: str = "") -> None:
        """What ended the sandbox from outside; what it says itself wins."""
        if self._failure is None:
            self._failure = {"reason": reason, "message": message, "hint": hint}

    def _stop(self, grace: float) -> None:
        if self._command_pidfd < 0 or grace <= 0:
            self._kill()
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._command_pidfd, signal.SIGTERM)
        at = time.monotonic() + grace
        self._kill_at = min(self._kill_at or at, at)

    def _kill(self) -> None:
        """End the whole tree. Killing pid 1 lets the launcher see it out; before there is one, the launcher dies."""
        self._find_first()
        pidfd = self._first_pidfd if self._first_pidfd >= 0 else self._launcher_pidfd
        if not self._ended and pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _launcher_ended(self) -> None:
        assert self._launched is not None
        self._bind_terminals()
        _, status = os.waitpid(self._launched.pid, 0)
        self._unwatch(self._launcher_pidfd)
        while self._inner is not None and select.select([self._inner], [], [], 0)[0]:  # its last words
            self._first_process_speaks()
        if self._first_pidfd >= 0:
            self._kill()
            select.select([self._first_pidfd], [], [], _TREE_GONE)
        else:
            kill_strays(self._plan["mark"])
        returned = os.waitstatus_to_exitcode(status)
        if returned < 0:
            code, number = None, -returned
        elif 128 < returned < 192:  # bwrap(1), like a shell
            code, number = None, returned - 128
        else:
            code, number = returned, None
        self._exited(code, number, self._failure or self._why(code, number))

    def _why(self, code: int | None, number: int | None) -> dict[str, str]:
        how = f"signal {number}" if code is None else f"exit code {code}"
        bitten = self._limits.explain(code, number) if self._limits is not None else None
        if bitten is not None:
            return bitten
        if "namespace" not in self._phases:
            return explain_launch_failure(_tail(self._launcher_log), how)
        reason, message, hint = "", f"The command ended ({how}).", ""
        if "ready" not in self._phases:
            reason, message = "first_process_failed", f"The sandbox's first process ended at start ({how})."
            hint = "See the log."
        elif not self._plan["first_process"]["command"]:
            reason, message = "desktop_exited", f"The desktop ended ({how})."
        elif number == signal.SIGKILL:
            reason, hint = "killed", "Perhaps the machine ran out of memory."
        return {"reason": reason, "message": message, "hint": hint}

    def _exited(self, code: int | None, number: int | None, why: dict[str, str]) -> None:
        self._ended = True
        tail = _tail(self._launcher_log) + (_tail(self._log) if self._log >= 0 else "")
        if tail:
            from choir.keyless import redact

            tail = redact(tail)
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1
        self._clients.conclude({"event": "exited", "code": code, "signal": number, **why, "log_tail": tail})
        if self._limits is not None:
            self._limits.end()


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, _LOG_TAIL, max(0, size - _LOG_TAIL)).decode(errors="replace")


def _pid_of(pidfd: int) -> int:
    """The pid in this namespace, from /proc/self/fdinfo (pidfd_open(2))."""
    with open(f"/proc/self/fdinfo/{pidfd}") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def _as_failure(error: ChoirError | OSError) -> dict[str, str]:
    if isinstance(error, ChoirError):
        return error.as_dict()
    reason = "no_space" if is_full(error) else "keeper_failed"
    return {"reason": reason, "message": f"The keeper could not start the sandbox: {error}.", "hint": ""}


def serve(channel: Channel) -> None:
    """The whole life of a keeper whose parent is at the other end of ``channel``."""
    try:
        message, descriptors = channel.receive()
    except ChannelClosed:
        return
    _name("choir.isolation.keeper " + message["sandbox_id"])
    Keeper(channel, message, descriptors).run()


def _name(title: str) -> None:
    """Let ps(1) show ``title`` instead of the template's command line, over whose place in memory it is written
    (proc_pid_cmdline(5))."""
    import ctypes

    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, 48 and 49 in proc_pid_stat(5)
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        text = title.encode()[: end - start - 1]
        ctypes.memmove(start, text, len(text))
