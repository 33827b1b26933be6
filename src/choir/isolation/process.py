"""The ``process`` backend: plain processes, nothing isolated; for development and for macOS.

It keeps the contract (start, stop, events, reasons, the keyless check of environment and home), and none of the
isolation: a command reads what its user reads, reaches the network, sees other processes. The gateway's listener is on
a free port of the host's own loopback; whoever finds it still needs the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from choir import keyfiles, keyless
from choir.errors import ChoirError, IsolationError, StartError, is_full
from choir.inside import GATEWAY_HOST, GATEWAY_PORT
from choir.isolation import limits, process_child
from choir.isolation.contract import Exited, Phase, PhaseReached, Prepared, SandboxSpec
from choir.isolation.history import History, start_error
from choir.isolation.host import HOME
from choir.isolation.plan import STANDARD_PATH

_LOG_TAIL = 4096  # bytes
_DESKTOP = "choir.sandbox.desktop"
_CA_FILE = ".choir-ca.pem"  # in the home
_CA_VARIABLES = ("AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")  # the others' clients need the system's CAs for their network
_WARNING = "NOT ISOLATED: its commands can do whatever you can, and read your keys; for development only"


class ProcessBackend:
    """``choir.isolation.contract.Backend``; passes the contract's conformance tests, not those of isolation."""

    name = "process"

    async def probe(self) -> str:
        _refuse_root()
        return f"process · {_WARNING}"

    def explain(self, spec: SandboxSpec) -> list[str]:
        return [
            f"process: {_WARNING}",
            f"a process group of its own in {spec.workspace or spec.home}",
            f"home {spec.home}, an environment built from nothing, checked to be keyless",
            f"gateway: a free port of {GATEWAY_HOST}",
            f"limits of each process: {spec.limits.max_open_files} open files, no core dumps",
        ]

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> ProcessSandbox:
        _refuse_root()
        if spec.masked:
            raise IsolationError(
                "masking_unavailable",
                f"{spec.masked[0]} may hold keys, and without isolation it cannot be hidden.",
                'Move it out of the folder, or use backend = "bubblewrap".',
            )
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        sandbox = ProcessSandbox(spec, started, loop.time() + spec.start_timeout)
        try:
            sandbox.check()
            sandbox.spawn(stdio)
        except ChoirError as error:
            sandbox.conclude(None, error.as_dict())
            sandbox.close()
            raise start_error(await sandbox.wait()) from error
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    async def prepare(self, spec: SandboxSpec) -> Prepared:
        raise StartError("prepare_unsupported", "Without isolation there is nothing to prepare.")

    async def adopt(self, keeper_socket: Path) -> ProcessSandbox:
        raise StartError("keeper_gone", f"Nobody keeps {keeper_socket}: without isolation nothing outlives its start.")


def _refuse_root() -> None:
    if os.geteuid() == 0:
        raise IsolationError(
            "process_refused_for_root",
            "Without isolation a command would run as root.",
            'Run Choir as an ordinary user, or use backend = "bubblewrap".',
        )


def environment(spec: SandboxSpec, port: int) -> dict[str, str]:
    """The whole environment: ``spec``'s, with the gateway's real port and the real home where it names those of an
    isolated sandbox."""
    named = {f"{GATEWAY_HOST}:{GATEWAY_PORT}": f"{GATEWAY_HOST}:{port}", HOME: str(spec.home)}
    result = {}
    for name, value in spec.environment.items():
        for old, new in named.items():
            value = value.replace(old, new)
        result[name] = value
    if spec.ca_certificate:
        result |= dict.fromkeys(_CA_VARIABLES, str(spec.home / _CA_FILE))
    own = (os.path.dirname(sys.executable), *STANDARD_PATH)
    return {
        **result,
        "PATH": ":".join(dict.fromkeys((*spec.path, *own))),
        "HOME": str(spec.home),
        "USER": getpass.getuser(),
    }


