"""``python -I -m choir.gateway.main --channel-fd N``: the gateway's process. See ``choir.service`` for its start.

Start message: ``{"state": DIR, "run": name of its folder for sockets, "config": PATH or null, "token_key": base64,
"secrets": {NAME: value}, "services": {"local": key}}``. Answer: ``{"ready": true, "pid", "worker_pid", "providers"}``.

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
from choir.channel import Channel, ChannelClosed, Message
from choir.contract import ProviderStatus
from choir.errors import ChoirError, ConfigError, StartError
from choir.gateway import worker
from choir.gateway.admission import Settings
from choir.gateway.credentials import Credentials, Unresolved
from choir.gateway.prices import PriceTable
from choir.gateway.routing import Table
from choir.paths import State
from choir.service import serve

FIRST_BACKOFF = 0.05  # seconds
MAX_BACKOFF = 5.0
STABLE_SECONDS = 10.0
"""A worker that lived so long starts the back-off anew."""
STOP_SECONDS = 4.5

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The start message."""

    state: str
    token_key: str
    run: str = "run"
    config: str | None = None
    secrets: dict[str, str] = {}
    services: dict[str, str] = {}

    def __repr__(self) -> str:
        return "<Start>"


def settings_loader(start: Start) -> worker.LoadSettings:
    """Reads configuration and keys anew each time it is called, e.g. for a reload."""
    run = State(Path(start.state), start.run).run

    def load(wanted: Callable[[str], None]) -> tuple[Settings, list[ProviderStatus]]:
        config = configuration.load(Path(start.config) if start.config else None)
        credentials = Credentials(config, start.secrets, start.services)
        keys: dict[str, str] = {}
        disabled: dict[str, str] = {}
        for provider in config.providers.values():
            try:
                keys[provider.name] = credentials.key(provider)
            except Unresolved as unresolved:
                disabled[provider.name] = str(unresolved)
        providers = [
            ProviderStatus(name=name, enabled=name not in disabled, reason=disabled.get(name, ""))
            for name in config.providers
        ]
        table = Table(config.providers.values(), disabled)
        upstreams = worker.build_upstreams(config, keys, run, wanted)
        return Settings(config, table, upstreams, PriceTable(config.prices)), providers

    return load


def harden() -> None:
    """No core dumps, no ptrace, no reading of ``/proc/PID`` by others (prctl(2), setrlimit(2)); many descriptors."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _prctl(_PR_SET_DUMPABLE, 0) != 0:
        raise StartError("harden_failed", "The gateway could not forbid core dumps and ptrace of itself.")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _prctl(option: int, value: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


class Master:
    """Forks the worker, and forks it again."""

    def __init__(self, start: Start, token_key: bytes, load: worker.LoadSettings, listener: socket.socket) -> None:
        self._load = load
        self._token_key = token_key
        self._listener = listener
        self._state = State(Path(start.state), start.run)
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
        code = 1
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            _prctl(_PR_SET_DUMPABLE, 0)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)

            def ready(providers: list[ProviderStatus]) -> None:
                os.write(report, json.dumps({"ready": True, "providers": msgspec.to_builtins(providers)}).encode())
                os.close(report)

            worker.run(self._load, self._token_key, self._listener, self._state, ready)
            code = 0
        except ChoirError as error:
            worker.log(f"{error.reason}: {error.message}")
            with contextlib.suppress(OSError):
                os.write(report, json.dumps(error.as_dict()).encode())
        except BaseException as error:
            # Its message could hold anything.
            worker.log(f"worker failed: {type(error).__name__}")
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
        worker.log(f"worker {pid} {why}; a new one starts in {pause:g} s")
        return pause

    def stop(self) -> None:
        """Tell the worker to finish, and see to it that it does."""
        if not self._pid:
            return
        os.kill(self._pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            pid, _ = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return
            time.sleep(0.01)
        os.kill(self._pid, signal.SIGKILL)
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
                worker.log(f"worker {pid} serves")


def main() -> None:
    serve(run)


if __name__ == "__main__":
    main()
