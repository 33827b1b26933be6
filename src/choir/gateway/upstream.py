"""The connections to one provider: opened with the operator's address and key, kept alive, handed to calls."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from choir.config import Provider, Timeouts
from choir.gateway.refusals import Refusal, upstream_failed
from choir.gateway.response_head import ResponseHead
from choir.gateway.retries import may_retry
from choir.gateway.standing import Standing
from choir.gateway.tls import client_context
from choir.gateway.upstream_connection import UpstreamConnection, Waiter

KEEP_IDLE = 55.0  # seconds; a little less than the 60 that most load balancers keep
MAX_IDLE = 64  # connections
START_SECONDS = 60.0  # a service that is started on use may take this long
_AGAIN_SECONDS = 0.1  # before the second attempt; before the third twice as long
_RETRY_SECONDS = 0.025
_WANTED_SECONDS = 5.0


class Upstream:
    """One provider's address, keys and idle connections."""

    def __init__(
        self,
        provider: Provider,
        keys: Mapping[str, str],
        run: str,
        timeouts: Timeouts,
        wanted: Callable[[str], None] = lambda service: None,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        Args:
            keys: the provider's keys by reference; {} when it needs none.
            run: Choir's run folder, for ``{run}`` in a unix address.
            wanted: told the name of a service that has to be started.
            log: told when keys or the provider fail and when they are of use again.
        """
        self.provider = provider
        self.references = tuple(keys)
        self.secrets = tuple(key.encode() for key in keys.values())
        self.standing = Standing(provider.name, self.references, provider.circuit_failures, log)
        self.timeouts = timeouts
        self._wanted = wanted
        self._wanted_at = float("-inf")
        self._idle: list[UpstreamConnection] = []
        self.known_head: tuple[bytes, int, ResponseHead | None] = (b"", 0, None)
        """The head of a common answer: as it came last, its body's length, as it was read."""
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
                self._tls = client_context()
        self._prefix = prefix.encode()
        fixed = b" HTTP/1.1\r\nHost: " + host.encode() + b"\r\n"
        carriers = [provider.carrier.replace("{key}", key).encode() + b"\r\n" for key in keys.values()]
        self._fixed = [fixed + carrier for carrier in carriers or [b""]]
        """By key."""

    def __repr__(self) -> str:
        return f"<Upstream {self.provider.name}>"

    def same_as(self, other: Upstream) -> bool:
        """Whether calls go out alike, so that connections and what is known of keys may be kept."""
        mine, its = (self.provider, self.timeouts, self.references), (other.provider, other.timeouts, other.references)
        return mine == its and self.secrets == other.secrets

    def head(self, method: bytes, target: bytes, kept: bytes, framing: bytes, key: int = 0) -> bytes:
        """A request head for this provider, with one of its keys.

        Args:
            kept: header lines of the caller, each with its CRLF.
            framing: further lines, each with its CRLF.
        """
        return b"%b %b%b%b%b%b\r\n" % (method, self._prefix, target, self._fixed[key], kept, framing)

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
        attempt = 0
        while True:
            attempt += 1
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
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError) as error:
                if not self.provider.start_on_use:
                    reset = isinstance(error, ConnectionResetError)
                    if not may_retry("", attempt, "connecting", "reset" if reset else "unreachable", True):
                        raise
                    self.standing.retries += 1
                    await asyncio.sleep(_AGAIN_SECONDS * attempt)
                    continue
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
        connection.idle_since = time.perf_counter()
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        if connection.call is None and connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close what was idle too long.

        Args:
            now: of ``time.perf_counter``.
        """
        while self._idle and now - self._idle[0].idle_since > KEEP_IDLE:
            self._idle.pop(0).close()

    def close(self) -> None:
        """No further calls; those open go on."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _NotStarted(OSError):  # noqa: N818 - chosen among the causes of a failed connection
    """A service that is started on use did not start."""
