"""The gateway's first process: it keeps the secrets and the control socket, and a forked worker takes the calls."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

import msgspec

from choir import channel as channels
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import ChoirError, ConfigError, StartError
from choir.gateway import worker
from choir.gateway.hardening import PR_SET_DUMPABLE, PR_SET_PDEATHSIG, lock_memory, prctl
from choir.gateway.log import log
from choir.paths import LOCK

if TYPE_CHECKING:
    from choir.contract import ProviderStatus
    from choir.gateway.worker import LoadSettings
    from choir.paths import State

FIRST_BACKOFF = 0.05  # seconds
MAX_BACKOFF = 5.0
STABLE_SECONDS = 10.0
"""A worker that lived so long starts the back-off anew."""
STOP_SECONDS = 1.5  # after open calls were let end


class Master:
    """Forks the worker, and forks it again."""

    def __init__(
        self, state: State, token_key: bytes, load: LoadSettings, listener: socket.socket, drain_seconds: float
    ) -> None:
        self._load = load
        self._token_key = token_key
        self._listener = listener
        self._state = state
        self._drain_seconds = drain_seconds
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
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            prctl(PR_SET_DUMPABLE, 0)
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
    descriptor = os.open(state.run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartError(
            "gateway_running", f"Another gateway works on {state.root}.", "Stop it, or choose another with --state DIR."
        ) from None
    return descriptor


def serve(channel: Channel, state: State, token_key: bytes, load: LoadSettings, drain_seconds: float) -> None:
    """Until the channel closes or a signal says stop.

    Raises:
        ChoirError: the worker's reason for not starting; ``gateway_running``.
    """
    held = lock(state.prepare())
    load(lambda service: None)  # so that what is wrong is told before anything listens
    listener = channels.listen(str(state.gateway_socket))
    wake_in, wake_out = os.pipe()
    os.set_blocking(wake_in, False)
    os.set_blocking(wake_out, False)
    signal.set_wakeup_fd(wake_out)
    signalled: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, lambda number, frame: signalled.add(number))
    master = Master(state, token_key, load, listener, drain_seconds)
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
