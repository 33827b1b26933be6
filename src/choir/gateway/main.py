"""``python -I -m choir.gateway.main --channel-fd N``: the gateway's process. See ``choir.service`` for its start.

Start message: ``{"state": DIR, "run": name of its folder for sockets, "config": PATH or null, "token_key": base64,
"secrets": {NAME: value}, "services": {"local": key}, "drain_seconds"}``. Answer: ``{"ready": true, "pid",
"worker_pid", "providers"}``. With a descriptor, a channel to whoever has the secrets, it asks there: ``{"want":
[NAME]}``, ``{"secrets": {NAME: value}}``; and it answers twice, as soon as it has looked for keys with
``{"providers"}`` alone.

This process keeps the secrets and the control socket and does nothing else; a forked worker takes the calls. A worker
that dies is forked again; control clients then find their connection closed, connect again and attach again.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from choir import channel as channels
from choir import config as configuration
from choir import user_limits
from choir.channel import Channel, ChannelClosed, Message
from choir.config import Config
from choir.contract import ProviderStatus
from choir.errors import ChoirError, ConfigError, StartError
from choir.gateway.credentials import Credentials, Unresolved
from choir.gateway.log import log
from choir.paths import State
from choir.service import serve

TYPE_CHECKING = False
if TYPE_CHECKING:  # at run time only once the providers are known: somebody may be waiting for those
    from choir.gateway.admission import Settings
    from choir.gateway.worker import LoadSettings

FIRST_BACKOFF = 0.05  # seconds
MAX_BACKOFF = 5.0
STABLE_SECONDS = 10.0
"""A worker that lived so long starts the back-off anew."""
STOP_SECONDS = 1.5  # after open calls were let end

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The start message."""

    state: str
    token_key: str
    run: str = "run"
    config: str | None = None
    secrets: dict[str, str] = {}
    services: dict[str, str] = {}
    drain_seconds: float = 3.0
    """How long open calls may go on when the gateway is stopped."""

    def __repr__(self) -> str:
        return "<Start>"


class Found(msgspec.Struct, frozen=True):
    """What was configured, and what keys there are. Never printed."""

    config: Config
    keys: dict[str, dict[str, str]]
    """By provider and reference, of those that are enabled."""
    disabled: dict[str, str]
    """Why not, by provider."""

    def __repr__(self) -> str:
        return "<Found>"

    @property
    def providers(self) -> list[ProviderStatus]:
        return [
            ProviderStatus(name=name, enabled=name not in self.disabled, reason=self.disabled.get(name, ""))
            for name in self.config.providers
        ]


def find(start: Start) -> Found:
    """Read configuration and keys.

    Raises:
        ConfigError: one of them is wrong.
    """
    config = configuration.load(Path(start.config) if start.config else None)
    config = user_limits.merged(config, user_limits.read(State(Path(start.state), start.run).limits))
    credentials = Credentials(config, start.secrets, start.services)
    found = Found(config, {}, {})
    for provider in config.providers.values():
        try:
            found.keys[provider.name] = credentials.keys(provider)
        except Unresolved as unresolved:
            found.disabled[provider.name] = str(unresolved)
    return found


def ask_for_secrets(start: Start, holder: Channel) -> Start:
    """``start`` with what ``holder`` has of the variables that are configured."""
    config = configuration.load(Path(start.config) if start.config else None)
    holder.send({"want": config.key_variables})
    answer, _ = holder.receive()
    holder.close()
    return msgspec.convert({**msgspec.to_builtins(start), "secrets": answer.get("secrets", {})}, Start)


def settings_loader(start: Start) -> LoadSettings:
    """Reads configuration and keys anew each time it is called, e.g. for a reload."""
    from choir.gateway.admission import Settings
    from choir.gateway.prices import PriceTable
    from choir.gateway.routing import Table
    from choir.gateway.worker import build_upstreams

    run = State(Path(start.state), start.run).run

    def load(wanted: Callable[[str], None]) -> tuple[Settings, list[ProviderStatus]]:
        found = find(start)
        config = found.config
        table = Table(config.providers.values(), found.disabled)
        upstreams = build_upstreams(config, found.keys, run, wanted)
        return Settings(config, table, upstreams, PriceTable(config.prices)), found.providers

    return load


def harden() -> None:
    """No core dumps, no ptrace, no reading of ``/proc/PID`` by others (prctl(2), setrlimit(2)); many descriptors."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _prctl(_PR_SET_DUMPABLE, 0) != 0:
        raise StartError("harden_failed", "The gateway could not forbid core dumps and ptrace of itself.")
    lock_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lock_memory() -> bool:
    """Keep this process's memory, and so its keys, out of swap (mlockall(2)), where that is allowed without a bound:
    with one, the allocation that exceeds it would fail. Not inherited by a fork."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and not _holds(_CAP_IPC_LOCK):
        return False
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return int(ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)) == 0


