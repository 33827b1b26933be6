from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.config import Provider, known_providers
from choir.gateway.routing import Table, Unroutable

PROVIDERS = [
    msgspec.convert({**fields, "name": name, "base_url": "https://x.example"}, Provider)
    for name, fields in (
        (name, {k: v for k, v in raw.items() if k != "key"}) for name, raw in known_providers().items()
    )
]
PROVIDERS.append(Provider(name="wide", base_url="https://x.example", allow=("POST /openai/v1/**",), speaks=("openai",)))
TABLE = Table(PROVIDERS, {"exa": "no key in EXA_API_KEY"})
ARN = "arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.anthropic.claude-v1%3A0"


@pytest.mark.parametrize(
    ("path", "dialect", "billing"),
    [
        ("openai/responses", "responses", "output"),
        ("openai/responses/compact", "responses", "output"),
        ("openai/responses/input_tokens", "responses", "free"),
        ("anthropic/v1/messages/count_tokens", "messages", "free"),
        ("aws-bedrock/model/m/count-tokens", None, "free"),
        ("google/v1/models/m:countTokens", None, "free"),
        ("openai/embeddings", None, "input"),
        ("tavily/search", None, "request"),
    ],
)
def test_what_a_body_is_read_as_and_what_it_can_cost(path: str, dialect: str | None, billing: str) -> None:
    match = TABLE.match("POST", b"/provider/v1/" + path.encode())
    assert (match.dialect, match.billing) == (dialect, billing)


@pytest.mark.parametrize("path", ["tavily/extract", "tavily/crawl", "tavily/map"])
def test_a_search_provider_fetches_no_given_page(path: str) -> None:
    with pytest.raises(Unroutable) as raised:
        TABLE.match("POST", b"/provider/v1/" + path.encode())
    assert raised.value.refusal.reason == "route_not_allowed"


@pytest.mark.parametrize(
    ("method", "path", "pattern", "model", "family"),
    [
        ("POST", "openai/chat/completions", "POST /chat/completions", None, "openai"),
        ("GET", "openai/models", "GET /models", None, "openai"),
        ("GET", "openai/models/gpt-5", "GET /models/*", "gpt-5", "openai"),
        ("GET", "openai/realtime?model=gpt-rt", "GET /realtime", None, "openai"),
        ("POST", "openai/audio/speech", "POST /audio/*", None, "openai"),
        ("POST", "anthropic/v1/messages?beta=true", "POST /v1/messages", None, "anthropic"),
        ("POST", "anthropic/v1/messages/count_tokens", "POST /v1/messages/count_tokens", None, "anthropic"),
        (
            *("POST", "google/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
            *("POST /v1beta/models/*:streamGenerateContent", "gemini-2.5-pro", "google"),
        ),
        ("POST", "google/v1/models/g%3AgenerateContent", "POST /v1/models/*:generateContent", "g", "google"),
        (
            "POST",
            "aws-bedrock/model/us.anthropic.claude-v1%3A0/converse",
            "POST /model/*/converse",
            "us.anthropic.claude-v1:0",
            "bedrock",
        ),
        ("POST", f"aws-bedrock/model/{ARN}/invoke", "POST /model/*/invoke", unquote_to_bytes(ARN).decode(), "bedrock"),
        (
            *("POST", "azure/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"),
            *("POST /openai/deployments/*/chat/completions", "my-gpt", "openai"),
        ),
        ("POST", "azure/openai/v1/chat/completions", "POST /openai/v1/chat/completions", None, "openai"),
        ("POST", "wide/openai/v1/a/b/c", "POST /openai/v1/**", None, "openai"),
        ("POST", "local/v1/messages", "POST /v1/messages", None, "anthropic"),
        ("POST", "local/v1/chat/completions", "POST /v1/chat/completions", None, "openai"),
        ("GET", "brave/res/v1/web/search?q=a%20b%2Fc", "GET /res/v1/web/search", None, "search"),
    ],
)
def test_matches(method: str, path: str, pattern: str, model: str | None, family: str) -> None:
    match = TABLE.match(method, f"/provider/v1/{path}".encode())
    assert (match.pattern, match.path_model, match.family) == (pattern, model, family)
    assert match.target == b"/" + path.partition("/")[2].encode(), "byte for byte"


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/", 404, "unknown_path"),
        ("/healthz", 404, "unknown_path"),
        ("/provider/v2/openai/models", 404, "unknown_path"),
        ("/provider/v1/openai", 404, "unknown_path"),
        ("/provider/v1/OPENAI/models", 404, "unknown_provider"),
        ("/provider/v1/", 404, "unknown_provider"),
        ("/provider/v1//openai/models", 404, "unknown_provider"),
        ("/provider/v1/%6fpenai/models", 404, "unknown_provider"),
        ("/provider/v1/exa/search", 404, "provider_not_enabled"),
        ("/provider/v1/openai/files", 403, "route_not_allowed"),
        ("/provider/v1/openai/models/a/b", 403, "route_not_allowed"),
        ("/provider/v1/openai/Models", 403, "route_not_allowed"),
        ("/provider/v1/openai/models/", 400, "path_not_canonical"),
        ("/provider/v1/openai/models//a", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/..", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/%2e%2e", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/gpt-4%2e1", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/.%2E", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%2Fb", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%5Cb", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a\\b", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%252Fb", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%00", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%0d%0aX:1", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%zz", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a;b", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%3Bb", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%3Fb", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/a%23b", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/%C3%A9", 400, "path_not_canonical"),
        ("/provider/v1/openai/models/\xe9", 400, "path_not_canonical"),
        ("/provider/v1/openai/models#a", 400, "path_not_canonical"),
        ("/provider/v1/openai/models?a#b", 400, "path_not_canonical"),
        ("/provider/v1/google/v1beta/models/a:streamGenerateContent:generateContent", 403, "route_not_allowed"),
        ("/provider/v1/google/v1beta/models/a%2Fb:generateContent", 400, "path_not_canonical"),
        ("/provider/v1/aws-bedrock/model/a%2F..%2Fb/invoke", 400, "path_not_canonical"),
        ("/provider/v1/aws-bedrock/model/%2Fb/invoke", 400, "path_not_canonical"),
        ("/provider/v1/aws-bedrock/model/a%2F%2Fb/invoke", 400, "path_not_canonical"),
        ("/provider/v1/aws-bedrock/model%2Fa/b/invoke", 403, "route_not_allowed"),
        ("/provider/v1/google/v1beta/models?key=x", 401, "key_in_query"),
        ("/provider/v1/openai/realtime?model=a&model=b", 400, "path_not_canonical"),
    ],
)
def test_refuses(path: str, status: int, reason: str) -> None:
    for method in ("POST",) if ":generate" in path else ("GET", "POST"):
        with pytest.raises(Unroutable) as raised:
            TABLE.match(method, path.encode("latin-1"))
        assert (raised.value.refusal.status, raised.value.refusal.reason) == (status, reason)


