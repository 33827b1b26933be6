"""What the programs of ``programs/`` said, and what was recorded of it. Each is one row of ``gateway.md``'s table."""

from __future__ import annotations

from typing import Any

import pytest

from choir.inside import CA_FILE, CA_VARIABLES
from choir.tokens import PREFIX, looks_like_token

from .conftest import Ran
from .vendors import BREAKS, CARRIERS, TEXT, Vendors

BASE = "http://127.0.0.1:7070/provider/v1/"
TLS_BASE = BASE.replace("http:", "https:")
VECTOR = [0.25, -0.5]

SAID: dict[str, dict[str, Any]] = {
    "openai_sdk": {
        "chat": TEXT,
        "chat stream": TEXT,
        "chunks without a choice": 0,
        "responses": TEXT,
        "responses stream": TEXT,
        "events": [
            "response.created",
            "response.output_text.delta",
            "response.output_text.delta",
            "response.completed",
        ],
        "embedding": VECTOR,
        "models": ["m"],
        "realtime": TEXT,
    },
    "openai_websocket": {"text": TEXT},
    "anthropic_sdk": {"messages": TEXT, "messages stream": TEXT, "usage": 7, "count_tokens": 14, "beta": TEXT},
    "google_sdk": {
        "v1beta generate": TEXT,
        "v1beta stream": TEXT,
        "v1beta count": 9,
        "v1 generate": TEXT,
        "v1 stream": TEXT,
        "v1 count": 9,
        "default": TEXT,
    },
    "mistral_sdk": {"chat": TEXT, "stream": TEXT, "fim": TEXT},
    "bedrock_sdk": {
        "endpoint": TLS_BASE + "aws-bedrock",
        "converse": TEXT,
        "converse-stream": TEXT,
        "usage": 3,
        "invoke": TEXT,
        "invoke stream": TEXT,
        "by ARN": TEXT,
        "broken": ["messageStart", "contentBlockDelta", "modelStreamErrorException"],
        "why": "The provider aws-bedrock broke off its answer.",
    },
    "azure_sdk": {"chat": TEXT, "chat stream": TEXT, "embedding": VECTOR},
    "search": {
        "tavily": "Paris",
        "exa": "Paris",
        "brave": "Paris",
        **{
            f"{client} {host}": 200 for client in ("httpx", "requests", "urllib") for host in ("127.0.0.1", "localhost")
        },
    },
}

CLAUDE = "anthropic.claude-3-5-sonnet-20240620-v1:0"
ARN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us." + CLAUDE
RECORDS: list[tuple[str, str, list[tuple[str | None, int | None, int | None, int | None]]]] = [
    # provider, route, then of each call: model, tokens read, of them from a cache, tokens written, reasoning included
    ("openai", "POST /chat/completions", [("gpt-4o", 19, 8, 10)] * 2),
    ("openai", "POST /responses", [("gpt-5", 36, 11, 87)] * 2),
    ("openai", "POST /embeddings", [("text-embedding-3-small", 5, None, None)]),
    ("openai", "GET /models", [(None, None, None, None)]),
    ("anthropic", "POST /v1/messages", [("claude-sonnet-5", 20, 5, 7)] * 3),
    ("anthropic", "POST /v1/messages/count_tokens", [("claude-sonnet-5", None, None, None)]),
    ("google", "POST /v1beta/models/*:generateContent", [("gemini-2.5-flash", 9, 2, 10)]),
    ("google", "POST /v1beta/models/*:streamGenerateContent", [("gemini-2.5-flash", 9, 2, 10)]),
    ("google", "POST /v1/models/*:generateContent", [("gemini-2.5-flash", 9, 2, 10)] * 2),
    ("google", "POST /v1/models/*:streamGenerateContent", [("gemini-2.5-flash", 9, 2, 10)]),
    ("google", "POST /v1beta/models/*:countTokens", [("gemini-2.5-flash", None, None, None)]),
    ("google", "POST /v1/models/*:countTokens", [("gemini-2.5-flash", None, None, None)]),
    ("mistral", "POST /v1/chat/completions", [("mistral-small-latest", 16, None, 6)] * 2),
    ("mistral", "POST /v1/fim/completions", [("codestral-latest", 16, None, 6)]),
    ("aws-bedrock", "POST /model/*/converse", [(CLAUDE, 14, 4, 3), (ARN, 14, 4, 3)]),
    ("aws-bedrock", "POST /model/*/converse-stream", [(CLAUDE, 14, 4, 3)]),
    ("aws-bedrock", "POST /model/*/invoke", [(CLAUDE, 21, None, 9)]),
    ("aws-bedrock", "POST /model/*/invoke-with-response-stream", [(CLAUDE, 21, None, 9)]),
    ("azure", "POST /openai/deployments/*/chat/completions", [("my-deployment", 19, 8, 10)] * 2),
    ("azure", "POST /openai/deployments/*/embeddings", [("my-deployment", 5, None, None)]),
    ("tavily", "POST /search", [(None, None, None, None)]),
    ("exa", "POST /search", [(None, None, None, None)] * 7),
    ("brave", "GET /res/v1/web/search", [(None, None, None, None)]),
]


