"""Answers for the desktop's page while the desktop itself is still being imported.

Half of what a desktop's start takes is asyncio and the HTTP server. A thread without them waits at the door meanwhile:
a request for the page, and nothing else, it answers itself; every other connection it holds, unread, for the desktop to
take over. Standard library only, and little of it.
"""

from __future__ import annotations

import _socket
import _thread
import os
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_HEAD = 16 * 1024
_MORE = (b"content-length", b"transfer-encoding", b"upgrade", b"expect")
"""Headers of a request that is not over, or wants something else than an answer."""
_PATIENCE = 1.0
"""Seconds that one answer may take."""
_SWITCH = 0.0001
"""Seconds until an importing thread lets the other one run, instead of 0.005."""


def wants_the_page(head: bytes) -> int:
    """How long the request is, when ``head`` is one whole request for the page and all there is; else 0."""
    end = head.find(b"\r\n\r\n") + 4
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")}
    plain = head.startswith(b"GET / HTTP/1.1\r\n") and names.isdisjoint(_MORE)
    return end if plain and end == len(head) else 0


class Doorman:
    """Stands at ``listeners`` from ``start`` to ``leave``.

    Args:
        page: the answer's body.
    """

    def __init__(self, listeners: Sequence[_socket.socket], page: bytes) -> None:
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncache-control: no-cache\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(page)
        ) + page
        self._held: dict[int, _socket.socket] = {}
        self._bell, self._ring = os.pipe()
        self._gone = _thread.allocate_lock()
        self._switch = sys.getswitchinterval()

    def start(self) -> None:
        for sock in self._listeners.values():
            sock.setblocking(False)
        sys.setswitchinterval(_SWITCH)
        self._gone.acquire()
        _thread.start_new_thread(self._stand, ())

    def leave(self) -> list[int]:
        """The descriptors of the connections that wait to be answered; the caller owns them."""
        os.close(self._ring)
        self._gone.acquire()
        os.close(self._bell)
        sys.setswitchinterval(self._switch)
        return [sock.detach() for sock in self._held.values()]

    def _stand(self) -> None:
        try:
            poll = select.poll()
            for descriptor in (self._bell, *self._listeners):
                poll.register(descriptor, select.POLLIN)
            while True:
                for descriptor, _ in poll.poll():
                    if descriptor == self._bell:
                        return
                    if descriptor in self._listeners:
                        self._let_in(self._listeners[descriptor], poll)
                    else:  # looked at once: level-triggered, what is held would ring for ever
                        poll.unregister(descriptor)
                        self._attend(descriptor)
        finally:
            self._gone.release()

    def _let_in(self, listener: _socket.socket, poll: select.poll) -> None:
        try:
            descriptor, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept wraps
        except OSError:  # gone again, or too many
            return
        sock = _socket.socket(fileno=descriptor)
        sock.setblocking(False)
        self._held[descriptor] = sock
        poll.register(descriptor, select.POLLIN)

    def _attend(self, descriptor: int) -> None:
        sock = self._held[descriptor]
        try:
            length = wants_the_page(sock.recv(_MAX_HEAD, _socket.MSG_PEEK))
            if not length:
                return
            sock.recv(length)
            sock.settimeout(_PATIENCE)
            sock.sendall(self._answer)
        except OSError:
            pass  # it is gone
        del self._held[descriptor]
        sock.close()
