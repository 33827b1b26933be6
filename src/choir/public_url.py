"""Where people reach the desktop, as it is written in choir.toml. Pure."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def normal(text: str) -> str:
    """As browsers write an origin (RFC 6454, 6.2): lower case, no default port, no slash at the end; "" stays.

    Raises:
        ValueError: with a sentence, when it cannot be meant so.
    """
    if not text:
        return ""
    try:
        parts = urlsplit(text.strip())
        scheme, host, port = parts.scheme, (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ValueError("public_url is not a URL.") from error
    if scheme not in _DEFAULT_PORTS or not parts.netloc:
        raise ValueError('public_url begins with http:// or https://, e.g. "https://choir.example.org".')
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("public_url is only a scheme, a host and a port: Choir needs a host name of its own, no path.")
    if _is_address(host):
        raise ValueError(
            "public_url needs a host name: sandboxes live at names below it, and passkeys refuse addresses."
        )
    if not _HOST.match(host) or len(host) > 253:
        raise ValueError("public_url has no host name of letters, digits, dashes and dots (others as xn--…).")
    if port == 0:
        raise ValueError("public_url needs a port between 1 and 65535.")
    shown = "" if port in (None, _DEFAULT_PORTS[scheme]) else f":{port}"
    return f"{scheme}://{host}{shown}"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
