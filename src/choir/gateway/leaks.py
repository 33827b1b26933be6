"""Whether an answer gives away the provider key (pure)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

MAX_INFLATED = 1024 * 1024  # bytes


def repeats(text: bytes, encoding: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether an error answer holds a key, as far as it can be read; what cannot be read counts as if it did."""
    if encoding in (b"", b"identity"):
        return any(secret in text for secret in secrets)
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return True
    try:
        inflate = zlib.decompressobj(wbits=47 if b"gzip" in encoding else 15)
        plain = inflate.decompress(text, MAX_INFLATED)
    except zlib.error:
        return True
    return any(secret in plain for secret in secrets) or bool(inflate.unconsumed_tail)
