"""What an answer says about the key that was used (pure).

Only the status and members whose value is one of a fixed set count: the text of an error may repeat what a caller
sent, and no caller may make a key rest.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from choir.gateway.keyring import Verdict

KEY_STATUSES = frozenset((400, 401, 402, 403, 429))
"""Of answers that may be about the key."""
_NO_CREDIT = frozenset(("insufficient_quota", "billing_hard_limit_reached"))
_INVALID = frozenset(
    (
        *("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"),  # Google
        *("UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"),  # AWS
        *("invalid_api_key", "authentication_error", "account_deactivated"),
    )
)
_ERROR_TYPE = re.compile(rb"(?im)^x-amzn-errortype:[ \t]*([A-Za-z]+)")
_RETRY_AFTER = re.compile(rb"(?im)^retry-after:[ \t]*([^\r\n]*?)[ \t]*\r?$")


def verdict(status: int, block: bytes, body: bytes) -> Verdict | None:
    """None when the answer is not about the key.

    Args:
        block: header lines.
        body: of the error, as far as it is known, not compressed.
    """
    if status in (401, 402):
        return "refused"
    if status == 429:
        return "refused" if _codes(body) & _NO_CREDIT else "limited"
    if status in (400, 403):
        named = _ERROR_TYPE.search(block)
        if (named and named[1].decode() in _INVALID) or _codes(body) & _INVALID:
            return "refused"
    return None


def retry_after(block: bytes, wall: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), a number or a date; None when there is none.

    Args:
        wall: seconds since the epoch.
    """
    found = _RETRY_AFTER.search(block)
    if found is None:
        return None
    text = found[1].decode("latin-1")
    if text.isdecimal() and text.isascii():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def _codes(body: bytes) -> set[str]:
    """The words of an error that only a provider chooses: type, code, status, and Google's reasons."""
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
    if isinstance(decoded, list) and decoded:  # Google's streams
        decoded = decoded[0]
    error = decoded.get("error") if isinstance(decoded, dict) else None
    if not isinstance(error, dict):
        return set()
    details = error.get("details")
    words = [error.get(name) for name in ("type", "code", "status")]
    words += [each.get("reason") for each in (details if isinstance(details, list) else ()) if isinstance(each, dict)]
    return {word for word in words if isinstance(word, str)}
