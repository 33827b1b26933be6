"""Why a model call failed, as a sentence for a person. Pure, and independent of any SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_WORDS = {
    "usd_per_day": "The money for model calls is used up for today.",
    "usd_per_month": "The money for model calls is used up for this month.",
    "tokens_per_minute": "You have used as many tokens as you may in one minute; it goes on in a moment.",
    "requests_per_minute": "There were more calls than allowed in one minute; it goes on in a moment.",
    "concurrent_requests": "As many calls as allowed are under way; try again when one has ended.",
}
"""What the gateway's limits mean to a person; its own sentence, with the figures, follows."""


def explained(error: BaseException) -> tuple[str, str]:
    """(reason, sentence): the refusal's own words where it has some."""
    for each in _chain(error):
        inner = _inner(getattr(each, "body", None))
        message = inner.get("message")
        if isinstance(message, str) and message:
            reason = inner.get("reason")
            if isinstance(reason, str):
                return reason, f"{_WORDS[reason]} {message}" if reason in _WORDS else message
            return "refused", message
    for each in _chain(error):
        name = type(each).__name__
        status = getattr(each, "status_code", None)
        if isinstance(status, int):
            return "refused", f"The model's provider answered with status {status}."
        if "Timeout" in name:
            return "timeout", "The model took too long to answer."
        if name == "UsageLimitExceeded":
            return "too_many_steps", "The agent took more steps than one run may have, and was ended."
        if "Connection" in name or "ConnectError" in name:
            return "gateway_gone", "The provider gateway does not answer. Try again in a moment."
    return "broke_off", f"The answer broke off ({type(error).__name__})."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _inner(body: Any) -> Mapping[str, Any]:
    """The part of an error's JSON that has its message, wherever the SDK left it."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return {}
    for _ in range(3):
        if not isinstance(body, Mapping):
            return {}
        if not isinstance(body.get("error"), Mapping):
            return body
        body = body["error"]
    return {}
