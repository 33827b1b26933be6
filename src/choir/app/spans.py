"""A usage record as an OpenTelemetry span (pure): the GenAI semantic conventions' attributes
(https://opentelemetry.io/docs/specs/semconv/gen-ai/), and ``choir.…`` for what they have no name for. A record holds no
content, so a span cannot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from choir.contract import UsageRecord

Value = str | int | float

_PROVIDERS = {
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "aws-bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "xai": "x_ai",
    "kimi": "moonshot_ai",
}
"""The conventions' names where they are not Choir's."""
_OPERATIONS = (
    ("/chat/completions", "chat"),
    ("/responses", "chat"),
    ("/messages", "chat"),
    ("/converse", "chat"),
    ("/converse-stream", "chat"),
    ("/invoke", "chat"),
    ("/invoke-with-response-stream", "chat"),
    (":generateContent", "generate_content"),
    (":streamGenerateContent", "generate_content"),
    ("/embeddings", "embeddings"),
    ("mbedContent", "embeddings"),
    ("mbedContents", "embeddings"),
    ("/completions", "text_completion"),
)
"""By the end of a route."""


@dataclass(frozen=True, slots=True)
class CallSpan:
    """What a span of one call says."""

    trace_id: int
    """128 bits, worked out from the request's id: a record that is sent twice is one span."""
    span_id: int
    name: str
    start: int
    """Nanoseconds since the epoch."""
    end: int
    attributes: dict[str, Value]
    error: str
    """"" when the call went well."""


def call_span(record: UsageRecord) -> CallSpan:
    operation = next((name for end, name in _OPERATIONS if record.route.endswith(end)), None)
    error = "" if record.outcome == "ok" else record.outcome.partition(":")[2] or record.outcome
    values: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _PROVIDERS.get(record.provider, record.provider) or None,
        "gen_ai.request.model": record.model,
        "gen_ai.usage.input_tokens": record.input_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.response.time_to_first_chunk": None if record.ttft_ms is None else record.ttft_ms / 1000,
        "http.response.status_code": record.status or None,
        "http.request.body.size": record.bytes_in,
        "http.response.body.size": record.bytes_out,
        "error.type": error or None,
        "user.id": record.user_id,
        "choir.sandbox.id": record.sandbox_id,
        "choir.request.id": record.request_id,
        "choir.route": record.route or None,
        "choir.outcome": record.outcome,
        "choir.cost_usd": record.cost_usd,
        "choir.calls": record.count,
    }
    digest = hashlib.sha256(record.request_id.encode()).digest()
    start = round(datetime.fromisoformat(record.ts).timestamp() * 1000) * 10**6
    return CallSpan(
        trace_id=int.from_bytes(digest[:16]) or 1,
        span_id=int.from_bytes(digest[16:24]) or 1,
        name=" ".join(part for part in (operation or record.route or "refused", record.model) if part),
        start=start,
        end=start + round(record.latency_ms * 1e6),
        attributes={name: value for name, value in values.items() if value is not None},
        error=error,
    )
