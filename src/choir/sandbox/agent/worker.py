"""The service's end of a run: the warm process, the socket to the run forked from it, its messages as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from choir.channel import Channel, ChannelClosed, Message
from choir.sandbox.agent.link import LINE_BYTES, encoded
from choir.sandbox.agent.tree import descendants

STOP_SECONDS = 1.0
_BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from choir.sandbox.agent.warm import main
main(int(sys.argv[2]))
"""


class Worker:
    """The warm process, started on first use and again when it died. ``close`` when done."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pid = 0
        """The run's process, while there is one."""
        self._ended = asyncio.Event()

    def warm(self, family: str) -> None:
        """Load what a run needs, in the background."""
        with contextlib.suppress(ChannelClosed):
            self._open().send({"op": "warm", "family": family})

    async def run(self, family: str, request: Mapping[str, Any]) -> Run:
        """Start one. The one before must have ended."""
        ours, theirs = socket.socketpair()
        self._ended = asyncio.Event()
        try:
            self._send({"op": "run", "family": family}, theirs.fileno())
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_BYTES)
        writer.write(encoded(request))
        return Run(self, reader, writer)

    def _send(self, message: Message, descriptor: int) -> None:
        try:
            self._open().send(message, [descriptor])
        except ChannelClosed:  # it had died, unnoticed
            self._kill()
            self._open().send(message, [descriptor])

    async def stop(self) -> None:
        """Kill the run and all that it started; returns when they are dead."""
        if self._channel is None:
            return
        with contextlib.suppress(ChannelClosed):
            self._channel.send({"op": "stop"})
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self._kill()

    async def ended(self) -> None:
        """Until the run's process and all that it started are gone."""
        await self._ended.wait()

    def close(self) -> None:
        self._kill()

    def _open(self) -> Channel:
        if self._channel is None:
            ours, theirs = Channel.pair()
            number = theirs.fileno()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(sys.path), str(number)],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(number,),
                    start_new_session=True,
                )
            finally:
                theirs.close()
            self._channel = ours
            self._reader = asyncio.get_running_loop().create_task(self._read(ours))
        return self._channel

    async def _read(self, channel: Channel) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                message, descriptors = await channel.receive_async(asyncio.get_running_loop())
                for descriptor in descriptors:
                    os.close(descriptor)
                self._pid = message.get("pid", 0)
                if message.get("ended"):
                    self._ended.set()
        if channel is self._channel:
            self._kill()

    def _kill(self) -> None:
        """The warm process, the run's, and what is below them."""
        channel, process, self._channel, self._process = self._channel, self._process, None, None
        if self._reader is not None and self._reader is not asyncio.current_task():
            self._reader.cancel()
        if process is not None:
            roots = [process.pid, *([self._pid] if self._pid else [])]
            for pid in (*(each for root in roots for each in descendants(root)), *roots):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            self._pid = 0
        if channel is not None:
            # Before the number is somebody else's: the cancelled reader lets go of it only later.
            asyncio.get_running_loop().remove_reader(channel.fileno())
            channel.close()
        self._ended.set()


class Run:
    """A run under way."""

    def __init__(self, worker: Worker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._worker = worker
        self._reader = reader
        self._writer = writer

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """What it says (``link``), until its process has ended and nothing that it started is left."""
        try:
            with contextlib.suppress(ValueError, ConnectionError):  # a line too long, or cut: as good as an end
                while line := await self._reader.readline():
                    yield json.loads(line)
            await self._worker.ended()
        finally:
            self._writer.close()

    def answer(self, number: int, value: Any = None, error: str = "") -> None:
        self._writer.write(encoded({"answer": number, **({"error": error} if error else {"value": value})}))
