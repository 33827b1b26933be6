"""HTTP to a sandbox's desktop: streamed both ways, nothing held, the client's end is the request's end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import aiohttp
import yarl
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from choir.hypervisor.headers import from_sandbox, to_sandbox
from choir.hypervisor.origins import is_navigation

CONNECT_SECONDS = 5.0
IDLE_CONNECTION_SECONDS = 15.0
_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_UNSET_BY_CLIENT = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class DesktopUnreachable(Exception):  # noqa: N818 - becomes an answer
    """The sandbox's desktop did not take the request, or broke off before its answer began."""


class ClientGone(Exception):  # noqa: N818 - a state, met in normal operation
    """The browser went away."""


class Upstream:
    """Connections to one life of one sandbox.

    Args:
        touch: called for everything that a person sends to it.

    Raises:
        DesktopUnreachable: there is no socket at ``path``.
    """

    def __init__(self, path: str, touch: Callable[[], None]) -> None:
        self.touch = touch
        # A handle of our own: the number in a /proc/self/fd path is somebody else's once its owner has closed it.
        self._handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        self.session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self._path, limit=0, keepalive_timeout=IDLE_CONNECTION_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            skip_auto_headers=_UNSET_BY_CLIENT,
            auto_decompress=False,
        )
        self.ended = False
        """It was closed."""
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def _path(self) -> str:
        return f"/proc/self/fd/{self._handle}"

    async def connect(self, factory: Callable[[], _Protocol]) -> _Protocol:
        """A connection of its own.

        Raises:
            OSError, TimeoutError: there is none.
        """
        async with asyncio.timeout(CONNECT_SECONDS):
            _, protocol = await asyncio.get_running_loop().create_unix_connection(factory, self._path)
        return protocol

    @contextlib.contextmanager
    def relaying(self) -> Iterator[None]:
        """This task is cancelled by ``close``: aiohttp's own closing tells no reader."""
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            yield
        finally:
            self._relays.discard(task)

    async def close(self) -> None:
        """End everything that is relayed and let go of the connections."""
        self.ended = True
        for task in self._relays:
            task.cancel()
        await self.session.close()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def target(scope: Scope) -> str:
    """The request's path and query, byte for byte."""
    raw = scope.get("raw_path") or scope["path"].encode()
    query = scope["query_string"]
    path: str = raw.decode("latin-1") + ("?" + query.decode("latin-1") if query else "")
    return path


async def forward(upstream: Upstream, scope: Scope, receive: Receive, send: Send, own_origin: str) -> None:
    """Relay one request and its answer.

    Raises:
        DesktopUnreachable: nothing has been sent to the browser yet.
    """
    body = _Body(receive)
    if scope["method"] not in ("GET", "HEAD") or is_navigation(Headers(scope=scope)):
        upstream.touch()
    headers = to_sandbox(scope["headers"])
    has_body = any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )
    relaying = asyncio.current_task()
    assert relaying is not None
    started = False
    gone = asyncio.create_task(_cancel_when_gone(body, relaying, wait_for_body=has_body))
    try:
        async with upstream.session.request(
            scope["method"],
            yarl.URL(f"http://desktop{target(scope)}", encoded=True),  # the host is only a name
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers],
            data=body.chunks() if has_body else None,
            allow_redirects=False,
        ) as answer:
            if not 200 <= answer.status <= 599:  # an upgrade nobody asked for, or a number nobody knows
                raise DesktopUnreachable
            passed = from_sandbox([(name.lower(), value) for name, value in answer.raw_headers], own_origin)
            if answer.status == 304:  # it may name the length of what it does not send; the server would wait for that
                passed = [(name, value) for name, value in passed if name != b"content-length"]
            started = True
            await send({"type": "http.response.start", "status": answer.status, "headers": passed})
            try:
                async for data in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except aiohttp.ClientError:
                return  # cut short: the missing end tells the browser so
            await send({"type": "http.response.body", "body": b""})
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        if body.client_gone:
            return
        raise DesktopUnreachable from error
    except asyncio.CancelledError:
        if not (body.client_gone or upstream.ended) or relaying.uncancel() > 0:
            raise
        if not (started or body.client_gone):
            raise DesktopUnreachable from None
    finally:
        gone.cancel()


class _Body:
    """The request body, and after it the news that the client left."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.finished = asyncio.Event()
        self.client_gone = False

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.client_gone = True
                raise ClientGone
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                self.finished.set()
                return

    async def disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True


async def _cancel_when_gone(body: _Body, relaying: asyncio.Task[None], wait_for_body: bool) -> None:
    if wait_for_body:
        await body.finished.wait()
    with contextlib.suppress(asyncio.CancelledError):
        await body.disconnected()
        relaying.cancel()
