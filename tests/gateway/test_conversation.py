from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from choir.config import Provider
from choir.gateway.conversation import Conversation, farewell
from choir.gateway.refusals import Refusal, refused
from choir.gateway.routing import Match
from choir.gateway.user_rules import ProviderRule
from choir.gateway.websocket import Reader, text_frame

TOOL = {"type": "function", "name": "f"}
WEB = {"type": "web_search"}
MCP = {"type": "mcp", "server_url": "https://evil.example"}


def conversation(
    path: str = "/responses",
    model: str | None = None,
    rule: ProviderRule | None = None,
    admit: Callable[[bool], Refusal | None] = lambda asks: None,
    **how: Any,
) -> Conversation:
    provider = Provider(name="openai", base_url="https://x.example", speaks=("openai",), **how)
    match = Match(
        provider=provider,
        pattern="GET " + path,
        target=path.encode(),
        family="openai",
        path_model=None,
        query_model=model,
        websocket=True,
        says_model=model is None,
        dialect=None,
        billing="unbounded",
    )
    return Conversation(match, 100_000, rule, admit)


def said(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Frame(Opcode.TEXT, text).serialize(mask=True)


def create(**more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": "gpt-5", "input": "hi", **more}


def realtime(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


PASSES: list[tuple[str, Any, dict[str, Any]]] = [
    ("/responses", create(), {}),
    ("/responses", create(tools=[TOOL]), {}),
    ("/responses", create(tools=[WEB]), {"allow_tools": ("web_search",)}),
    ("/responses", create(previous_response_id="other"), {"allow_stored": True}),
    ("/responses", create(previous_response_id=None), {}),
    ("/responses", {"type": "response.cancel"}, {}),
    ("/responses", create(), {"models": ("gpt-5",)}),
    ("/realtime?model=m", realtime("session.update", session={"type": "realtime", "tools": [TOOL]}), {}),
    ("/realtime?model=m", realtime("session.update", session={"tools": [MCP]}), {"allow_tools": ("mcp",)}),
    ("/realtime?model=m", realtime("response.create", response={"conversation": "none", "input": []}), {}),
    ("/realtime?model=m", realtime("response.create"), {}),
    ("/realtime?model=m", realtime("input_audio_buffer.append", audio="AAAA"), {}),
    ("/realtime?model=m", realtime("conversation.item.create", item={"type": "message"}), {}),
]
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("/responses", create(Tools=[WEB]), {}, "member_in_another_case"),
    ("/responses", create(model="o3-deep-research"), {"search_models": ("*deep-research*",)}, "provider_tool_denied"),
    ("/responses", create(Model="gpt-5-pro"), {"models": ("gpt-5",)}, "member_in_another_case"),
    ("/responses", {"type": "response.cancel", "Type": "response.create"}, {}, "member_in_another_case"),
    ("/realtime?model=m", realtime("session.update", Session={"tools": [MCP]}), {}, "member_in_another_case"),
    ("/realtime?model=m", realtime("session.update", session={"Tools": [MCP]}), {}, "member_in_another_case"),
    (
        "/realtime?model=m",
        realtime("session.update", session={"audio": {"input": {"transcription": {"Model": "x"}}}}),
        {"models": ("m",)},
        "member_in_another_case",
    ),
    ("/responses", create(tools=[WEB]), {}, "provider_tool_denied"),
    ("/responses", create(tools=[MCP]), {}, "provider_tool_denied"),
    ("/responses", create(previous_response_id="other"), {}, "foreign_id_denied"),
    ("/responses", {"type": "response.cancel", "response_id": "other"}, {}, "foreign_id_denied"),
    ("/responses", create(conversation="conv_1"), {}, "foreign_id_denied"),
    ("/responses", create(input=[{"type": "input_file", "file_id": "file-1"}]), {}, "foreign_id_denied"),
    ("/responses", create(), {"models": ("gpt-4o",)}, "model_not_allowed"),
    ("/responses", {"type": "response.create", "input": "x"}, {"models": ("gpt-4o",)}, "model_unreadable"),
    ("/responses", {"type": "response.of_tomorrow"}, {}, "event_unknown"),
    ("/responses", {"model": "gpt-5"}, {}, "event_unknown"),
    ("/responses", b'{"type":"response.create","tools":[],"tools":[{"type":"mcp"}]}', {}, "event_undecodable"),
    ("/responses", b'{"type":"response.cancel","type":"response.create"}', {}, "event_undecodable"),
    ("/responses", b"[1]", {}, "event_undecodable"),
    ("/responses", b"\xff", {}, "event_undecodable"),
    ("/realtime?model=m", realtime("session.update", session={"tools": [MCP]}), {}, "provider_tool_denied"),
    ("/realtime?model=m", realtime("response.create", response={"tools": [MCP]}), {}, "provider_tool_denied"),
    ("/realtime?model=m", realtime("session.update", session={"prompt": {"id": "p"}}), {}, "foreign_id_denied"),
    ("/realtime?model=m", realtime("session.update", session={"model": "x"}), {"models": ("m",)}, "model_not_allowed"),
    ("/realtime?model=m", realtime("session.update", session=[]), {}, "event_undecodable"),
    ("/realtime?model=m", realtime("transcription_session.update"), {}, "event_unknown"),
]


@pytest.mark.parametrize(("path", "event", "how"), PASSES)
def test_passes_byte_for_byte(path: str, event: Any, how: dict[str, Any]) -> None:
    talk = conversation(path, **how)
    frames = said(event)
    assert talk.say(frames[:3]) == b""
    assert talk.waiting == 3
    assert talk.say(frames[3:]) == frames
    assert talk.waiting == 0
    assert talk.refusal is None


@pytest.mark.parametrize(("path", "event", "how", "reason"), REFUSED)
def test_is_refused_and_ends_it(path: str, event: Any, how: dict[str, Any], reason: str) -> None:
    talk = conversation(path, **how)
    before = said({"type": "response.cancel"})
    assert talk.say(before + said(event) + before) == before, "what came before passes, nothing after it does"
    assert talk.refusal is not None
    assert talk.refusal.reason == reason
    assert talk.say(before) == b""


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (create(model="gpt-5"), None),
        (create(model="gpt-4"), "model_not_allowed"),
        (create(model=None), "model_unreadable"),
        ({"type": "response.create", "input": "x"}, "model_unreadable"),
        ({"type": "response.cancel"}, None),
    ],
)
def test_the_users_own_models(event: Any, reason: str | None) -> None:
    talk = conversation(rule=ProviderRule("openai", models=(re.compile("gpt-5.*"),)))
    talk.say(said(event))
    assert (talk.refusal and talk.refusal.reason) == reason