@pytest.mark.parametrize("program", SAID)
def test_every_answer_is_right(ran: Ran, program: str) -> None:
    said = ran.said[program]
    assert isinstance(said, dict), said
    assert {name: said.get(name) for name in SAID[program]} == SAID[program]


@pytest.mark.parametrize("program", SAID)
def test_no_client_complains(ran: Ran, program: str) -> None:
    """E.g. of two variables for one thing."""
    assert ran.said[program + ".err"] == ""


@pytest.mark.parametrize(("provider", "route", "calls"), RECORDS, ids=[f"{each[0]} {each[1]}" for each in RECORDS])
def test_every_call_is_recorded(ran: Ran, provider: str, route: str, calls: list[Any]) -> None:
    records = [record for record in ran.records_of(provider, route) if record["model"] != BREAKS]
    names = ("model", "input_tokens", "cached_tokens", "output_tokens")
    assert [tuple(record[name] for name in names) for record in records] == calls
    assert {(record["status"], record["outcome"]) for record in records} == {(200, "ok")}


@pytest.mark.parametrize(
    ("route", "call"), [("GET /realtime", ("gpt-realtime", 30, 6, 20)), ("GET /responses", ("gpt-5", 36, 11, 87))]
)
def test_a_websocket_is_recorded(ran: Ran, route: str, call: Any) -> None:
    (record,) = ran.records_of("openai", route)
    assert tuple(record[name] for name in ("model", "input_tokens", "cached_tokens", "output_tokens")) == call
    assert (record["status"], record["outcome"]) == (101, "ok")
    assert record["bytes_in"] > 0
    assert record["bytes_out"] > 0


def test_a_stream_that_broke_is_recorded(ran: Ran) -> None:
    (record,) = [record for record in ran.records if record["model"] == BREAKS]
    assert (record["provider"], record["status"], record["outcome"]) == ("aws-bedrock", 200, "cut")


def test_nothing_else_is_recorded(ran: Ran) -> None:
    known = {(provider, route) for provider, route, _ in RECORDS}
    others = {(record["provider"], record["route"]) for record in ran.records} - known
    assert others == {("openai", "GET /realtime"), ("openai", "GET /responses")}


@pytest.mark.parametrize("vendor", [vendor for vendor in CARRIERS if vendor != "llama"])
def test_the_vendor_saw_the_operators_key_and_nothing_else(ran: Ran, vendors: Vendors, vendor: str) -> None:
    name, template = CARRIERS[vendor]
    requests = vendors.of(vendor)
    assert requests
    assert all(request.headers.get(name) == template.format(key=vendors.keys[vendor]) for request in requests)


def test_no_vendor_ever_saw_the_sandboxes_token(ran: Ran, vendors: Vendors) -> None:
    assert PREFIX.encode() not in vendors.raw


def test_the_sandbox_never_saw_a_key(ran: Ran, vendors: Vendors) -> None:
    everything = repr((ran.said, ran.environment, ran.records, ran.stderr))
    assert not [vendor for vendor, key in vendors.keys.items() if key in everything]


def test_what_the_anthropic_sdk_sends_arrives(ran: Ran, vendors: Vendors) -> None:
    *_, beta = vendors.of("anthropic")
    assert beta.target == "/v1/messages?beta=true"
    assert beta.headers["anthropic-beta"] == "a-beta"
    assert "anthropic-version" in beta.headers


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OPENAI_BASE_URL", BASE + "openai"),
        ("ANTHROPIC_BASE_URL", BASE + "anthropic"),
        ("GOOGLE_GEMINI_BASE_URL", BASE + "google"),
        ("MISTRAL_SERVER_URL", BASE + "mistral"),
        ("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", TLS_BASE + "aws-bedrock"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AZURE_OPENAI_ENDPOINT", BASE + "azure"),
        ("TAVILY_API_BASE_URL", BASE + "tavily"),
        ("EXA_BASE_URL", BASE + "exa"),
        ("BRAVE_BASE_URL", BASE + "brave"),
        *((variable, CA_FILE) for variable in CA_VARIABLES),
    ],
)
def test_the_variables_come_from_the_table(ran: Ran, variable: str, value: str) -> None:
    assert ran.environment[variable] == value


@pytest.mark.parametrize(
    "variable",
    [
        *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"),
        *("AZURE_OPENAI_API_KEY", "TAVILY_API_KEY", "EXA_API_KEY", "BRAVE_API_KEY"),
    ],
)
def test_every_key_is_the_sandboxes_token(ran: Ran, variable: str) -> None:
    assert looks_like_token(ran.environment[variable])
