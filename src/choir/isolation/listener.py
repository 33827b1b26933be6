"""Checks on a listener that a sandbox passed out, before the gateway accepts on it."""

from __future__ import annotations

import _socket
import fcntl
import os

from choir.errors import IsolationError
from choir.inside import GATEWAY_HOST, GATEWAY_PORT

_SIOCGSKNS = 0x894C  # linux/sockios.h: a descriptor of the network namespace that a socket belongs to


def namespace_of(sock: _socket.socket) -> int:
    """Inode of the socket's network namespace.

    Raises:
        OSError: EPERM without rights over that namespace.
    """
    descriptor = fcntl.ioctl(sock, _SIOCGSKNS)
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def check_listener(sock: _socket.socket, pid: int, address: tuple[str, int] = (GATEWAY_HOST, GATEWAY_PORT)) -> None:
    """Refuse whatever is not a listening TCP socket at ``address`` in the network namespace of process ``pid``.

    Raises:
        IsolationError: ``listener_refused``.
    """
    try:
        own = os.stat("/proc/self/ns/net").st_ino
        expected = os.stat(f"/proc/{pid}/ns/net").st_ino
        found = namespace_of(sock)
        listening = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        fits = sock.family == _socket.AF_INET and sock.type == _socket.SOCK_STREAM and sock.getsockname() == address
    except OSError as error:
        raise IsolationError("listener_refused", f"The passed listener cannot be checked: {error.strerror}.") from error
    if not (listening and fits):
        raise IsolationError("listener_refused", "The sandbox passed something else than its gateway listener.")
    if found == own or found != expected:
        raise IsolationError("listener_refused", "The passed listener is not in the sandbox's own network.")
