"""What the gateway answers when a call does not reach, or does not come back from, a provider (pure).

Each API family's own SDK finds its message where it looks for it; ``error.type/reason/message/request_id`` are the
same everywhere. The sentence says who refused: Choir's gateway or the provider.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from choir.config import Family
from choir.gateway.response_head import STATUS_LINES

_OPENAI = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_ANTHROPIC = {**_OPENAI, 503: "overloaded_error"}
_GOOGLE = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_BEDROCK = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    413: "ValidationException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
    504: "ModelTimeoutException",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the gateway's own."""

    status: int
    outcome: str
    """``refused:<reason>`` or ``upstream:<reason>``; what the usage record says."""
    message: str
    retry_after: int | None = None
    """Seconds."""

    @property
    def reason(self) -> str:
        return self.outcome.partition(":")[2]


def refused(status: int, reason: str, message: str, retry_after: int | None = None) -> Refusal:
    """A refusal by the gateway itself; ``message`` completes "Choir's gateway refused this call: "."""
    return Refusal(status, f"refused:{reason}", f"Choir's gateway refused this call: {message}", retry_after)


def upstream_failed(status: int, reason: str, message: str) -> Refusal:
    """A failure on the provider's side; ``message`` is the whole sentence."""
    return Refusal(status, f"upstream:{reason}", message)


def error_type(family: Family, status: int) -> str:
    """The family's own word for ``status``."""
    if family == "google":
        return _GOOGLE.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    if family == "bedrock":
        return _BEDROCK.get(status, "InternalServerException" if status >= 500 else "ValidationException")
    table = _ANTHROPIC if family == "anthropic" else _OPENAI
    fallback = "api_error" if family == "anthropic" else "server_error"
    return table.get(status, fallback if status >= 500 else "invalid_request_error")


def error_body(family: Family, refusal: Refusal, request_id: str) -> bytes:
    """The JSON body of an error answer."""
    return msgspec.json.encode(_error(family, refusal, request_id))


def error_event(family: Family, refusal: Refusal, request_id: str) -> bytes:
    """A server-sent event that the family's SDK raises as an error, for a stream that broke.

    It starts with an empty line, which ends whatever event was cut in the middle.
    """
    name = b"event: error\n" if family == "anthropic" else b""
    return b"\n\n" + name + b"data: " + msgspec.json.encode(_error(family, refusal, request_id)) + b"\n\n"


def _headers(family: Family, refusal: Refusal) -> bytes:
    """Header lines beside the framing ones."""
    lines = b"Content-Type: application/json\r\n"
    if refusal.retry_after is not None:
        lines += b"Retry-After: %d\r\n" % refusal.retry_after
    if family == "bedrock":
        lines += b"x-amzn-ErrorType: " + error_type(family, refusal.status).encode() + b"\r\n"
    return lines


def error_answer(refusal: Refusal, family: Family, request_id: str, body: bytes, keep: bool) -> bytes:
    """A whole answer of the gateway's own."""
    return b"%b%bContent-Length: %d\r\nx-choir-request-id: %b\r\n%b\r\n%b" % (
        STATUS_LINES[refusal.status],
        _headers(family, refusal),
        len(body),
        request_id.encode(),
        b"" if keep else b"Connection: close\r\n",
        body,
    )


def _error(family: Family, refusal: Refusal, request_id: str) -> dict[str, object]:
    error: dict[str, object] = {
        "type": error_type(family, refusal.status),
        "reason": refusal.reason,
        "message": refusal.message,
        "request_id": request_id,
    }
    if family == "anthropic":
        return {"type": "error", "error": error, "request_id": request_id}
    if family == "google":
        return {"error": {"code": refusal.status, "status": error["type"], **error, "details": []}}
    if family == "bedrock":
        return {"message": refusal.message, "error": error}
    return {"error": {**error, "param": None, "code": refusal.reason}}
