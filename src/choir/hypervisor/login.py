"""Getting in: one-time links from the command line, and tickets from the hypervisor's origin to a sandbox's."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from choir.hypervisor.sessions import Sessions, digest
from choir.storage.registry import Registry, SessionRow

LINK_SECONDS = 3600.0
TICKET_SECONDS = 30.0


class Login:
    """One-time links. Stored hashed; taken once, in one statement."""

    def __init__(self, registry: Registry, now: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._now = now

    def new_link(self, user: str, public_url: str) -> str:
        secret = secrets.token_urlsafe(24)
        self._registry.add_link(digest(secret), user, self._now() + LINK_SECONDS)
        return f"{public_url}/login?once={secret}"

    def look(self, secret: str) -> str | None:
        """The user of a link's secret; it is not used up."""
        return self._registry.link(digest(secret), self._now())

    def take(self, secret: str) -> str | None:
        """The user of a link's secret, once; None when it was used, expired, or made up."""
        return self._registry.take_link(digest(secret), self._now())


@dataclass(frozen=True)
class _Ticket:
    label: str
    parent: SessionRow
    expires: float


class Tickets:
    """Short-lived, single-use, for one sandbox's origin: cookies are per host and cannot be carried over."""

    def __init__(self, sessions: Sessions, now: Callable[[], float] = time.time) -> None:
        self._sessions = sessions
        self._now = now
        self._tickets: dict[str, _Ticket] = {}

    def issue(self, session: SessionRow, label: str) -> str:
        now = self._now()
        self._tickets = {key: each for key, each in self._tickets.items() if each.expires > now}
        secret = secrets.token_urlsafe(24)
        self._tickets[digest(secret)] = _Ticket(label, session, now + TICKET_SECONDS)
        return secret

    def redeem(self, secret: str, label: str) -> str | None:
        """The cookie value of a new session on ``label``'s origin, or None."""
        ticket = self._tickets.pop(digest(secret), None)
        if ticket is None or ticket.label != label or ticket.expires <= self._now():
            return None
        if not self._sessions.is_live(ticket.parent):
            return None
        return self._sessions.begin(ticket.parent.user, label, ticket.parent)
