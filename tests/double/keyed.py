"""A front for the provider double that keeps every byte the gateway sent.

The double's own journal blacks credentials out; here a test sees that the injected key arrived, in its header and once,
and that the sandbox's token did not, wherever in a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_HEAD = re.compile(r"((?:GET|POST|PUT|PATCH|DELETE) \S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)


@dataclass
class Recorder:
    """A running front. Use ``origin`` in place of the double's."""

    origin: str = ""
    raw: bytearray = field(default_factory=bytearray)
    """All that came in, heads and bodies, of all connections as they came."""

    def heads(self) -> list[tuple[str, dict[str, list[str]]]]:
        """(method and path, lower-case header name → values) of every request so far."""
        found = []
        for match in _HEAD.finditer(bytes(self.raw).decode("latin-1")):
            headers: dict[str, list[str]] = {}
            for line in match[2].split("\r\n"):
                name, _, value = line.partition(":")
                headers.setdefault(name.lower(), []).append(value.strip())
            found.append((match[1], headers))
        return found


@contextlib.contextmanager
def recorded(upstream: str) -> Iterator[Recorder]:
    """Run a front for the http server at ``upstream`` for as long as the block."""
    target = urlsplit(upstream)
    recorder = Recorder()
    ready = threading.Event()
    finish: list[Callable[[], None]] = []

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
        try:
            while data := await reader.read(65536):
                if keep:
                    recorder.raw += data
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(target.hostname, target.port)
        except OSError:
            writer.close()
            return
        with contextlib.suppress(asyncio.CancelledError):  # at the end of the block
            await asyncio.gather(pass_on(reader, up_writer, True), pass_on(up_reader, writer, False))

    async def serve() -> None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        finish.append(lambda: loop.call_soon_threadsafe(end.set))
        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        recorder.origin = "http://{}:{}".format(*server.sockets[0].getsockname())
        ready.set()
        await end.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield recorder
    finally:
        finish[0]()
        thread.join(10)
