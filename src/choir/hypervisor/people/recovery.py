"""Recovery codes: for the day the passkey is lost. Pure, but for the randomness."""

from __future__ import annotations

import secrets

COUNT = 10
_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"
"""Without letters and digits that look alike."""
_GROUPS, _LENGTH = 4, 5


def new_codes() -> list[str]:
    """COUNT codes like ``7x3kd-mm2qa-9cvbn-4txzw``, 98 bits each: a plain hash is enough to store them."""
    return [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)) for _ in range(_GROUPS))
        for _ in range(COUNT)
    ]


def normal(typed: str) -> str:
    """What a person typed, as it was shown: any case, with or without dashes and blanks; "" when it cannot be one."""
    letters = "".join(ch for ch in typed[:200].lower() if ch.isalnum())
    if len(letters) != _GROUPS * _LENGTH or not set(letters) <= set(_ALPHABET):
        return ""
    return "-".join(letters[at : at + _LENGTH] for at in range(0, len(letters), _LENGTH))
