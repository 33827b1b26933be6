"""The sandboxes whose calls are taken: each a listener, a lease, a budget and its open connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from choir import tokens
from choir.config import Config
from choir.errors import ChoirError, TokenError
from choir.gateway import authority
from choir.gateway.floods import Floods
from choir.gateway.policy import Budget, Spending
from choir.gateway.refusals import Refusal, refused
from choir.gateway.user_rules import user_rules

MAX_CONNECTIONS = 512
"""Of one sandbox; more wait in the kernel's queue."""
GREETING_SECONDS = 30.0  # until a connection's first byte
HANDSHAKE_SECONDS = 10.0
_TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS connection (RFC 8446, 5.1); no HTTP request begins with it."""
_BACKLOG_PAUSE = 0.1  # seconds without accepting after the process ran out of descriptors
_TRANSIENT = (errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Closable(Protocol):
    def close(self) -> None: ...
    def tick(self, now: float) -> None: ...


class Sandbox:
    """One caller. Its identity is the listener a call came in on and the token, both."""

    __slots__ = (
        "_key",
        "_tls",
        "budget",
        "connections",
        "floods",
        "lease_until",
        "listener",
        "role",
        "rules",
        "sandbox_id",
        "spending",
        "user_id",
    )

    def __init__(
        self, sandbox_id: str, user_id: str, role: str, config: Config, token_key: bytes, spending: Spending
    ) -> None:
        """
        Args:
            spending: of the user; shared by all of the user's sandboxes.
        """
        self.sandbox_id = sandbox_id
        self.user_id = user_id
        self.role = role
        self.budget = Budget(config.limits_of(user_id))
        self.rules = user_rules(config, user_id)
        """What its user may call; None: everything."""
        self.spending = spending
        self.floods = Floods()
        self.lease_until = 0.0
        self.listener: Listener | None = None
        self.connections: set[Closable] = set()
        self._key = token_key
        self._tls: ssl.SSLContext | None = None

    def make_room(self) -> None:
        """A connection is gone: the next may come."""
        if self.listener is not None and len(self.connections) < MAX_CONNECTIONS:
            self.listener.resume()

    def token_refusal(self, token: bytes) -> Refusal | None:
        """Whether ``token`` is a genuine one of this sandbox; the lease is another matter."""
        try:
            tokens.verify(self._key, token.decode("ascii", "replace"), self.sandbox_id)
        except TokenError as error:
            return refused(401, error.reason, error.message)
        return None

    def lease_refusal(self, now: float) -> Refusal | None:
        if now < self.lease_until:
            return None
        return refused(401, "lease_ended", "this sandbox's lease has ended, and its token with it.")

    async def tls(self) -> ssl.SSLContext:
        """What the listener speaks TLS with; made when a client first wants it."""
        if self._tls is None:
            loop = asyncio.get_running_loop()
            self._tls = await loop.run_in_executor(None, authority.server_context, self._key, self.sandbox_id)
        return self._tls

    def close(self) -> None:
        """End the listener and every connection, at once."""
        self.lease_until = 0.0
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        for connection in list(self.connections):
            connection.close()


class Greeting:
    """A connection until its first byte, which tells whether it speaks TLS."""

    def __init__(self, sock: socket.socket, sandbox: Sandbox, begin: Callable[[socket.socket], None]) -> None:
        self._sock = sock
        self._sandbox = sandbox
        self._begin = begin
        self._since = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)
        sandbox.connections.add(self)

    def _readable(self) -> None:
        self._leave()
        self._begin(self._sock)

    def _leave(self) -> None:
        self._loop.remove_reader(self._sock.fileno())
        self._sandbox.connections.discard(self)

    def close(self) -> None:
        self._leave()
        self._sock.close()
        self._sandbox.make_room()

    def tick(self, now: float) -> None:
        if now - self._since > GREETING_SECONDS:
            self.close()


class Listener:
    """Accepts on a socket that was made in the sandbox's network namespace. Plain HTTP and TLS come in on the same."""

    def __init__(
        self,
        sock: socket.socket,
        sandbox: Sandbox,
        protocol: Callable[[Sandbox], asyncio.BaseProtocol],
        lost: Callable[[Sandbox, str], None],
    ) -> None:
        """
        Args:
            lost: told when the socket can accept no more, e.g. because it was shut down from inside.
        """
        self._sock = sock
        self._sandbox = sandbox
        self._protocol = protocol
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        sock.setblocking(False)
        self._reading = False
        self.resume()

    def resume(self) -> None:
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        for _ in range(64):
            if len(self._sandbox.connections) + len(self._tasks) >= MAX_CONNECTIONS:
                self.pause()
                return
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _TRANSIENT:
                    continue
                if error.errno in _EXHAUSTED:
                    self.pause()
                    self._loop.call_later(_BACKLOG_PAUSE, self.resume)
                    return
                # A socket that was shut down reports this for ever: never try again.
                self.close()
                self._lost(self._sandbox, errno.errorcode.get(error.errno or 0, "error"))
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._greet(sock)

    def _greet(self, sock: socket.socket) -> None:
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            Greeting(sock, self._sandbox, self._greet)
            return
        except OSError:
            first = b""
        if not first:
            sock.close()
            self._sandbox.make_room()
            return
        task = self._loop.create_task(self._serve(sock, first == _TLS_HANDSHAKE))
        self._tasks.add(task)
        task.add_done_callback(self._served)

    async def _serve(self, sock: socket.socket, tls: bool) -> None:
        try:
            if tls:
                context = await self._sandbox.tls()
                await self._loop.connect_accepted_socket(
                    lambda: self._protocol(self._sandbox), sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
            else:
                await self._loop.connect_accepted_socket(lambda: self._protocol(self._sandbox), sock)
        except OSError:  # TLS errors too
            sock.close()

    def _served(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._sandbox.make_room()

    def close(self) -> None:
        if not self._closed:
            self.pause()
            self._closed = True
            self._sock.close()


class Registry:
    """All attached sandboxes."""

    def __init__(
        self,
        token_key: bytes,
        config: Config,
        protocol: Callable[[Sandbox], asyncio.BaseProtocol],
        log: Callable[..., None],
        left: Callable[[Sandbox], None] = lambda sandbox: None,
    ) -> None:
        """
        Args:
            left: told of a sandbox that is no longer attached.
        """
        self._left = left
        self._token_key = token_key
        self._config = config
        self._protocol = protocol
        self._log = log
        self.sandboxes: dict[str, Sandbox] = {}
        self.spendings: dict[str, Spending] = {}
        """By user; kept after the last sandbox has gone."""
        self._warm = (0, 0.0)

    def tell_warm(self, number: int, until: float) -> None:
        """So many sandboxes stand ready for people who may come; nothing of them is here."""
        self._warm = (number, until)

    def warm(self, now: float) -> int:
        """What was told last, while it holds."""
        number, until = self._warm
        return number if now < until else 0

    def attach(self, sandbox_id: str, user_id: str, role: str, lease_until: float, descriptor: int) -> None:
        """Take over ``descriptor`` as the sandbox's listener; an older one of the same id is replaced.

        Raises:
            ChoirError: ``listener_invalid``; the descriptor was closed.
        """
        sock = checked_listener(descriptor)
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is not None and sandbox.user_id != user_id:
            self.detach(sandbox_id)
            sandbox = None
        if sandbox is None:
            spending = self.spendings.setdefault(user_id, Spending())
            sandbox = self.sandboxes[sandbox_id] = Sandbox(
                sandbox_id, user_id, role, self._config, self._token_key, spending
            )
        elif sandbox.listener is not None:
            sandbox.listener.close()
        sandbox.role = role
        sandbox.lease_until = lease_until
        sandbox.listener = Listener(sock, sandbox, self._protocol, self._listener_lost)

    def authority(self, sandbox_id: str) -> str:
        """The certificate, PEM, that vouches for the TLS side of ``sandbox_id``'s listener, attached yet or not."""
        return authority.certificate(self._token_key, sandbox_id)

    def renew(self, sandbox_ids: Iterable[str], lease_until: float) -> list[str]:
        """Returns the ids that have to be attached again."""
        unknown = []
        for sandbox_id in sandbox_ids:
            sandbox = self.sandboxes.get(sandbox_id)
            if sandbox is None or sandbox.listener is None:
                unknown.append(sandbox_id)
            else:
                sandbox.lease_until = lease_until
        return unknown

    def detach(self, sandbox_id: str) -> None:
        sandbox = self.sandboxes.pop(sandbox_id, None)
        if sandbox is not None:
            sandbox.close()
            self._left(sandbox)

    def expire(self, now: float) -> None:
        """Drop the sandboxes whose lease has ended."""
        for sandbox in [s for s in self.sandboxes.values() if now >= s.lease_until]:
            told = f"lease of sandbox {sandbox.sandbox_id} ended"
            self._log(told, "lease_ended", sandbox_id=sandbox.sandbox_id, user_id=sandbox.user_id)
            self.detach(sandbox.sandbox_id)

    def configure(self, config: Config) -> None:
        """Put new limits and rules in force; calls under way keep theirs."""
        self._config = config
        for sandbox in self.sandboxes.values():
            sandbox.budget.limits = config.limits_of(sandbox.user_id)
            sandbox.rules = user_rules(config, sandbox.user_id)

    def close_listeners(self) -> None:
        for sandbox in self.sandboxes.values():
            if sandbox.listener is not None:
                sandbox.listener.close()
                sandbox.listener = None

    def _listener_lost(self, sandbox: Sandbox, why: str) -> None:
        sandbox.listener = None
        told = f"listener of sandbox {sandbox.sandbox_id} can accept no more ({why}); dropped"
        self._log(told, "listener_lost", "warning", sandbox_id=sandbox.sandbox_id, user_id=sandbox.user_id)


def checked_listener(descriptor: int) -> socket.socket:
    """The passed descriptor as a socket, if it is a TCP socket that listens on 127.0.0.1.

    Raises:
        ChoirError: ``listener_invalid``; the descriptor was closed.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            socket.close(descriptor)
        raise ChoirError("listener_invalid", "The descriptor is not a socket.") from error
    try:
        good = (
            sock.family == socket.AF_INET
            and sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            and sock.getsockname()[0] == "127.0.0.1"
        )
    except OSError:
        good = False
    if not good:
        sock.close()
        raise ChoirError("listener_invalid", "The descriptor is not a TCP socket listening on 127.0.0.1.")
    return sock
