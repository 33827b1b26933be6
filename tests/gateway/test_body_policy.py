from __future__ import annotations

import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.config import Provider
from choir.gateway.body import Undecodable, strict_spans
from choir.gateway.body_policy import refusal
from choir.gateway.routing import Dialect

STRICT = Provider(name="p", base_url="https://x")


def judge(dialect: Dialect, body: object, provider: Provider = STRICT) -> str | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = refusal(provider, dialect, text, strict_spans(text))
    return found and found.reason


def said(dialect: Dialect, body: object) -> str:
    text = json.dumps(body).encode()
    found = refusal(STRICT, dialect, text, strict_spans(text))
    assert found is not None
    assert found.status == 403
    return found.message


@pytest.mark.parametrize(
    ("dialect", "tool", "allowed_by"),
    [
        ("chat", {"type": "web_search"}, "web_search"),
        ("chat", {"type": "builtin_function", "function": {"name": "$web_search"}}, "builtin_function"),
        ("responses", {"type": "web_search_preview_2025_03_11"}, "web_search"),
        ("responses", {"type": "mcp", "server_url": "https://evil.example"}, "mcp"),
        ("responses", {"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
        ("responses", {"type": "file_search", "vector_store_ids": ["v"]}, "file_search"),
        ("responses", {"type": "computer_use_preview"}, "computer"),
        ("responses", {"type": "something_new"}, "something_new"),
        ("messages", {"type": "web_search_20250305", "name": "web_search"}, "web_search"),
        ("messages", {"type": "web_fetch_20250910", "name": "web_fetch"}, "web_fetch"),
        ("messages", {"type": "code_execution_20250825", "name": "code_execution"}, "code_execution"),
        ("messages", {"type": "mcp_toolset", "mcp_server_name": "x"}, "mcp"),
        ("generate", {"google_search": {}}, "google_search"),
        ("generate", {"googleSearch": {}}, "google_search"),
        ("generate", {"urlContext": {}}, "url_context"),
        ("generate", {"codeExecution": {}}, "code_execution"),
        ("generate", {"functionDeclarations": [], "google_search_retrieval": {}}, "google_search"),
    ],
)
def test_tools_of_the_provider(dialect: Dialect, tool: dict[str, object], allowed_by: str) -> None:
    body = {"tools": [{"type": "function"} if dialect in ("chat", "responses") else {}, tool]}
    assert judge(dialect, body) == "provider_tool_denied"
    assert "`tools[1]." in said(dialect, body)
    assert "providers.p.allow_tools" in said(dialect, body)
    for names, verdict in (((allowed_by,), None), (("*",), None), (("else",), "provider_tool_denied")):
        allowing = Provider(name="p", base_url="https://x", allow_tools=names)
        assert judge(dialect, body, allowing) == verdict
    spelled = json.dumps(body)
    for word in ("web_search", "mcp", "code_execution", "google_search", "urlContext", "googleSearch"):
        spelled = spelled.replace(word, "".join(f"\\u{ord(c):04x}" for c in word))
    assert judge(dialect, spelled.encode()) == "provider_tool_denied", "an escape hides nothing"


@pytest.mark.parametrize(
    ("dialect", "member", "value", "reason"),
    [
        ("chat", "web_search_options", {"x": 1}, "provider_tool_denied"),
        ("chat", "search_parameters", {"mode": "on"}, "provider_tool_denied"),
        ("chat", "plugins", [{"id": "web"}], "provider_tool_denied"),
        ("messages", "mcp_servers", [{"type": "url", "url": "https://x"}], "provider_tool_denied"),
        ("messages", "container", "c_1", "foreign_id_denied"),
        ("responses", "previous_response_id", "r_1", "foreign_id_denied"),
        ("responses", "conversation", {"id": "c"}, "foreign_id_denied"),
        ("responses", "prompt", {"id": "pmpt_1"}, "foreign_id_denied"),
        ("generate", "cachedContent", "cachedContents/1", "foreign_id_denied"),
        ("generate", "cached_content", "cachedContents/1", "foreign_id_denied"),
    ],
)
def test_members(dialect: Dialect, member: str, value: object, reason: str) -> None:
    assert judge(dialect, {"model": "m", member: value}) == reason
    assert f"`{member}`" in said(dialect, {member: value})
    assert judge(dialect, {member: None}) is None
    assert judge(dialect, {member: []}) is None
    generous = Provider(name="p", base_url="x", allow_tools=("web_search", "plugins", "mcp"), allow_stored=True)
    assert judge(dialect, {member: value}, generous) is None


def test_an_empty_object_still_searches() -> None:
    assert judge("chat", {"web_search_options": {}}) == "provider_tool_denied"


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        ("chat", {"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}]}),
        ("responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
        ("responses", {"input": [{"type": "function_call_output", "output": [{"file_id": "f"}]}]}),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        ("messages", {"messages": [{"content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}),
        ("messages", {"messages": [{"content": [{"type": "tool_result", "content": [{"source": {"file_id": "f"}}]}]}]}),
        ("generate", {"contents": [{"parts": [{"fileData": {"fileUri": "https://x/files/1"}}]}]}),
        ("generate", {"contents": [{"parts": [{"file_data": {"file_uri": "https://x/files/1"}}]}]}),
        ("generate", {"systemInstruction": {"parts": [{"fileData": {"fileUri": "u"}}]}}),
    ],
)  # fmt: skip
def test_nested_ids(dialect: Dialect, body: dict[str, object]) -> None:
    assert judge(dialect, body) == "foreign_id_denied"
    assert judge(dialect, body, Provider(name="p", base_url="x", allow_stored=True)) is None
    text = json.dumps(body)
    for word in ("file_id", "item_reference", "fileUri", "file_uri"):
        text = text.replace(f'"{word}"', '"' + "".join(f"\\u{ord(c):04X}" for c in word) + '"')
    assert judge(dialect, text.encode()) == "foreign_id_denied"
    text = json.dumps(body)
    for word in ("file_id", "fileUri", "file_uri"):
        text = text.replace(f'"{word}": ', f'"{word}": null, "{word}": ')
    if text != json.dumps(body):
        with pytest.raises(Undecodable):
            judge(dialect, text.encode())


WORDS = 'web_search mcp_servers "file_id":"f" {"type":"web_search"} "previous_response_id" google_search fileUri'
SCHEMA = {"type": "object", "properties": {"file_id": {"type": "string"}, "type": {"enum": ["web_search"]}}}


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (
            "chat",
            {
                "messages": [
                    {"role": "user", "content": WORDS},
                    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"arguments": WORDS}}]},
                ],
                "tools": [{"type": "function", "function": {"name": "web_search", "parameters": SCHEMA}}],
                "store": True,
            },
        ),
        (
            "responses",
            {
                "input": [{"type": "function_call", "arguments": '{"file_id":"x"}'}, {"content": WORDS}],
                "tools": [{"type": "function", "name": "web_search", "parameters": SCHEMA}, {"type": "local_shell"}],
                "previous_response_id": None,
                "store": False,
            },
        ),
        (
            "messages",
            {
                "system": [{"type": "text", "text": WORDS}],
                "messages": [{"content": [{"type": "tool_use", "name": "read", "input": {"file_id": "f"}}]}],
                "tools": [
                    {"name": "web_search", "input_schema": SCHEMA},
                    {"type": "custom", "name": "x", "input_schema": SCHEMA},
                    {"type": "bash_20250124", "name": "bash"},
                    {"type": "text_editor_20250728", "name": "t"},
                ],
                "mcp_servers": [],
            },
        ),
        (
            "generate",
            {
                "contents": [{"parts": [{"text": WORDS}, {"functionCall": {"name": "f", "args": {"fileUri": "u"}}}]}],
                "tools": [{"functionDeclarations": [{"name": "google_search", "parameters": SCHEMA}]}],
            },
        ),
        ("chat", {"tools": None}),
        ("chat", {"tools": []}),
        ("chat", {"tools": [{}]}),
        ("generate", {"tools": {"functionDeclarations": []}}),
    ],
)
def test_what_only_mentions_the_words_passes(dialect: Dialect, body: dict[str, object]) -> None:
    assert judge(dialect, body) is None
    assert judge(dialect, json.dumps(body).replace("web", "\\u0077eb").encode()) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools":[1]}',
        b'{"tools":"x"}',
        b'{"tools":[{"type":1}]}',
        b'{"tools":[{"type":"function","type":"web_search"}]}',
        b'{"tools":[{"type":"function","typ\\u0065":"web_search"}]}',
        b'{"tools":[{"type":"\\ud800"}]}',
    ],
)
def test_tools_that_cannot_be_judged(body: bytes) -> None:
    for dialect in ("chat", "responses", "messages"):
        with pytest.raises(Undecodable):
            judge(dialect, body)  # type: ignore[arg-type]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("web_search"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "file_id", "tools", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["tools", "messages", "input", "contents", "plugins"]), JSON))
def test_any_body_gets_a_verdict(body: dict[str, object]) -> None:
    for dialect in ("chat", "responses", "messages", "generate"):
        with contextlib.suppress(Undecodable):
            judge(dialect, body)  # type: ignore[arg-type]


def test_a_deep_body_is_no_crash() -> None:
    deep = sys.getrecursionlimit() * 3
    text = b'{"messages":' + b"[" * deep + b'{"file_id":"f"}' + b"]" * deep + b"}"
    with pytest.raises(Undecodable):
        judge("chat", text)
