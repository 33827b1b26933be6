"""SHA-256 (FIPS 180-4) and HMAC (RFC 2104) by CPython's own code: ``hashlib`` and ``hmac`` load OpenSSL first, which
costs ``choir run`` a third of an interpreter's start. For short texts only: OpenSSL is faster with long ones.
"""

from __future__ import annotations

try:
    from _sha2 import sha256  # type: ignore[import-not-found]  # since 3.12
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]
    except ImportError:  # an interpreter that was built without
        from hashlib import sha256

_BLOCK = 64  # bytes
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def sha256_hex(data: bytes) -> str:
    digest: str = sha256(data).hexdigest()
    return digest


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """
    Raises:
        ValueError: the key is longer than a block, 64 bytes.
    """
    if len(key) > _BLOCK:
        raise ValueError("a key of more than 64 bytes")
    padded = key.ljust(_BLOCK, b"\0")
    inner: bytes = sha256(padded.translate(_INNER) + data).digest()
    outer: bytes = sha256(padded.translate(_OUTER) + inner).digest()
    return outer
