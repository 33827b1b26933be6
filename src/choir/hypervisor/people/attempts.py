"""How often somebody may try to sign in. Pure."""

from __future__ import annotations

from collections import OrderedDict

PER_ADDRESS = 10
PER_ADDRESS_SECONDS = 60.0
IN_ALL = 300
"""Of all addresses together in the same time: many addresses are cheap."""
MAX_ADDRESSES = 10_000


class Attempts:
    """A fixed window per client address, and one for all. Successes count too: they are few."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, address: str, now: float) -> float:
        """0.0 when this attempt may go on, else the seconds after which another may."""
        wait = max(self._wait("", IN_ALL, now), self._wait(address or "?", PER_ADDRESS, now))
        if wait:
            return wait
        for key in ("", address or "?"):
            since, count = self._counts.get(key, (now, 0))
            self._counts[key] = (since, count + 1) if now - since < PER_ADDRESS_SECONDS else (now, 1)
            self._counts.move_to_end(key)
        while len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        return 0.0

    def _wait(self, key: str, limit: int, now: float) -> float:
        since, count = self._counts.get(key, (now, 0))
        left = since + PER_ADDRESS_SECONDS - now
        return left if count >= limit and left > 0 else 0.0
