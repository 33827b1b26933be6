"""An upstream that reads whole bodies and answers each with the same JSON: ``python sink.py PORT ANSWER``."""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Sink(asyncio.Protocol):
    """Counts bytes; no checks, since it only meets its own bench."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._head = b""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            found = _LENGTH.search(self._head, 0, end)
            self._left = (int(found[1]) if found else 0) - (len(self._head) - end - 4)
            self._head = b""
        if self._left == 0:
            self._transport.write(self._answer)  # type: ignore[attr-defined]


async def main() -> None:
    body = sys.argv[2].encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    server = await asyncio.get_running_loop().create_server(lambda: Sink(answer), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
