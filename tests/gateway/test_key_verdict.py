from __future__ import annotations

import msgspec
import pytest

from choir.gateway.key_verdict import retry_after, verdict

GOOGLE = {
    "error": {
        "code": 400,
        "status": "INVALID_ARGUMENT",
        "details": [{"@type": "x", "reason": "API_KEY_INVALID"}, "odd", {}],
    }
}


@pytest.mark.parametrize(
    ("status", "block", "body", "expected"),
    [
        (200, b"", {}, None),
        (401, b"", "anything", "refused"),
        (402, b"", {}, "refused"),
        (429, b"", {"error": {"code": "rate_limit_exceeded"}}, "limited"),
        (429, b"", {"error": {"code": "insufficient_quota"}}, "refused"),
        (429, b"", "<html>", "limited"),
        (400, b"", GOOGLE, "refused"),
        (400, b"", [GOOGLE], "refused"),
        (400, b"", {"error": {"type": "invalid_request_error"}}, None),
        (403, b"", {"error": {"type": "permission_error"}}, None),
        (403, b"", {"error": {"type": "authentication_error"}}, "refused"),
        (403, b"a: b\r\nx-amzn-ErrorType: UnrecognizedClientException:http://x\r\n", "no", "refused"),
        (403, b"x-amzn-errortype: AccessDeniedException\r\n", {}, None),
        # What a caller wrote and a provider repeats is not a verdict.
        (400, b"", {"error": {"message": "no model `invalid_api_key`", "param": "API_KEY_INVALID"}}, None),
        (403, b"x-note: UnrecognizedClientException\r\n", {"message": "ExpiredTokenException"}, None),
        (404, b"", {"error": {"code": "invalid_api_key"}}, None),
        (500, b"", GOOGLE, None),
        (400, b"", None, None),
        (400, b"", {"error": "invalid_api_key"}, None),
        (400, b"", [], None),
        (400, b"", {"error": {"details": {}, "code": [1]}}, None),
    ],
)
def test_what_is_about_the_key(status: int, block: bytes, body: object, expected: str | None) -> None:
    assert verdict(status, block, msgspec.json.encode(body)) == expected


def test_a_body_that_is_no_json_says_nothing() -> None:
    assert verdict(400, b"", b"\xff" * 10) is None
    assert verdict(400, b"", b"[" * 100_000) is None


@pytest.mark.parametrize(
    ("block", "seconds"),
    [
        (b"", None),
        (b"a: b\r\nRetry-After: 7\r\n", 7.0),
        (b"retry-after:7", 7.0),
        (b"Retry-After: 99999999999999\r\n", 999999999.0),
        (b"Retry-After: Thu, 01 Jan 1970 00:01:40 GMT\r\n", 90.0),
        (b"Retry-After: Thu, 01 Jan 1970 00:00:01 GMT\r\n", 0.0),
        (b"Retry-After: soon\r\n", None),
        (b"Retry-After: -3\r\n", None),
        (b"Retry-After: \xb2\r\n", None),
        (b"Retry-After:\r\n", None),
        (b"X-Retry-After: 7\r\n", None),
    ],
)
def test_retry_after(block: bytes, seconds: float | None) -> None:
    assert retry_after(block, 10.0) == seconds