class ProcessSandbox(History):
    """``choir.isolation.contract.Running``."""

    def __init__(self, spec: SandboxSpec, started: float, deadline: float) -> None:
        super().__init__(deadline)
        self.sandbox_id = spec.sandbox_id
        self.keeper_pid = os.getpid()
        self.pid = 0
        self.keeper_socket: Path | None = None
        self.limits: dict[str, str] = {}
        self.desktop: str | None = None
        self._spec = spec
        self._started = started
        self._listener: socket.socket | None = socket.create_server((GATEWAY_HOST, 0), backlog=1024)
        self._listener.setblocking(False)
        self._environment = environment(spec, self._listener.getsockname()[1])
        self._folder: str | None = None
        self._terminal = -1
        self._plan = self._report = -1
        self._said = b""
        self._executing = self._ready = self._ended = False
        self._failure: dict[str, str] | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def listener(self) -> socket.socket:
        if self._listener is None:
            raise StartError("not_running", "The sandbox has no listener: it has not started, or has ended.")
        return self._listener

    def check(self) -> None:
        """The keyless check of what a command is given.

        Raises:
            KeylessError, StartError: it must not run.
        """
        try:
            self._spec.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._spec.ca_certificate:
                (self._spec.home / _CA_FILE).write_text(self._spec.ca_certificate)
        except OSError as error:
            reason = "no_space" if is_full(error) else "home_unwritable"
            message = f"Cannot make the sandbox's home {self._spec.home}: {error.strerror}."
            raise StartError(reason, message) from error
        self._reached("keeper")
        keyless.check_environment(self._environment)
        keyfiles.check_home(self._spec.home)
        self._reached("keyless")

    def spawn(self, stdio: tuple[int, int, int] | None) -> None:
        """Start the process that will become the command when told to.

        Raises:
            OSError, StartError: out of descriptors or processes; the log cannot be written.
        """
        spec = self._spec
        with contextlib.ExitStack() as stack:
            plan, self._plan = os.pipe()
            self._report, report = os.pipe()
            os.set_blocking(self._report, False)
            stack.callback(os.close, plan)
            stack.callback(os.close, report)
            if stdio is None:
                stdio = self._standard_streams(stack)
            elif os.isatty(stdio[0]):
                self._terminal = os.dup(stdio[0])
            passed = [plan, report]
            if spec.command is None:
                passed.append(stack.enter_context(self._desktop_listener()).fileno())
            told = {
                "environment": self._environment,
                "command": spec.command,
                "cwd": str(spec.workspace or spec.home),
                "max_open_files": spec.limits.max_open_files,
                "max_file_bytes": spec.limits.max_disk_bytes,
                "terminal": self._terminal >= 0,
                "desktop": passed[2] if spec.command is None else -1,
                "desktop_module": _DESKTOP,
                "sites": [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")],
                "source": os.path.dirname(os.path.dirname(os.path.abspath(keyless.__file__))),
            }
            child = [sys.executable, "-I", "-S", os.path.abspath(process_child.__file__), str(plan), str(report)]
            actions = [(os.POSIX_SPAWN_DUP2, given, number) for number, given in enumerate(stdio)]
            for descriptor in passed:
                os.set_inheritable(descriptor, True)
            self.pid = os.posix_spawn(sys.executable, child, {}, file_actions=actions, setsid=True)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._report, self._hear)
        self._watching = loop.create_task(self._watch())
        os.write(self._plan, json.dumps(told).encode() + b"\n")
        self._reached("listener")

    def _standard_streams(self, stack: contextlib.ExitStack) -> tuple[int, int, int]:
        null = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, null)
        if self._spec.log is None:
            return null, null, null
        try:
            log = os.open(self._spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            reason = "no_space" if is_full(error) else "log_unwritable"
            message = f"Cannot write the sandbox's log {self._spec.log}: {error.strerror}."
            raise StartError(reason, message) from error
        stack.callback(os.close, log)
        return null, log, log

    def _desktop_listener(self) -> socket.socket:
        self._folder = tempfile.mkdtemp(prefix="choir-")
        self.desktop = f"{self._folder}/desktop"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self.desktop)
        sock.listen(128)
        return sock

    async def wait_ready(self) -> None:
        if self._plan >= 0:
            with contextlib.suppress(BrokenPipeError):  # its end says why
                os.write(self._plan, b"proceed\n")
            os.close(self._plan)
            self._plan = -1
        await self.reach("ready")

    async def stop(self, grace: float = 5.0) -> Exited:
        if self.poll() is None:
            self._fail("stopped", "The sandbox was stopped.")
            self._signal(signal.SIGTERM if grace > 0 else signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace or None):
                    return await self.wait()
            self._signal(signal.SIGKILL)
        return await self.wait()

    def resize(self, rows: int, columns: int) -> None:
        if self._terminal >= 0:
            import termios

            termios.tcsetwinsize(self._terminal, (rows, columns))

    def close(self) -> None:
        """Ends the command: nobody keeps it."""
        self._signal(signal.SIGKILL)
        self._let_go()
        self._let_be()

    def _signal(self, number: int) -> None:
        if self.pid and not self._ended:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _reached(self, phase: Phase) -> None:
        self._ready = self._ready or phase == "ready"
        self._publish(PhaseReached(phase, time.monotonic() - self._started))

    def _fail(self, reason: str, message: str) -> None:
        if self._failure is None:
            self._failure = {"reason": reason, "message": message, "hint": ""}

    def _give_up(self, message: str) -> None:
        self._fail("start_timeout", message)
        self._signal(signal.SIGKILL)

    def _hear(self) -> None:
        data = os.read(self._report, 65536)
        if not data:  # it has become the command (close-on-exec), or has ended
            self._stop_hearing()
            if self._executing and self._failure is None:
                self._reached("ready")
            return
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "phase" in message:
                self._reached(message["phase"])
            elif "executing" in message:
                self._executing = True
            else:
                self._failure = message

    def _stop_hearing(self) -> None:
        if self._report >= 0:
            asyncio.get_running_loop().remove_reader(self._report)
            os.close(self._report)
            self._report = -1

    async def _watch(self) -> None:
        """Until it has ended. By asking: macOS has no pidfd."""
        pause = 0.001
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
            if pid:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.1)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it left running
        self._ended = True
        while self._report >= 0:  # its last words
            try:
                self._hear()
            except BlockingIOError:
                self._stop_hearing()
        self.conclude(os.waitstatus_to_exitcode(status), None)

    def conclude(self, status: int | None, failure: dict[str, str] | None) -> None:
        """Publish the end.

        Args:
            status: as ``os.waitstatus_to_exitcode``; None when nothing was run.
        """
        self._let_go()
        code, number = (None, None) if status is None else (status, None) if status >= 0 else (None, -status)
        why = failure or self._failure or self._why(code, number)
        self._publish(Exited(code=code, signal=number, **why, log_tail=self._tail()))

    def _why(self, code: int | None, number: int | None) -> dict[str, str]:
        how = f"signal {number}" if code is None else f"exit code {code}"
        bitten = limits.explain(code, number, killed=0, refused=0, limits={"disk": self._spec.limits.max_disk_bytes})
        if bitten is not None:
            return bitten
        if self._spec.command is None:
            reason, message = "desktop_exited", f"The desktop ended ({how})."
            if not self._ready:
                reason, message = "first_process_failed", f"The desktop ended at start ({how})."
        else:
            reason, message = "", f"The command ended ({how})."
            if number == signal.SIGKILL:
                return {"reason": "killed", "message": message, "hint": "Perhaps the machine ran out of memory."}
        return {"reason": reason, "message": message, "hint": "See the log." if reason else ""}

    def _tail(self) -> str:
        if self._spec.log is None:
            return ""
        try:
            with open(self._spec.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
                return keyless.redact(file.read().decode(errors="replace"))
        except OSError:
            return ""

    def _let_go(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for descriptor in (self._plan, self._terminal):
            if descriptor >= 0:
                os.close(descriptor)
        self._plan = self._terminal = -1
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = self.desktop = None
