"""Whether an answer gives away the provider key (pure)."""

from __future__ import annotations

import zlib

MAX_INFLATED = 1024 * 1024  # bytes


def repeats(text: bytes, encoding: bytes, secret: bytes) -> bool:
    """Whether an error answer holds the key, as far as it can be read; what cannot be read counts as if it did."""
    if encoding in (b"", b"identity"):
        return secret in text
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        return True
    try:
        inflate = zlib.decompressobj(wbits=47 if b"gzip" in encoding else 15)
        plain = inflate.decompress(text, MAX_INFLATED)
    except zlib.error:
        return True
    return secret in plain or bool(inflate.unconsumed_tail)