def test_an_encoded_slash_meets_no_double_star() -> None:
    wide = Provider(
        name="wide", base_url="http://h", speaks=("bedrock",), allow=("POST /a/**", "POST /b/*/c", "POST /d-*")
    )
    table = Table([wide])
    assert table.match("POST", b"/provider/v1/wide/a/x/y").pattern == "POST /a/**"
    assert table.match("POST", b"/provider/v1/wide/b/x%2Fy/c").pattern == "POST /b/*/c"
    for path in (b"a/x%2Fy", b"d-x%2Fy", b"a%2Fx", b"b/x%2Fy%2Fc"):
        with pytest.raises(Unroutable):
            table.match("POST", b"/provider/v1/wide/" + path)


@given(st.text(alphabet="aZ09-._~:%/2eEfF5cC;?#\\ \x00\xe9", max_size=24))
def test_what_passes_has_one_meaning(tail: str) -> None:
    """Whatever passes under a one-star pattern is one plain segment, and is forwarded unchanged."""
    target = f"/provider/v1/openai/models/{tail}".encode("latin-1")
    try:
        match = TABLE.match("GET", target)
    except Unroutable:
        return
    assert match.target == target[len(b"/provider/v1/openai") :]
    path = match.target.partition(b"?")[0]
    decoded = unquote_to_bytes(path)
    assert decoded.count(b"/") == path.count(b"/") == 2
    assert decoded.split(b"/")[2] not in (b"", b".", b"..")
    assert unquote_to_bytes(decoded) == decoded, "decoding twice changes nothing"


@given(st.text(min_size=1, max_size=30))
def test_any_quoted_name_is_matched_or_refused(name: str) -> None:
    target = f"/provider/v1/aws-bedrock/model/{quote(name, safe='')}/converse".encode()
    try:
        match = TABLE.match("POST", target)
    except Unroutable as unroutable:
        status = unroutable.refusal.status
    else:
        status = 200
        assert match.pattern == "POST /model/*/converse"
    assert status in (200, 400, 403)


@pytest.mark.parametrize(
    ("method", "path", "dialect"),
    [
        ("POST", "openai/chat/completions", "chat"),
        ("POST", "openai/responses", "responses"),
        ("POST", "openai/embeddings", None),
        ("GET", "openai/models/responses", None),
        ("POST", "anthropic/v1/messages?beta=true", "messages"),
        ("POST", "anthropic/v1/messages/count_tokens", "messages"),
        ("POST", "local/v1/messages", "messages"),
        ("POST", "google/v1beta/models/g:generateContent", "generate"),
        ("POST", "google/v1beta/models/g%3AstreamGenerateContent", "generate"),
        ("POST", "google/v1beta/models/g:embedContent", None),
        ("POST", "wide/openai/v1/Chat/Completions", "chat"),
        ("POST", "wide/openai/v1/chat/complet%69ons", "chat"),
    ],
)
def test_dialects(method: str, path: str, dialect: str | None) -> None:
    assert TABLE.match(method, f"/provider/v1/{path}".encode()).dialect == dialect


def test_long_targets_are_not_kept() -> None:
    """One sandbox could fill the memory of all with them."""
    table = Table(PROVIDERS)
    target = b"/provider/v1/openai/models"
    for number in range(3):
        table.match("GET", target + b"?x=%d" % number + b"a" * 50_000)
    assert not table._cache
    assert table.match("GET", target) is table.match("GET", target)
