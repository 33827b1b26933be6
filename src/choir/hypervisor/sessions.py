"""Signed-in browsers: cookies, their expiry and their end, which also ends what is open under them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

from choir.storage.registry import Registry, SessionRow

SESSION_SECONDS = 30 * 24 * 3600.0
USED_SECONDS = 300.0
"""How exactly the last use of a session is known: not every request is to write."""

LOOK_SECONDS = 3600.0
"""How often it is looked whether a session has expired: a timer stands still while the machine sleeps."""


def digest(secret: str) -> str:
    """How a random secret is stored. It has 256 bits, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _cookies(header: str, name: str) -> list[str]:
    """The values of one name. What other programs on this host set there need not be well-formed; ``http.cookies``
    drops all that follows it."""
    pairs = (each.partition("=") for each in header.split(";"))
    return [value.strip() for key, _, value in pairs if key.strip() == name and value.strip()]


class Sessions:
    """Sessions of the hypervisor's own pages (label "") and, under those, of each sandbox's origin."""

    def __init__(self, registry: Registry, public_url: str, now: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._secure = public_url.startswith("https:")
        # Browsers share cookies between a host's ports: two deployments on one machine must not use one name.
        self._name = "__Host-choir" if self._secure else f"choir-{urlsplit(public_url).port or 80}"
        self._now = now
        self._open: dict[str, set[Callable[[], None]]] = {}
        self.begun: Callable[[], None] = lambda: None
        """Called whenever somebody has signed in."""

    @property
    def cookie_name(self) -> str:
        """``__Host-`` makes browsers refuse a cookie that another host of the domain sets (RFC 6265bis)."""
        return self._name

    def begin(
        self, user: str, label: str = "", parent: SessionRow | None = None, *, way: str = "", browser: str = ""
    ) -> str:
        """A new session's cookie value; ``way`` and ``browser`` as in ``SessionRow``."""
        value = secrets.token_urlsafe(32)
        now = self._now()
        self._registry.add_session(
            SessionRow(
                hash=digest(value),
                user=user,
                label=label,
                parent=parent.hash if parent else "",
                created=now,
                expires=parent.expires if parent else now + SESSION_SECONDS,
                way=way,
                browser=browser,
                used=now,
            )
        )
        self.begun()
        return value

    def find(self, cookie_header: str, label: str) -> SessionRow | None:
        """The session that a Cookie header carries for this origin."""
        now = self._now()
        for value in _cookies(cookie_header, self.cookie_name):
            row = self._registry.session(digest(value), now)
            if row is not None and row.label == label:
                if now - row.used >= USED_SECONDS:
                    self._registry.session_used(row, now)
                return row
        return None

    def set_cookie(self, value: str) -> str:
        """A Set-Cookie value. Host-only, out of reach of scripts, not sent along by other sites' requests."""
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie_name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={int(SESSION_SECONDS)}{secure}"

    def clear_cookie(self) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{self.cookie_name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}"

    def is_live(self, session: SessionRow) -> bool:
        return self._registry.session(session.hash, self._now()) is not None

    def end(self, session_hash: str) -> int:
        """End a session and those under it; closes what they have open. How many ended."""
        ended = self._registry.drop_session(session_hash)
        self.close(ended)
        return len(ended)

    def close(self, hashes: Iterable[str]) -> None:
        """Close what is open under sessions that have ended."""
        for each in hashes:
            for close in list(self._open.get(each, ())):
                close()

    def listed(self) -> list[SessionRow]:
        return self._registry.sessions(self._now())

    @contextlib.contextmanager
    def holding(self, session: SessionRow, close: Callable[[], None]) -> Iterator[None]:
        """``close`` is called when the session ends or expires within the block."""
        loop = asyncio.get_running_loop()
        closers = self._open.setdefault(session.hash, set())
        closers.add(close)
        timer: asyncio.Handle

        def look() -> None:
            nonlocal timer
            left = session.expires - self._now()
            if left <= 0:
                close()
            else:
                timer = loop.call_later(min(left, LOOK_SECONDS), look)

        timer = loop.call_soon(look)
        try:
            yield
        finally:
            timer.cancel()
            closers.discard(close)
            if not closers:
                self._open.pop(session.hash, None)