def _prctl(option: int, value: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _holds(capability: int) -> bool:
    """Whether this process has it (capabilities(7))."""
    effective = re.search(r"(?m)^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text())
    return effective is not None and bool(int(effective[1], 16) >> capability & 1)


class Master:
    """Forks the worker, and forks it again."""

    def __init__(self, start: Start, token_key: bytes, load: LoadSettings, listener: socket.socket) -> None:
        self._load = load
        self._token_key = token_key
        self._listener = listener
        self._state = State(Path(start.state), start.run)
        self._drain_seconds = start.drain_seconds
        self._pid = 0
        self._since = 0.0
        self._backoff = FIRST_BACKOFF

    @property
    def worker_pid(self) -> int:
        return self._pid

    def fork(self) -> tuple[int, int]:
        """Start a worker. Returns the read end of its report pipe and its pid."""
        report_in, report_out = os.pipe()
        gc.freeze()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(report_in)
            self._worker(parent, report_out)
        os.close(report_out)
        self._pid, self._since = pid, time.monotonic()
        return report_in, pid

    def _worker(self, parent: int, report: int) -> None:
        """In the child; does not return."""
        from choir.gateway import worker

        code = 1
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            _prctl(_PR_SET_DUMPABLE, 0)
            lock_memory()
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)

            def ready(providers: list[ProviderStatus]) -> None:
                os.write(report, json.dumps({"ready": True, "providers": msgspec.to_builtins(providers)}).encode())
                os.close(report)

            worker.run(self._load, self._token_key, self._listener, self._state, ready, self._drain_seconds)
            code = 0
        except ChoirError as error:
            log(f"{error.reason}: {error.message}")
            with contextlib.suppress(OSError):
                os.write(report, json.dumps(error.as_dict()).encode())
        except BaseException as error:
            # Its message could hold anything.
            log(f"worker failed: {type(error).__name__}")
        finally:
            os._exit(code)

    def reap(self) -> float | None:
        """After SIGCHLD: seconds until a new worker should be forked, or None when it lives."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        self._pid = 0
        if time.monotonic() - self._since > STABLE_SECONDS:
            self._backoff = FIRST_BACKOFF
        pause, self._backoff = self._backoff, min(self._backoff * 2, MAX_BACKOFF)
        why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        log(f"worker {pid} {why}; a new one starts in {pause:g} s")
        return pause

    def stop(self) -> None:
        """Tell the worker to finish, and see to it that it does."""
        if not self._pid:
            return
        os.kill(self._pid, signal.SIGTERM)
        pidfd = os.pidfd_open(self._pid)
        if not select.select([pidfd], [], [], self._drain_seconds + STOP_SECONDS)[0]:
            os.kill(self._pid, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(self._pid, 0)


def first_report(pipe: int) -> Message:
    """What the worker says of its start; {} when it died without a word."""
    with os.fdopen(pipe, "rb") as file:
        data = file.read()
    return json.loads(data) if data else {}


def lock(state: State) -> int:
    """Held as long as this process or its worker lives.

    Raises:
        StartError: ``gateway_running``.
    """
    descriptor = os.open(state.run / State.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(
            "gateway_running", f"Another gateway works on {state.root}.", "Stop it, or choose another with --state DIR."
        ) from None
    return descriptor


def run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    """The whole life of the process."""
    try:
        start = msgspec.convert(message, Start)
        token_key = base64.b64decode(start.token_key, validate=True)
    except (msgspec.ValidationError, binascii.Error) as error:
        raise StartError("start_message_invalid", "The gateway's start message is not understood.") from error
    message.clear()
    harden()
    if descriptors:
        start = ask_for_secrets(start, Channel(socket.socket(fileno=descriptors.pop())))
        channel.send({"providers": msgspec.to_builtins(find(start).providers)})
    state = State(Path(start.state), start.run).prepare()
    held = lock(state)
    load = settings_loader(start)
    load(lambda service: None)  # so that what is wrong is told before anything listens
    listener = channels.listen(str(state.gateway_socket))
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake_out, False)
    signal.set_wakeup_fd(wake_out)
    signalled: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signalled.add(number))
    master = Master(start, token_key, load, listener)
    try:
        pipe, pid = master.fork()
        report = first_report(pipe)
        if not report.get("ready"):
            raise ConfigError(
                str(report.get("reason", "worker_failed")),
                str(report.get("message", "The gateway's worker did not start.")),
                str(report.get("hint", "")),
            )
        channel.send({**report, "pid": os.getpid(), "worker_pid": pid})
        _watch(channel, master, wake_in, signalled)
    except ChannelClosed:
        pass
    finally:
        master.stop()
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(state.gateway_socket)
        os.close(held)


def _watch(channel: Channel, master: Master, wake: int, signalled: set[int]) -> None:
    """Until the channel closes or a signal says stop."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(wake, select.POLLIN)
    fork_at: float | None = None
    while not signalled & {signal.SIGTERM, signal.SIGINT}:
        timeout = None if fork_at is None else max(0.0, fork_at - time.monotonic()) * 1000
        for descriptor, _ in poll.poll(timeout):
            if descriptor == wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
            else:
                channel.receive()  # nothing is expected but the end
        if signal.SIGCHLD in signalled:
            signalled.discard(signal.SIGCHLD)
            if master.worker_pid:
                pause = master.reap()
                if pause is not None:
                    fork_at = time.monotonic() + pause
        if signal.SIGHUP in signalled:
            signalled.discard(signal.SIGHUP)
            if master.worker_pid:
                os.kill(master.worker_pid, signal.SIGHUP)
        if fork_at is not None and time.monotonic() >= fork_at:
            fork_at = None
            pipe, pid = master.fork()
            if first_report(pipe).get("ready"):
                log(f"worker {pid} serves")


def main() -> None:
    serve(run)


if __name__ == "__main__":
    main()
