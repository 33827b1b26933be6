"""What passes the proxy in each direction. Pure; names are lower-case bytes as ASGI has them.

To the sandbox: everything a browser says but its credentials, what only concerns the connection, and what claims to
come from a proxy. From the sandbox: a list of what may pass. Its cookies, CORS grants, link preloads, reports and
security policy may not; the policy is ours, so that a page is not a way out.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

Headers = list[tuple[bytes, bytes]]

# RFC 9110 section 7.6.1, and the older ones.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate".split()
)
NEVER_TO_SANDBOX = HOP_BY_HOP | frozenset(
    b"cookie cookie2 authorization proxy-authorization forwarded x-real-ip expect".split()
)
FROM_SANDBOX = frozenset(
    b"accept-ranges age allow cache-control content-disposition content-encoding content-language content-length "
    b"content-range content-type date etag expires last-modified location pragma retry-after vary".split()
)

CSP_SANDBOX = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; frame-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
CSP_HUB = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def _security(csp: str) -> Headers:
    return [
        (b"content-security-policy", csp.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"x-frame-options", b"DENY"),
        (b"x-dns-prefetch-control", b"off"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=(), serial=(), payment=()"),
    ]


def hub_headers() -> Headers:
    """On every page of the hypervisor's own."""
    return _security(CSP_HUB)


def to_sandbox(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The request's headers as the sandbox sees them."""
    headers = list(headers)
    dropped = NEVER_TO_SANDBOX | _named_by_connection(headers)
    return [
        (name, value)
        for name, value in headers
        if name not in dropped and not name.startswith((b"x-forwarded", b"x-choir-"))
    ]


def to_sandbox_websocket(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """As ``to_sandbox``; the handshake's own headers are made anew for each hop."""
    return [(name, value) for name, value in to_sandbox(headers) if not name.startswith(b"sec-websocket-")]


def from_sandbox(headers: Iterable[tuple[bytes, bytes]], own_origin: str) -> Headers:
    """The answer's headers as the browser sees them: what may pass, and our policy."""
    passed = [
        (name, value)
        for name, value in headers
        if name in FROM_SANDBOX and (name != b"location" or stays(value.decode("latin-1"), own_origin))
    ]
    return passed + _security(CSP_SANDBOX)


def stays(location: str, own_origin: str) -> bool:
    """Whether a redirect stays on the sandbox's origin. Browsers read ``\\`` as ``/`` and skip control characters."""
    location = "".join(ch for ch in location.strip() if ch > " ").replace("\\", "/")
    try:
        target = urlsplit(location)
    except ValueError:
        return False
    if not target.scheme and not target.netloc:
        return not location.startswith("//")
    return f"{target.scheme}://{target.netloc}".lower() == own_origin


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return frozenset(
        token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")
    )
