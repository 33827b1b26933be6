from __future__ import annotations

import contextlib
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choir.config import Provider
from choir.gateway.body import Undecodable, strict_members
from choir.gateway.body_policy import refusal
from choir.gateway.routing import Dialect

STRICT = Provider(name="p", base_url="https://x")


def judge(dialect: Dialect, body: object, provider: Provider = STRICT) -> str | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = refusal(provider, dialect, text, strict_members(text))
    return found and found.reason


def said(dialect: Dialect, body: object) -> str:
    text = json.dumps(body).encode()
    found = refusal(STRICT, dialect, text, strict_members(text))
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
        ("responses", {"type": "namespace", "tools": [{"type": "function"}, {"type": "mcp"}]}, "mcp"),
        ("responses", {"type": "namespace", "tools": [{"type": "namespace", "tools": []}]}, "namespace"),
        ("chat", {"type": "namespace", "tools": [{"type": "function"}]}, "namespace"),
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
        ("responses", {"tools": [{"type": "namespace", "name": "mcp__x", "tools": [{"type": "function"}]}]}),
        ("responses", {"tools": [{"type": "namespace", "name": "empty"}]}),
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


STORED = ("file_id", "file_ids", "fileUri", "file_uri", "item_reference")
OTHERS = (
    *("type", "content", "input", "arguments", "args", "tool_use", "function_call", "functionCall", "x", "file_i"),
)
IDS: dict[Dialect, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "chat": (("messages",), ("file_id",), ()),
    "responses": (("input",), ("file_id", "file_ids"), ("item_reference",)),
    "messages": (("messages", "system"), ("file_id", "file_ids"), ()),
    "generate": (
        ("contents", "systemInstruction", "system_instruction"),
        ("fileUri", "file_uri"),
        (),
    ),
}
"""Members with messages; keys and types that name something stored, in them."""


@st.composite
def words(draw: st.DrawFn) -> str:
    """A JSON string, one of whose letters may be written as an escape."""
    word = draw(st.sampled_from(STORED) | st.sampled_from(OTHERS))
    at = draw(st.integers(0, 2 * len(word)))
    form = draw(st.sampled_from(["\\u%04x", "\\u%04X"]))
    return '"' + "".join(form % ord(letter) if index == at else letter for index, letter in enumerate(word)) + '"'


TEXTS = st.sampled_from(['"say \\"file_id\\" to me"', '"\\\\u0066ile_id"', '"é\\n"', "null", "1", "[]", '""', "{}"])
SPACE = st.sampled_from(["", "", " ", "\n"])


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Keys may come twice."""
    member = st.tuples(words(), SPACE, inner).map(lambda each: f"{each[0]}{each[1]}:{each[1]}{each[2]}")
    return st.lists(member, min_size=1, max_size=3).map(lambda members: "{" + ",".join(members) + "}")


VALUES = st.recursive(
    words() | TEXTS,
    lambda inner: (
        objects(inner)
        | st.lists(inner, max_size=2).map(lambda items: "[" + ",".join(items) + "]")
        | st.tuples(inner, st.sampled_from([3, 30])).map(lambda deep: "[" * deep[1] + deep[0] + "]" * deep[1])
    ),
    max_leaves=6,
)


def ids_in(dialect: Dialect, value: object, name: str) -> bool:
    """Whether a value whose objects are lists of pairs, so that none was dropped, names something stored."""
    _, keys, types = IDS[dialect]
    if isinstance(value, list):
        return any(ids_in(dialect, item, name) for item in value)
    if not isinstance(value, tuple):
        return False
    pairs = value
    kinds = [inner for key, inner in pairs if key == "type" and isinstance(inner, str)]
    for key, inner in pairs:
        if (key in keys and inner not in (None, "", 0, [], ())) or (key == "type" and inner in types):
            return True
        if kinds:
            own = {"tool_use": "input", "function_call": "arguments"}.get(kinds[-1]) == key
        else:
            own = name in ("functionCall", "function_call") and key == "args"
        if not own and ids_in(dialect, inner, key):
            return True
    return False


def once(value: object) -> bool:
    """Whether each key comes once, at every depth."""
    if isinstance(value, list):
        return all(map(once, value))
    if not isinstance(value, tuple):
        return True
    return len({key for key, _ in value}) == len(value) and all(once(inner) for _, inner in value)


def look(dialect: Dialect, data: st.DataObject) -> None:
    places, _, _ = IDS[dialect]
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, unique=True))
    values = {name: data.draw(VALUES) for name in chosen}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in values.items()) + "}"
    read = {name: json.loads(value, object_pairs_hook=tuple) for name, value in values.items()}
    stored = any(ids_in(dialect, value, name) for name, value in read.items())
    try:
        found = judge(dialect, text.encode())
    except Undecodable:
        assert not all(map(once, read.values())), "it can be read, so it can be judged"
        return
    assert found == ("foreign_id_denied" if stored else None), "hidden from the quick look, or never there"


@pytest.mark.parametrize("examples", [80, pytest.param(5000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
def test_the_quick_look_finds_every_id_that_a_whole_reading_does(examples: int) -> None:
    settings(max_examples=examples, deadline=None)(given(st.sampled_from(list(IDS)), st.data())(look))()
