"""The connections to one provider: opened with the operator's address and key, kept alive, handed to calls."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urlsplit

import httptools

from choir.config import Provider, Timeouts
from choir.gateway.heads import MAX_HEAD
from choir.gateway.refusals import Refusal, upstream_failed

KEEP_IDLE = 55.0  # seconds; a little less than the 60 that most load balancers keep
MAX_IDLE = 64  # connections
START_SECONDS = 60.0  # a service that is started on use may take this long
_RETRY_SECONDS = 0.025
_WANTED_SECONDS = 5.0

_CA_FILES = (
    *("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"),
    *("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"),
)


class Waiter(Protocol):
    """What a call is to its upstream connection. No method may raise."""

    request_done: bool
    """The whole request was written."""

    def connected(self, connection: UpstreamConnection) -> None: ...
    def not_connected(self, refusal: Refusal) -> None: ...
    def response_head(self, status: int, block: bytes) -> None: ...
    def response_body(self, piece: bytes) -> None: ...
    def response_complete(self) -> None: ...
    def response_flush(self) -> None: ...
    def switched(self, rest: bytes) -> None: ...
    def upstream_lost(self, reason: str) -> None: ...
    def upstream_pause(self, paused: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to a provider, for one call at a time."""

    __slots__ = (
        "_buffer",
        "_complete",
        "_in_head",
        "_informational",
        "_keep_alive",
        "_parser",
        "_paused",
        "call",
        "idle_since",
        "reused",
        "transport",
        "upstream",
    )

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.call: Waiter | None = None
        self.reused = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = b""
        """The answer from its beginning, until its head is whole."""
        self._in_head = True
        self._keep_alive = False
        self._complete = False
        self._informational = False
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:  # nothing was asked: whatever this is, it is not an answer
            self.close()
            return
        if self._in_head:
            self._buffer = self._buffer + data if self._buffer else data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            call.switched(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            if self.call is call and not self._complete:
                self.close()
                call.upstream_lost("malformed")
                return
            self._keep_alive = False  # the answer was whole; what follows it is not one
        if self._complete:
            self._complete = False
            self._in_head, self._buffer = True, b""
            self.call = None
            if self._keep_alive and call.request_done:
                self.pause(False)
                self.upstream.release(self)
            else:
                self.close()
            call.response_complete()
        else:
            if self._in_head and len(self._buffer) > MAX_HEAD:
                self.close()
                call.upstream_lost("malformed")
                return
            call.response_flush()

    def on_message_begin(self) -> None:
        if self._complete:  # a second answer to one question
            self._keep_alive = False
            raise ValueError("unasked")
        self._in_head = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        block = head.partition(b"\r\n")[2]
        self._informational = 100 <= status < 200 and status != 101
        if self._informational:
            self._buffer = rest
            return
        self._in_head, self._buffer = False, b""
        self._keep_alive = self._parser.should_keep_alive()
        call = self.call
        if call is not None:
            call.response_head(status, block)

    def on_body(self, piece: bytes) -> None:
        call = self.call
        if call is not None:
            call.response_body(piece)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
        else:
            self._complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.upstream.forget(self)
        call, self.call = self.call, None
        if call is not None:
            call.upstream_lost("reset" if exc is not None else "closed")

    def pause_writing(self) -> None:
        if self.call is not None:
            self.call.upstream_pause(True)

    def resume_writing(self) -> None:
        if self.call is not None:
            self.call.upstream_pause(False)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def pause(self, paused: bool) -> None:
        """Read no more for now, or again."""
        if paused != self._paused and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def close(self) -> None:
        """At once; what is in flight is dropped."""
        self.call = None
        self._keep_alive = False
        self.transport.abort()


class Upstream:
    """One provider's address, key and idle connections."""

    def __init__(
        self,
        provider: Provider,
        key: str,
        run: str,
        timeouts: Timeouts,
        wanted: Callable[[str], None] = lambda service: None,
    ) -> None:
        """
        Args:
            key: the provider key, "" when it needs none.
            run: Choir's run folder, for ``{run}`` in a unix address.
            wanted: told the name of a service that has to be started.
        """
        self.provider = provider
        self.secret = key.encode()
        self.timeouts = timeouts
        self._wanted = wanted
        self._wanted_at = float("-inf")
        self._idle: list[UpstreamConnection] = []
        self._closed = False
        self._tls: ssl.SSLContext | None = None
        self._path: str | None = None
        self._host, self._port = "", 0
        base = provider.base_url.replace("{run}", run)
        if base.startswith("unix:"):
            self._path, host, prefix = base[len("unix:") :], "localhost", ""
        else:
            parts = urlsplit(base)
            self._host = parts.hostname or ""
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
            host, prefix = parts.netloc, parts.path.rstrip("/")
            if parts.scheme == "https":
                self._tls = tls_context()
        self._prefix = prefix.encode()
        self._fixed = b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n"
        if key:
            self._fixed += provider.carrier.replace("{key}", key).encode() + b"\r\n"

    def __repr__(self) -> str:
        return f"<Upstream {self.provider.name}>"

    def head(self, method: bytes, target: bytes, kept: bytes, framing: bytes) -> bytes:
        """A request head for this provider, with its key.

        Args:
            kept: header lines of the caller, each with its CRLF.
            framing: further lines, each with its CRLF.
        """
        return b"%b %b%b%b%b%b\r\n" % (method, self._prefix, target, self._fixed, kept, framing)

    def idle(self) -> UpstreamConnection | None:
        """A kept connection, or None. Set its ``call`` at once."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                connection.reused = True
                return connection
        return None

    async def connect(self, call: Waiter) -> None:
        """Open a connection and hand it to ``call``, or tell it why not. Does not raise; may be cancelled."""
        loop = asyncio.get_running_loop()
        try:
            connection = await self._open(loop)
        except OSError as error:
            call.not_connected(self._failure(error))
        else:
            call.connected(connection)

    async def _open(self, loop: asyncio.AbstractEventLoop) -> UpstreamConnection:
        def factory() -> UpstreamConnection:
            return UpstreamConnection(self)

        started = loop.time()
        while True:
            try:
                async with asyncio.timeout(self.timeouts.connect):
                    if self._path is not None:
                        _, connection = await loop.create_unix_connection(factory, self._path)
                    elif self._tls is None:
                        _, connection = await loop.create_connection(factory, self._host, self._port)
                    else:
                        _, connection = await loop.create_connection(
                            factory, self._host, self._port, ssl=self._tls, server_hostname=self._host
                        )
                return connection
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if not self.provider.start_on_use:
                    raise
                now = loop.time()
                if now - started >= START_SECONDS:
                    raise _NotStarted from error
                if now - self._wanted_at >= _WANTED_SECONDS:
                    self._wanted_at = now
                    self._wanted(self.provider.name)
                await asyncio.sleep(_RETRY_SECONDS)

    def _failure(self, error: OSError) -> Refusal:
        """A sentence for a failed connection; the error's own text may hold addresses and stays here."""
        name = self.provider.name
        if isinstance(error, _NotStarted):
            message = f"Choir's gateway waited {START_SECONDS:g} s for the service `{name}`, which did not start."
            return upstream_failed(503, "service_not_started", message)
        if isinstance(error, TimeoutError):
            return upstream_failed(504, "connect_timeout", f"The provider {name} did not accept a connection in time.")
        if isinstance(error, ssl.SSLCertVerificationError):
            return upstream_failed(
                502, "tls_untrusted", f"The provider {name} showed a certificate that is not trusted."
            )
        if isinstance(error, ssl.SSLError):
            return upstream_failed(502, "tls_failed", f"A TLS connection to the provider {name} could not be made.")
        if isinstance(error, socket.gaierror):
            return upstream_failed(502, "unresolvable", f"The name of the provider {name} could not be resolved.")
        return upstream_failed(
            502, "unreachable", f"The provider {name} could not be reached: {os.strerror(error.errno or 0)}."
        )

    def release(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer was read to its end."""
        if self._closed or len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = asyncio.get_running_loop().time()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        if connection.call is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close what was idle too long."""
        while self._idle and now - self._idle[0].idle_since > KEEP_IDLE:
            self._idle.pop(0).close()

    def close(self) -> None:
        """No further calls; those open go on."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _NotStarted(OSError):  # noqa: N818 - chosen among the causes of a failed connection
    """A service that is started on use did not start."""


def tls_context() -> ssl.SSLContext:
    """TLS 1.2 or newer, verified against the system's CAs (``SSL_CERT_FILE`` where it is set), HTTP/1.1 only."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:  # a Python that was built for another distribution
        for path in _CA_FILES:
            if os.path.exists(path):
                context.load_verify_locations(path)
                break
    return context
