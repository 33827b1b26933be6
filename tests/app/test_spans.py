from __future__ import annotations

import msgspec
import pytest

from choir.app.spans import call_span
from choir.contract import UsageRecord

RECORD = UsageRecord(
    ts="2026-01-02T03:04:05.678Z",
    request_id="01ABC",
    sandbox_id="s1",
    user_id="ann",
    provider="google",
    model="gemini-x",
    route="POST /v1beta/models/*:streamGenerateContent",
    status=200,
    outcome="ok",
    latency_ms=1500.5,
    ttft_ms=250.0,
    bytes_in=10,
    bytes_out=20,
    input_tokens=7,
    output_tokens=3,
    cached_tokens=2,
    cost_usd=0.5,
)


def test_a_call() -> None:
    span = call_span(RECORD)
    assert span.name == "generate_content gemini-x"
    assert span.start == 1767323045678 * 10**6
    assert span.end - span.start == 1_500_500_000
    assert span.error == ""
    assert span.attributes == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-x",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "http.response.status_code": 200,
        "http.request.body.size": 10,
        "http.response.body.size": 20,
        "user.id": "ann",
        "choir.sandbox.id": "s1",
        "choir.request.id": "01ABC",
        "choir.route": "POST /v1beta/models/*:streamGenerateContent",
        "choir.outcome": "ok",
        "choir.cost_usd": 0.5,
        "choir.calls": 1,
    }
    assert call_span(RECORD) == span, "sent again it is the same span"


@pytest.mark.parametrize(
    ("fields", "name", "error"),
    [
        ({"outcome": "refused:requests_per_minute", "status": 429}, "generate_content gemini-x", "requests_per_minute"),
        ({"outcome": "client_gone", "status": 0}, "generate_content gemini-x", "client_gone"),
        ({"route": "", "model": None, "provider": "", "outcome": "refused:token_missing"}, "refused", "token_missing"),
        ({"route": "POST /search", "model": None, "provider": "tavily"}, "POST /search", ""),
        ({"route": "POST /v1/embeddings", "provider": "mistral"}, "embeddings gemini-x", ""),
    ],
)
def test_other_calls(fields: dict[str, object], name: str, error: str) -> None:
    span = call_span(msgspec.structs.replace(RECORD, **fields))
    assert (span.name, span.error) == (name, error)
    assert span.attributes.get("error.type", "") == error
    assert None not in span.attributes.values()
    assert "" not in span.attributes.values()
