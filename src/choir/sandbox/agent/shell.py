"""One shell command of a run: in a process group of its own, bounded in time and output."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable

KEPT_CHARACTERS = 16_000
"""Of the output, for the model: half from its beginning, half from its end."""
SHOWN_CHARACTERS = 200_000
"""Of the output, as it comes, for whoever watches."""
DEFAULT_SECONDS = 120.0
MOST_SECONDS = 1800.0
_DRAIN_SECONDS = 0.2


class Bounded:
    """Text of which the beginning and the end are kept."""

    def __init__(self, most: int = KEPT_CHARACTERS) -> None:
        self._half = most // 2
        self._head = ""
        self._tail = ""
        self._left_out = 0

    def add(self, text: str) -> None:
        room = self._half - len(self._head)
        self._head += text[:room]
        self._tail += text[room:]
        if len(self._tail) > self._half:
            self._left_out += len(self._tail) - self._half
            self._tail = self._tail[-self._half :]

    def text(self) -> str:
        if not self._left_out:
            return self._head + self._tail
        return f"{self._head}\n… {self._left_out:,} characters left out …\n{self._tail}"


async def run(
    command: str, cwd: str, seconds: float, show: Callable[[str], Awaitable[None]], shell: str = "/bin/sh"
) -> str:
    """Run ``command``; its output and how it ended, as a model reads it. Processes that it leaves running keep running
    for as long as the run does.

    Args:
        show: told the output as it comes.
    """
    kept, shown = Bounded(), 0
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    ours, theirs = os.pipe()
    # Not asyncio's own pipe: waiting for a process then waits for the pipe's end too, and others may hold it open.
    stdout, transport = await _reader(ours)
    try:
        process = await asyncio.create_subprocess_exec(
            shell,
            "-c",
            command,
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    except BaseException:
        transport.close()
        raise
    finally:
        os.close(theirs)
    started = time.monotonic()

    async def read() -> None:
        nonlocal shown
        while data := await stdout.read(16384):
            text = decoder.decode(data)
            kept.add(text)
            if shown < SHOWN_CHARACTERS:
                await show(text[: SHOWN_CHARACTERS - shown])
                shown += len(text)

    reading = asyncio.create_task(read())
    late = False
    try:
        try:
            async with asyncio.timeout(min(max(seconds, 0.1), MOST_SECONDS)):
                await process.wait()
        except TimeoutError:
            late = True
            _kill(process.pid)
            await process.wait()
        await asyncio.wait({reading}, timeout=_DRAIN_SECONDS)  # what runs on in the background may hold the pipe open
    except asyncio.CancelledError:
        _kill(process.pid)
        raise
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        transport.close()
    output = kept.text()
    if late:
        return f"{output}\n[killed after {time.monotonic() - started:.0f} s]"
    code = process.returncode
    return f"{output}\n[exit code {code}]" if code else output or "[no output]"


async def _reader(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    return reader, transport


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
