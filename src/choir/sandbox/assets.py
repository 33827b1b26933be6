"""The built page and its scripts and styles (``web/``), as they are sent. Names hold a hash of what is in the file."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

STATIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
PAGE = "desktop.html"
TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_FOR_EVER = b"public, max-age=31536000, immutable"
_NOT_BUILT = b"The desktop's page has not been built. ./scripts/up builds it, and so does a wheel's build.\n"

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def page(send: Send) -> None:
    """The page itself, or 503 with the reason."""
    body = _read(PAGE)
    if body is None:
        await answer(send, 503, b"text/plain", _NOT_BUILT)
    else:
        await answer(send, 200, TYPES[".html"], body)


async def file(send: Send, name: str, accepted: bytes) -> None:
    """``name`` among the built files; gzipped (it was when it was built) when that is ``accepted``."""
    kind = TYPES.get(os.path.splitext(name)[1]) if "/" not in name else None
    packed = _read(name + ".gz") if kind and b"gzip" in accepted else None
    body = packed if packed is not None else _read(name) if kind else None
    if body is None or kind is None:
        await answer(send, 404, b"text/plain", b"not found\n")
        return
    more = [(b"cache-control", _FOR_EVER), (b"vary", b"accept-encoding")]
    if packed is not None:
        more.append((b"content-encoding", b"gzip"))
    await answer(send, 200, kind, body, more)


async def answer(
    send: Send, status: int, kind: bytes, body: bytes, more: list[tuple[bytes, bytes]] | None = None
) -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    headers += more or [(b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _read(name: str) -> bytes | None:
    try:
        with open(os.path.join(STATIC, name), "rb") as opened:
            return opened.read()
    except FileNotFoundError:
        return None
