"""Gateway tokens: bound to one sandbox, signed, checked without a database.

Shape: ``choir-gt-<sandbox id>.<96-bit nonce>.<HMAC-SHA256>``, the last two base64url. The prefix is what lets the
keyless policy tell a gateway token from a real credential. A token carries no expiry: it lives as long as the lease
that the gateway keeps for its sandbox (see ``choir.contract``), so revocation is immediate.
"""

from __future__ import annotations

import os
from _operator import _compare_digest as same  # what ``hmac.compare_digest`` is
from binascii import b2a_base64

from choir.digest import hmac_sha256
from choir.errors import TokenError
from choir.token_shape import PREFIX as PREFIX
from choir.token_shape import looks_like_token as looks_like_token

KEY_BYTES = 32
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def new_key() -> bytes:
    """A fresh signing key, shared by the hypervisor (signs) and the gateway (verifies)."""
    return os.urandom(KEY_BYTES)


def _b64(data: bytes) -> str:
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()


def _mac(key: bytes, signed: str) -> str:
    return _b64(hmac_sha256(key, signed.encode()))


def sign(key: bytes, sandbox_id: str) -> str:
    """A new token for ``sandbox_id`` (no dot in it)."""
    signed = f"{PREFIX}{sandbox_id}.{_b64(os.urandom(12))}"
    return f"{signed}.{_mac(key, signed)}"


def verify(key: bytes, token: str, sandbox_id: str) -> None:
    """Check that ``token`` is genuine and belongs to ``sandbox_id``.

    Raises:
        TokenError: ``token_malformed``, ``token_forged`` or ``token_of_another_sandbox``. The message never repeats
            any part of the token.
    """
    parts = token.split(".")
    if not token.startswith(PREFIX) or len(parts) != 3 or not token.isascii():
        raise TokenError("token_malformed", "This is not a Choir gateway token.")
    signed, _, mac = token.rpartition(".")
    if not same(_mac(key, signed), mac):
        raise TokenError("token_forged", "The gateway token's signature does not match.")
    if parts[0] != PREFIX + sandbox_id:
        raise TokenError("token_of_another_sandbox", "The gateway token belongs to another sandbox.")
