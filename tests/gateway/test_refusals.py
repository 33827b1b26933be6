from __future__ import annotations

import json
from typing import get_args

import pytest

from choir.config import Family
from choir.gateway.refusals import error_answer, error_body, error_event, refused, upstream_failed


@pytest.mark.parametrize("family", get_args(Family))
@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 431, 502, 503, 504, 505])
def test_every_family_and_status(family: Family, status: int) -> None:
    refusal = refused(status, "some_reason", "because.", 3)
    answer = json.loads(error_body(family, refusal, "id1"))
    error = answer["error"]
    assert (error["reason"], error["request_id"]) == ("some_reason", "id1")
    assert error["message"] == "Choir's gateway refused this call: because."
    assert error["type"]
    if family == "anthropic":
        assert answer["type"] == "error"
    if family == "google":
        assert (error["code"], error["status"]) == (status, error["type"])
    if family == "bedrock":
        assert answer["message"] == error["message"]
    assert b"Retry-After: 3\r\n" in error_answer(refusal, family, "id", b"", True)
    event = error_event(family, refusal, "id1")
    assert event.startswith(b"\n\n")
    assert event.endswith(b"\n\n")
    data = [line for line in event.splitlines() if line.startswith(b"data: ")]
    assert json.loads(data[0][6:]) == answer


def test_the_sentence_says_who() -> None:
    assert upstream_failed(502, "reset", "The provider x closed.").outcome == "upstream:reset"
    assert refused(429, "r", "m").outcome == "refused:r"
    assert b"Retry-After" not in error_answer(refused(400, "r", "m"), "openai", "id", b"", True)


def test_the_sdks_find_the_message() -> None:
    """openai and anthropic build their typed errors from the body they are given."""
    import anthropic
    import httpx2 as httpx
    import openai

    refusal = refused(429, "requests_per_minute", "too many.", 1)
    response = httpx.Response(429, request=httpx.Request("POST", "http://h"))
    body = json.loads(error_body("openai", refusal, "id1"))
    client = openai.OpenAI(api_key="x", base_url="http://h")
    error = client._make_status_error("m", body=body, response=response)
    assert isinstance(error, openai.RateLimitError)
    assert error.code == "requests_per_minute"
    other = anthropic.Anthropic(api_key="x")._make_status_error(
        "m", body=json.loads(error_body("anthropic", refusal, "id1")), response=response
    )
    assert isinstance(other, anthropic.RateLimitError)
    client.close()
