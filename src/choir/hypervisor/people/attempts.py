"""How often somebody may try to sign in. Pure.

There is no bound for all together: with it a stranger with many addresses could lock everybody out, and without it they
win nothing, since what can be guessed has 98 bits and more.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

PER_ADDRESS = 10
PER_ADDRESS_SECONDS = 60.0
MAX_ADDRESSES = 10_000
_INTERFACE_BITS = 64
"""Of an IPv6 address (RFC 4291, 2.5.4): whoever has one has all that differ only in these."""


class Attempts:
    """A fixed window per client network. An attempt that proved right is forgiven: of one address can be an office."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def admit(self, address: str, now: float) -> float:
        """0.0 when this attempt may go on, else the seconds after which another may."""
        key = network(address)
        since, count = self._counts.get(key, (now, 0))
        if now - since >= PER_ADDRESS_SECONDS:
            since, count = now, 0
        if count >= PER_ADDRESS:
            return since + PER_ADDRESS_SECONDS - now
        self._counts[key] = (since, count + 1)
        self._counts.move_to_end(key)
        while len(self._counts) > MAX_ADDRESSES:
            self._counts.popitem(last=False)
        return 0.0

    def forgive(self, address: str) -> None:
        """Do not count one attempt from there."""
        key = network(address)
        since, count = self._counts.get(key, (0.0, 0))
        if count:
            self._counts[key] = (since, count - 1)


def network(address: str) -> str:
    """What to count by: an IPv4 address, an IPv6 address's /64."""
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(ipaddress.IPv6Address(int(parsed) >> _INTERFACE_BITS << _INTERFACE_BITS))
