"""Who a request is for and whether a page of another origin sent it. Pure.

The hypervisor's own pages live on the public URL's host, each sandbox on LABEL.<that host>. Any other Host is refused,
which is also what stops DNS rebinding. State-changing requests and WebSockets must come from the same origin
(Origin, RFC 6454; Fetch Metadata, https://www.w3.org/TR/fetch-metadata/).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

HUB = ""
"""The place of the hypervisor's own pages, where a sandbox's label would stand."""

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_SAFE = ("GET", "HEAD")


@dataclass(frozen=True)
class Origins:
    """The origins of one deployment; ``public_url`` is the hypervisor's."""

    public_url: str

    @property
    def secure(self) -> bool:
        return self.public_url.startswith("https:")

    @property
    def _netloc(self) -> str:
        return urlsplit(self.public_url).netloc.lower()

    def place(self, host: str) -> str | None:
        """HUB, a sandbox's label, or None for a host that is not ours."""
        host = host.lower()
        if host == self._netloc:
            return HUB
        label, dot, rest = host.partition(".")
        return label if dot and rest == self._netloc and _LABEL.match(label) else None

    def is_loopback_address(self, host: str) -> bool:
        """Whether it is this deployment under 127.0.0.1 or [::1] instead of ``localhost``."""
        where, port = urlsplit(self.public_url), urlsplit(f"//{host}")
        try:
            return (
                where.hostname == "localhost"
                and port.hostname in ("127.0.0.1", "::1")
                and (port.port or 80) == (where.port or 80)
            )
        except ValueError:
            return False

    def origin(self, place: str) -> str:
        """``scheme://host[:port]`` of the hypervisor's pages or of a sandbox."""
        scheme = urlsplit(self.public_url).scheme
        return f"{scheme}://{place}.{self._netloc}" if place else f"{scheme}://{self._netloc}"


Verdict = Literal["", "foreign_origin", "cross_site", "no_origin"]


def judge(method: str, headers: Mapping[str, str], own_origin: str, websocket: bool = False) -> Verdict:
    """ "" when the request may go on, else why not.

    Args:
        headers: by lower-case name.
    """
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site")
    if origin is not None and origin != own_origin:
        # A navigation that another site began carries its Origin only when it is not a GET.
        return "foreign_origin"
    if site in ("cross-site", "same-site"):
        navigation = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if not (navigation and method in _SAFE and not websocket):
            return "cross_site"
    if origin is None and (websocket or (method not in _SAFE and site != "same-origin")):
        return "no_origin"
    return ""


def is_navigation(headers: Mapping[str, str]) -> bool:
    """Whether a person waits for a page (else a script waits for data)."""
    mode = headers.get("sec-fetch-mode")
    if mode is not None:
        return mode == "navigate"
    return "text/html" in headers.get("accept", "")
