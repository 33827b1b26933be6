"""Sends many requests, each on a connection of its own, and sees to it that each is answered or closed in time."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from .grammar import Verdict

AT_ONCE = 48
SECONDS = 20.0
"""A connection still open after so long hangs."""
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", re.DOTALL)
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


@dataclass(slots=True)
class Outcome:
    """What came of all requests."""

    sent: int = 0
    statuses: dict[int, int] = field(default_factory=dict)
    faults: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """(what is wrong, request, answer); at most twenty."""

    def fault(self, what: str, request: bytes, answer: bytes) -> None:
        if len(self.faults) < 20:
            self.faults.append((what, request, answer))


class _Door:
    """One connection."""

    def __init__(self, port: int, request: bytes, found: Verdict) -> None:
        self.request, self.found = request, found
        self.tls = request.startswith(b"\x16")
        """A handshake that is never whole; it fails without HTTP."""
        self.answer = b""
        self.since = time.monotonic()
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setblocking(False)
        self._unsent = request
        self.write()

    def write(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self.sock.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:  # refused before it was read to its end
            self._unsent = b""
        if self.found == "incomplete" or self.tls:  # else it would be waited for
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bool:
        """Whether the connection has ended."""
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self.answer += data
        return not data or (self.found == "refused" and self.whole() and b"Connection: close" not in self.answer)

    def whole(self) -> bool:
        """Whether what came is one answer, all of it and nothing more."""
        head = _ANSWER.match(self.answer)
        length = _LENGTH.search(self.answer)
        return head is not None and length is not None and len(self.answer) == head.end() + int(length[1])

    def judge(self, outcome: Outcome) -> None:
        if not self.answer and (self.found == "incomplete" or self.tls):
            outcome.statuses[0] = outcome.statuses.get(0, 0) + 1
            return
        if not self.whole():
            outcome.fault("not one whole answer", self.request, self.answer)
            return
        status = int(self.answer[9:12])
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if not 400 <= status < 600 or status in (500, 502):
            outcome.fault(f"answered {status}", self.request, self.answer)


class Tap:
    """A provider that keeps whatever it is sent, and never answers."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        """By connection, what came first."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with sock:
                    sock.settimeout(1)
                    try:
                        self.received.append(sock.recv(65536))
                    except OSError:
                        self.received.append(b"")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def flood(port: int, requests: Iterable[tuple[bytes, Verdict]], count: int) -> Outcome:
    """Send the first ``count`` of ``requests``."""
    outcome, poll, open_doors = Outcome(), select.epoll(), dict[int, _Door]()
    source = iter(requests)
    with poll:
        while outcome.sent < count or open_doors:
            while outcome.sent < count and len(open_doors) < AT_ONCE:
                door = _Door(port, *next(source))
                open_doors[door.sock.fileno()] = door
                poll.register(door.sock, select.EPOLLIN | (select.EPOLLOUT if door._unsent else 0))
                outcome.sent += 1
            for descriptor, event in poll.poll(1):
                door = open_doors[descriptor]
                if event & select.EPOLLOUT:
                    door.write()
                    if not door._unsent:
                        poll.modify(door.sock, select.EPOLLIN)
                if event & ~select.EPOLLOUT and door.read():
                    door.judge(outcome)
                    poll.unregister(door.sock)
                    del open_doors[descriptor]
                    door.sock.close()
            now = time.monotonic()
            for descriptor, door in [*open_doors.items()]:
                if now - door.since > SECONDS:
                    outcome.fault("hangs", door.request, door.answer)
                    del open_doors[descriptor]
                    door.sock.close()
    return outcome
