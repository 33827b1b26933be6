"""What a gateway token looks like, without what it takes to sign one: a sandbox's first process imports this."""

from __future__ import annotations

PREFIX = "choir-gt-"


def looks_like_token(value: str) -> bool:
    """Whether ``value`` has the shape of a gateway token: the one value allowed under a key's name in a sandbox."""
    parts = value.split(".")
    return value.startswith(PREFIX) and len(parts) == 3 and all(parts)