def test_a_sessions_other_models() -> None:
    """E.g. the one that writes down what was spoken. A schema may have a member of that name."""
    for transcription, reason in (({"model": "m"}, None), ({"model": "x"}, "model_not_allowed"), ({"model": {}}, None)):
        talk = conversation("/realtime?model=m", "m", models=("m",))
        talk.say(said(realtime("session.update", session={"audio": [{"transcription": transcription}]})))
        assert (talk.refusal and talk.refusal.reason) == reason


def test_an_escaped_path_is_the_same_path() -> None:
    talk = conversation("/%72ealtime?model=m", "m")
    talk.say(said(realtime("response.create", response={"tools": [MCP]})))
    assert talk.refusal is not None
    assert talk.refusal.reason == "provider_tool_denied"


def test_the_last_word_is_asked_of_what_may_be_said() -> None:
    asked: list[bool] = []

    def admit(asks: bool) -> Refusal | None:
        asked.append(asks)
        return refused(429, "enough", "enough.") if len(asked) == 3 else None

    talk = conversation(admit=admit)
    talk.say(Frame(Opcode.PING, b"x").serialize(mask=True) + said({"type": "response.cancel"}) + said(create()))
    assert talk.refusal is None
    assert talk.say(said(create())) == b""
    assert asked == [False, True, True]
    other = conversation(admit=admit)
    other.say(said(create(tools=[MCP])))
    assert len(asked) == 3, "what is refused anyway uses up nothing"


