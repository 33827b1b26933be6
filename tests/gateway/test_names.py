from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.config import Provider
from choir.gateway import body_policy
from choir.gateway.bounds import _OUTPUT
from choir.gateway.inspection import inspect
from choir.gateway.names import READ, InAnotherCase, exact
from choir.gateway.routing import Table

PATHS = {
    "chat": "/chat/completions",
    "legacy": "/completions",
    "responses": "/responses",
    "messages": "/messages",
    "generate": "/models/m:generateContent",
    "other": "/embeddings",
}


def outcome(path: str, body: Any, bounded: bool = False, **how: Any) -> str | None:
    provider = Provider(name="p", base_url="https://x", allow=("POST /**", "POST /models/*:generateContent"), **how)
    match = Table([provider]).match("POST", f"/provider/v1/p{PATHS[path]}".encode())
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = inspect(match, text, b"", 100_000, bounded).refusal
    return found.outcome if found is not None else None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"Model": "m"}),
        ("chat", {"model": "a", "MODEL": "m"}),
        ("chat", {"TOOLS": []}),
        ("chat", {"tool\u017f": []}),
        ("chat", {"Max_tokens": 1}),
        ("chat", {"max_to\u212aens": 1}),
        ("chat", {"N": 2}),
        ("chat", {"\u017ftream": True}),
        ("chat", {"plug\u0131ns": []}),
        ("chat", {"ServiceTier": None, "Service_tier": "priority"}),
        ("chat", {"tools": [{"Type": "web_search"}]}),
        ("chat", {"tools": [{"type": "function", "TYPE": "web_search"}]}),
        ("chat", {"stream": True, "stream_options": {"Include_Usage": False}}),
        ("chat", {"messages": [{"content": [{"type": "file", "file": {"File_ID": "f"}}]}]}),
        ("legacy", {"Model": "m"}),
        ("responses", {"Previous_Response_ID": "r"}),
        ("responses", {"tools": [{"type": "namespace", "Tools": [{"type": "mcp"}]}]}),
        ("responses", {"input": [{"Type": "item_reference", "id": "m"}]}),
        ("responses", {"input": [{"type": "x", "file_id\u017f": ["f"]}]}),
        ("messages", {"MCP_servers": [{}]}),
        ("messages", {"system": [{"source": {"fiLe_id": "f"}}]}),
        ("generate", {"generationconfig": {"maxOutputTokens": 1}}),
        ("generate", {"generationConfig": {"MaxOutputTokens": 1}}),
        ("generate", {"cachedcontent": "c"}),
        ("generate", {"contents": [{"parts": [{"fileData": {"fileuri": "f"}}]}]}),
        ("other", {"Models": ["m"]}),
    ],
)
def test_a_name_in_another_case_is_refused(path: str, body: dict[str, Any]) -> None:
    for text in (json.dumps(body), json.dumps(body, ensure_ascii=False)):
        assert outcome(path, text.encode()) == "refused:member_in_another_case"
    parts = json.dumps(body).split('"')  # every second one is a string
    parts[1::2] = ["".join(f"\\u{ord(c):04X}" for c in json.loads(f'"{part}"')) for part in parts[1::2]]
    quoted = '"'.join(parts)
    assert outcome(path, quoted.encode()) == "refused:member_in_another_case", "an escape hides nothing"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat", {"model": "Model", "messages": [{"role": "user", "content": '"File_ID": "Tools"'}], "Other": 1}),
        ("chat", {"tools": [{"type": "function", "function": {"parameters": {"properties": {"Type": {}, "N": {}}}}}]}),
        ("messages", {"messages": [{"content": [{"type": "tool_use", "input": {"File_Id": 1, "Type": "file_id"}}]}]}),
        ("responses", {"input": [{"type": "message", "content": []}], "Temperature": 1}),
        ("generate", {"generationConfig": {"maxOutputTokens": 1, "topP": 1}, "safetySettings": []}),
        ("other", {"model": "m", "Dimensions": 1}),
    ],
)
def test_what_policy_does_not_read_passes(path: str, body: dict[str, Any]) -> None:
    assert outcome(path, body) is None


@pytest.mark.parametrize("name", sorted(READ))
def test_every_name_that_policy_reads(name: str) -> None:
    exact({name: 1, "x": 2})
    for other in (name.upper(), name.capitalize(), name.swapcase(), name.replace("s", "\u017f")):
        if other not in READ:
            with pytest.raises(InAnotherCase):
                exact({name: 1, other: 2})


@given(st.dictionaries(st.sampled_from(sorted(READ)) | st.text(max_size=12), st.none()))
def test_exact_is_what_comparing_without_case_says(members: dict[str, None]) -> None:
    lowered = {name.lower() for name in READ} | {name.upper() for name in READ}
    strange = any(name not in READ and ({name.lower(), name.upper()} & lowered) for name in members)
    try:
        exact(members)
    except InAnotherCase:
        return
    assert not strange


def test_every_name_in_the_tables_is_among_them() -> None:
    for rules in body_policy._RULES.values():
        names = {*rules.tool_members, *rules.id_members, *rules.messages, *rules.id_keys}
        assert names <= READ
        for key in rules.id_keys:
            assert body_policy._ID_KEY.match(f'"{key}"'.encode())
    for bounds in _OUTPUT.values():
        assert {name for names in bounds for name in names} <= READ
