"""Whether an upstream is worth a call just now (pure; the clock is an argument).

Closed: calls pass. After some failures in a row, none older than ``WINDOW``, it opens: calls are refused for a
pause that doubles each time. Half-open: the pause is over and one call at a time tries; an answer closes the circuit,
a failure opens it again. While it is open, a user none of whose calls failed may try once too: what makes a provider
fail may be in one user's calls, and must not cut off the others.

A failure is a connection that cannot be made or that ends without an answer, a timeout before the answer, or a status
of 500 and more. Anything else is an answer, 4xx included.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from choir.gateway.refusals import Refusal, refused

WINDOW = 30.0  # seconds
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 60.0
TRY_SECONDS = 15.0
"""A try without an outcome no longer keeps others from trying."""

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The circuit of one upstream."""

    __slots__ = (
        "_failures",
        "_limit",
        "_pause",
        "_trying_since",
        "_until",
        "_users",
        "_why",
        "closed",
        "failing",
        "opened",
    )

    def __init__(self, failures: int) -> None:
        """
        Args:
            failures: in a row, that open it; 0: it never opens.
        """
        self._limit = failures
        self.closed = True
        """While it is, a call passes without a question."""
        self.failing = False
        """Whether the last call failed. While it is not, success is no news."""
        self.opened = 0
        """How often it opened."""
        self._failures: deque[float] = deque(maxlen=failures)
        self._users: set[str] = set()
        """Whose calls failed since the last success, or tried since it opened."""
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._trying_since: float | None = None
        self._why = ""

    def state(self, now: float) -> State:
        if self.closed:
            return "closed"
        return "half-open" if now >= self._until else "open"

    def admit(self, user: str, now: float) -> bool:
        """Whether a call may go out; when the circuit is not closed, as a try."""
        if self.closed:
            return True
        if user not in self._users:
            self._users.add(user)
            return True
        if now < self._until:
            return False
        if self._trying_since is not None and now - self._trying_since < TRY_SECONDS:
            return False
        self._trying_since = now
        return True

    def failed(self, user: str, why: str, now: float) -> bool:
        """A call failed. Whether the circuit opens, or stays open for longer.

        Args:
            why: the reason of the failure.
        """
        self.failing = True
        self._why = why
        self._users.add(user)
        if self.closed:
            self._failures.append(now)
            if not self._limit or len(self._failures) < self._limit or now - self._failures[0] > WINDOW:
                return False
        elif now < self._until or self._trying_since is None:
            return False  # of a call that began before, or of a user's own try
        else:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self.closed = False
        self.opened += 1
        self._until = now + self._pause
        self._trying_since = None
        return True

    def answered(self) -> bool:
        """A call was answered. Whether that closes the circuit; needed only while ``failing``."""
        closes = not self.closed
        self.closed, self.failing = True, False
        self._failures.clear()
        self._users.clear()
        self._pause, self._trying_since = FIRST_PAUSE, None
        return closes

    def left(self) -> None:
        """A call ended before it could tell, e.g. because its caller was gone: another may try."""
        self._trying_since = None

    def wait(self, now: float) -> int:
        """Seconds until the next try, at least 1."""
        return max(1, math.ceil(self._until - now))

    def refusal(self, provider: str, now: float) -> Refusal:
        wait = self.wait(now)
        return refused(
            503,
            "circuit_open",
            f"the provider {provider} failed several times in a row, last with `{self._why}`, "
            f"and is tried again in {wait} s.",
            wait,
        )