def test_a_message_of_the_providers_is_heard_to_its_end() -> None:
    """Once something was refused: and nothing after it."""
    message = text_frame(b'{"type":"x"}')
    parts = Frame(Opcode.TEXT, b"a", fin=False).serialize(mask=False), Frame(Opcode.CONT, b"b").serialize(mask=False)
    for heard, then, passes in (
        (b"", message, b""),
        (message, message, b""),
        (message[:3], message[3:] + message, message[3:] + message),
        (message[:3], message[3:] + message[:5], message[3:]),
        (parts[0], parts[1][:1], parts[1][:1]),
        (parts[0], parts[1] + message[:1], parts[1]),
        (parts[0][:1], parts[0][1:] + parts[1], parts[0][1:] + parts[1]),
    ):
        talk = conversation()
        assert talk.hear(heard) == heard
        assert not talk.over
        talk.say(said(create(tools=[MCP])))
        assert talk.over == (heard in (b"", message))
        assert talk.hear(then) == passes
        assert talk.over == (then != parts[1][:1])
        if talk.over:
            assert talk.hear(message) == b""


def test_control_frames_pass() -> None:
    ping = Frame(Opcode.PING, b"x").serialize(mask=True)
    assert conversation().say(ping) == ping


def test_a_binary_message_is_refused() -> None:
    talk = conversation()
    assert talk.say(Frame(Opcode.BINARY, b"{}").serialize(mask=True)) == b""
    assert talk.refusal is not None


def test_what_is_no_frame_is_refused() -> None:
    talk = conversation()
    before = said({"type": "response.cancel"})
    assert talk.say(before + b"GET / HTTP/1.1\r\n\r\n") == before
    assert talk.refusal is not None
    assert talk.refusal.reason == "frames_invalid"
    talk = conversation()
    talk.say(said(create(tools=[MCP])) + b"GET / HTTP/1.1\r\n\r\n")
    assert talk.refusal is not None
    assert talk.refusal.reason == "provider_tool_denied", "the first thing that is wrong counts"


def test_a_response_of_this_conversation_may_be_gone_on_from() -> None:
    talk = conversation()
    talk.hear(text_frame(json.dumps({"type": "response.created", "response": {"id": "resp_1"}}).encode()))
    assert talk.say(said(create(previous_response_id="resp_1")))
    assert talk.refusal is None
    talk.say(said(create(previous_response_id="resp_2")))
    assert talk.refusal is not None


@pytest.mark.parametrize("details", ["input_tokens_details", "input_token_details"])
def test_every_response_is_counted(details: str) -> None:
    talk = conversation()
    usage = {"input_tokens": 30, "output_tokens": 20, details: {"cached_tokens": 6}}
    for kind, more in (("response.created", {}), ("response.completed", {"usage": usage}), ("response.done", {})):
        text = json.dumps({"type": kind, "response": {"id": "r", "usage": None, **more}}).encode()
        for at in range(0, len(text_frame(text)), 7):
            talk.hear(text_frame(text)[at : at + 7])
    talk.hear(text_frame(json.dumps({"type": "response.done", "response": {"usage": usage}}).encode()))
    counts = talk.finish()
    assert (counts.input, counts.output, counts.cached) == (60, 40, 12)


def test_what_cannot_be_understood_is_not_counted() -> None:
    talk = conversation()
    talk.hear(text_frame(b'{"response": 3}') + text_frame(b'{"response'))
    talk.hear(b"\xff" * 50)
    talk.hear(text_frame(b"{}"))
    assert talk.finish().input is None


def test_the_model_of_a_conversation() -> None:
    talk = conversation()
    talk.say(said(create()))
    assert talk.model == "gpt-5"
    assert conversation("/realtime?model=m", model="m").model == "m"


def test_a_farewell_is_an_error_event_and_the_end() -> None:
    event, close = Reader(masked=False, max_bytes=10_000).feed(farewell(refused(403, "why", "because."), "req"))
    error = json.loads(event.text)
    assert error["type"] == "error"
    assert error["error"]["reason"] == "why"
    assert error["error"]["message"].endswith("because.")
    assert int.from_bytes(close.text[:2], "big") == 1008
