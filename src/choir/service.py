"""How one process of Choir starts another: over a channel that says "ready" or why not, and whose end is the end.

The child gets one descriptor (``--channel-fd N``, a ``choir.channel.Channel``). It receives one start message, answers
``{"ready": true, ...}`` or ``{"reason", "message", "hint"}`` and exits, and lives until the channel closes: a parent
that was killed leaves no orphan. What only a parent needs is imported late: the child may be on the clock.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from choir.channel import Channel, ChannelClosed, Message
from choir.errors import ChoirError, StartError

LOG_BYTES = 16 * 1024 * 1024


class Process(Protocol):
    """What of ``subprocess.Popen`` is used."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Child:
    """A child of this process that was started before it replaced itself (execve keeps its children)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._code: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """As ``Popen.wait``: the exit code, or minus the signal."""
        if self._code is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                import subprocess

                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0.0)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._pidfd)
        return self._code


class Service:
    """The parent's side of one child process. Start it from a thread that lives as long as the child."""

    def __init__(self, name: str, process: Process, channel: Channel) -> None:
        self.name = name
        self.process = process
        self.channel = channel

    @property
    def pid(self) -> int:
        return self.process.pid

    @classmethod
    def spawn(
        cls,
        name: str,
        module: str,
        arguments: Iterable[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        inherit: Iterable[int] = (),
    ) -> Service:
        """Run ``python -I -m module`` with nothing of this process's environment.

        Args:
            log: stdout and stderr are appended there; None shares this process's.
            inherit: further descriptors that the child keeps, under the same numbers.
        """
        import subprocess

        ours, theirs = Channel.pair()
        if log:
            rotate(log)
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if log else None
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", module, "--channel-fd", str(theirs.fileno()), *arguments],
                env=dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(), *inherit),
                start_new_session=True,
            )
        finally:
            theirs.close()
            if output is not None:
                os.close(output)
        return cls(name, process, ours)

    async def start(self, message: Message, descriptors: Iterable[int] = (), deadline: float = 30.0) -> Message:
        """Send the start message and wait for the answer, raced against the child's death.

        Raises:
            StartError: the child's own reason, ``SERVICE_exited`` or ``SERVICE_silent``.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        try:
            self.channel.send(message, descriptors)
            async with asyncio.timeout(deadline):
                answer, _ = await self.channel.receive_async(loop)
        except ChannelClosed:
            code = await asyncio.to_thread(self.stop)
            raise StartError(
                f"{self.name}_exited", f"The {self.name} exited at start ({describe_exit(code)})."
            ) from None
        except TimeoutError:
            await asyncio.to_thread(self.stop, 0.0)
            raise StartError(f"{self.name}_silent", f"The {self.name} was not ready after {deadline:g} s.") from None
        if not answer.get("ready"):
            await asyncio.to_thread(self.stop)
            reason = str(answer.get("reason", f"{self.name}_failed"))
            raise StartError(reason, str(answer.get("message", "")), str(answer.get("hint", "")))
        return answer

    async def ended(self) -> int:
        """Wait for the child to end; the exit status as Popen gives it."""
        import asyncio

        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(self.pid)
        ended = asyncio.Event()
        loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return self.process.wait()

    def stop(self, grace: float = 5.0) -> int:
        """Close the channel, wait ``grace`` seconds, then kill. Returns the exit status as Popen does."""
        import subprocess

        self.channel.close()
        try:
            return self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)


def rotate(log: Path) -> None:
    """Begin a log anew at the start of a service when it has grown long; the one before it is kept as NAME.1."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(f"{log}.1")


def describe_exit(code: int) -> str:
    """Popen's exit status in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def serve(run: Callable[[Channel, Message, list[int]], Any], channel: Channel | None = None) -> None:
    """The child's side: take the start message and run; a ``ChoirError`` becomes the answer and the exit code.

    ``run`` itself sends ``{"ready": true}`` and returns when the channel closes.

    Args:
        channel: to the parent; None: the one that ``--channel-fd`` names.
    """
    if channel is None:
        channel = Channel(_socket.socket(fileno=int(sys.argv[sys.argv.index("--channel-fd") + 1])))
    try:
        message, descriptors = channel.receive()
    except ChannelClosed:
        sys.exit(0)
    try:
        run(channel, message, descriptors)
    except ChoirError as error:
        try:
            channel.send(error.as_dict())  # and the parent says it
        except (ChannelClosed, OSError):
            print(f"{error.reason}: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
