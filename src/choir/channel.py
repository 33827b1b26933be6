"""Control channels between Choir's own processes: one JSON message with its descriptors per packet.

``AF_UNIX``/``SOCK_SEQPACKET`` keeps a message and the descriptors sent with it (``SCM_RIGHTS``, unix(7)) together and
in order, so no framing is needed. Standard library only, and few of it: the sandbox's first process imports this.
``_socket`` is ``socket`` without the enums, 9 ms; ``array`` and ``json`` would bring ``collections`` and ``re``.
"""

from __future__ import annotations

import _socket
import os
from _struct import calcsize, pack, unpack

from choir import plain_json

TYPE_CHECKING = False  # importing typing would cost a sandbox's start 5 ms, twice
if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Iterable, Mapping
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict

MAX_MESSAGE = 64 * 1024  # bytes
MAX_DESCRIPTORS = 8
_INT = calcsize("i")


class ChannelClosed(Exception):  # noqa: N818 - a state, met in normal operation
    """The other end is gone."""


class Channel:
    """One end of a control channel. Owns ``sock``; ``close`` closes it."""

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, message: Mapping[str, Any], descriptors: Iterable[int] = ()) -> None:
        """Send one message.

        Raises:
            ChannelClosed: the other end is gone.
            ValueError: the message is longer than MAX_MESSAGE.
            BlockingIOError: the socket is non-blocking and its buffer is full.
        """
        data = plain_json.dumps(message).encode()
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"control message of {len(data)} bytes, more than {MAX_MESSAGE}")
        passed = tuple(descriptors)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack(f"{len(passed)}i", *passed))] if passed else []
        try:
            self.sock.sendmsg([data], ancillary, _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError) as error:
            raise ChannelClosed from error

    def receive(self) -> tuple[Message, list[int]]:
        """The next message and its descriptors (close-on-exec; the caller owns them).

        Raises:
            ChannelClosed: the other end is gone, or sent what is not a JSON object.
            TimeoutError: the socket has a timeout and it passed.
            BlockingIOError: the socket is non-blocking and nothing has come.
        """
        space = _socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT)
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(MAX_MESSAGE, space, _socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError as error:
            raise ChannelClosed from error
        descriptors: list[int] = []
        for level, kind, payload in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptors += unpack(f"{len(payload) // _INT}i", payload[: len(payload) // _INT * _INT])
        try:
            if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
                raise ValueError("truncated")
            message = plain_json.loads(data) if data else None
        except ValueError:
            message = None
        if not isinstance(message, dict):
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelClosed
        return message, descriptors

    async def receive_async(self, loop: asyncio.AbstractEventLoop) -> tuple[Message, list[int]]:
        """``receive`` for an event loop; one reader at a time. Makes the socket non-blocking."""
        self.sock.setblocking(False)
        while True:
            try:
                return self.receive()
            except BlockingIOError:
                readable = loop.create_future()
                loop.add_reader(self.sock, _wake, readable)
                try:
                    await readable
                finally:
                    if self.sock.fileno() >= 0:  # whoever closes it while it is read from removes its reader first
                        loop.remove_reader(self.sock)

    def close(self) -> None:
        self.sock.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def peer_credentials(sock: _socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the other end of a unix socket, from the kernel (``SO_PEERCRED``, unix(7))."""
    return unpack("3i", sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 3 * _INT))


def listen(path: str) -> socket.socket:
    """A listening control socket at ``path``, mode 0600, replacing a dead one."""
    import contextlib
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    old = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(old)
    sock.listen(16)
    return sock


def connect(path: str) -> Channel:
    """Connect to the control socket at ``path``.

    Raises:
        ChannelClosed: nobody listens there.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        sock.close()
        raise ChannelClosed from error
    return Channel(sock)
