"""API tokens: what a script signs in with. Named, scoped, always expiring; stored as a hash, shown once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from choir import ids
from choir.errors import StartError
from choir.hypervisor.people.words import label
from choir.hypervisor.sessions import digest
from choir.storage.people import ApiToken, People

PREFIX = "choir-api-"
SCOPES = ("read", "control", "admin")
"""Each includes those before it. ``admin`` needs an admin, whenever it is used."""
MAX_DAYS = 366
_MAX_PER_USER = 50


class ApiTokens:
    """Tokens of one deployment's people."""

    def __init__(self, people: People, now: Callable[[], float] = time.time) -> None:
        self._people = people
        self._now = now

    def create(self, user: str, name: str, scope: str, days: int) -> tuple[ApiToken, str]:
        """A new token, and its secret, which nobody can show again.

        Raises:
            StartError: ``token_invalid``: the scope, the days, or one too many.
        """
        account = self._people.user(user)
        if scope not in SCOPES or (scope == "admin" and not (account and account.admin)):
            raise StartError(
                "token_invalid", f"You cannot have a token for `{scope[:20]}`.", f"Of: {', '.join(SCOPES)}"
            )
        if not 1 <= days <= MAX_DAYS:
            raise StartError("token_invalid", f"A token lasts 1 to {MAX_DAYS} days.")
        now = self._now()
        if len(self._people.api_tokens(user, now)) >= _MAX_PER_USER:
            raise StartError("token_invalid", f"There are {_MAX_PER_USER} tokens already.", "Revoke some first.")
        secret = PREFIX + secrets.token_urlsafe(32)
        token = ApiToken(ids.new_id(), user, label(name, "script"), scope, now, now + days * 86400.0, None)
        self._people.add_api_token(token, digest(secret))
        return token, secret

    def find(self, authorization: str, scope: str) -> ApiToken | None:
        """The token of an Authorization header, if it may do what needs ``scope``."""
        kind, _, secret = authorization.partition(" ")
        if kind.lower() != "bearer" or not secret.startswith(PREFIX):
            return None
        token = self._people.api_token(digest(secret.strip()), self._now())
        if token is None or SCOPES.index(token.scope) < SCOPES.index(scope):
            return None
        user = self._people.user(token.user)
        return token if user is not None and (user.admin or token.scope != "admin") else None
