"""Who is at the browser's end of a request, as far as it can be told. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

# In the order in which to look: the later ones are also part of the earlier ones' strings.
_SYSTEMS = {
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Android": "Android",
    "CrOS": "ChromeOS",
    "Mac OS X": "macOS",
    "Windows": "Windows",
    "Linux": "Linux",
}
_BROWSERS = {
    "Edg/": "Edge",
    "OPR/": "Opera",
    "Firefox/": "Firefox",
    "FxiOS/": "Firefox",
    "Chrome/": "Chrome",
    "CriOS/": "Chrome",
    "Safari/": "Safari",
}


def browser_name(user_agent: str) -> str:
    """E.g. ``Firefox on Linux``; for people who look for a session to end, not for decisions."""
    browser = next((name for mark, name in _BROWSERS.items() if mark in user_agent), "Another program")
    system = next((name for mark, name in _SYSTEMS.items() if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser


def client_address(peer: str, forwarded_for: str, trusted: Collection[str]) -> str:
    """The address to count attempts by: the nearest one in X-Forwarded-For that no trusted proxy has.

    Args:
        peer: of the connection.
        trusted: addresses of proxies; of anybody else the header is not read.
    """
    address = _plain(peer)
    for word in reversed(forwarded_for.split(",")):
        if address not in trusted:
            break
        try:
            ipaddress.ip_address(word.strip())
        except ValueError:
            break
        address = _plain(word.strip())
    return address


def _plain(address: str) -> str:
    """As a person would write it: a socket for both families has IPv4 peers as ``::ffff:192.0.2.1``."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)
