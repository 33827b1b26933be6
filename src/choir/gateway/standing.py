"""How an upstream stands: which of its keys are of use, and whether it answers at all. Says each change in the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from choir.gateway.breaker import Breaker
from choir.gateway.keyring import Keyring, Verdict, label
from choir.gateway.refusals import Refusal

_FAILURES = frozenset(
    (
        *("unreachable", "unresolvable", "connect_timeout", "tls_untrusted", "tls_failed", "service_not_started"),
        *("reset", "malformed", "first_byte_timeout"),
    )
)
"""Reasons of a call that came to no answer and that are the provider's."""


class Standing:
    """Of one upstream, as far as calls have told."""

    __slots__ = ("_log", "_name", "breaker", "keyring", "retries", "troubled")

    def __init__(self, provider: str, references: Sequence[str], failures: int, log: Callable[[str], None]) -> None:
        self._name = provider
        self._log = log
        self.keyring = Keyring(references or ("",))
        self.breaker = Breaker(failures)
        self.retries = 0
        """Calls that were made again."""
        self.troubled = False
        """Whether a key was turned away or the last call failed. While it is not, every call may go out, with
        ``keyring.current``, and an answer is no news."""

    def admit(self, user: str, now: float) -> Refusal | None:
        """Whether a call may go out."""
        return None if self.breaker.admit(user, now) else self.breaker.refusal(self._name, now)

    def key(self, now: float) -> int | Refusal:
        """The key for a call."""
        key = self.keyring.choose(now)
        return self.keyring.refusal(self._name, now) if key is None else key

    def answered(self, key: int, status: int) -> None:
        """The provider answered with less than 500; needed only while ``troubled``."""
        if self.breaker.failing and self.breaker.answered():
            self._log(f"circuit of {self._name} closed: it answers again")
        if status < 400 and self.keyring.accepted(key):
            self._log(f"key {self._label(key)} of {self._name}: accepted again")
        self.troubled = self.keyring.troubled

    def turned_away(self, key: int, verdict: Verdict, told: float | None, now: float) -> None:
        """The provider turned a call away because of its key."""
        if self.keyring.turned_away(key, verdict, told, now):
            state = self.keyring.states(now)[key]
            self._log(f"key {self._label(key)} of {self._name}: {verdict}; it rests for {state.seconds} s")
        self.troubled = self.keyring.troubled or self.breaker.failing

    def failed(self, user: str, reason: str, now: float) -> None:
        """A call came to no answer, or to one of 500 and more. Reasons that are not the provider's are passed over."""
        if reason not in _FAILURES and not reason.startswith("http_5"):
            return
        self.troubled = True
        if self.breaker.failed(user, reason, now):
            self._log(
                f"circuit of {self._name} open: it fails, last with {reason}; next try in {self.breaker.wait(now)} s"
            )

    def left(self) -> None:
        """A call ended before it could tell anything; needed only while ``troubled``."""
        self.breaker.left()

    def _label(self, key: int) -> str:
        return label(self.keyring.references[key])
