"""What is said on a provider's WebSocket: policy for what a sandbox says, token counts from what it hears (pure).

OpenAI has two: ``/responses``, whose events are bodies of that API with a ``type``, and ``/realtime``, whose events
hold a session or a response with tools of their own. An event that is not known is refused: it could ask for anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from choir.frames import CLOSE, TEXT
from choir.gateway import body_policy
from choir.gateway.body import UNREADABLE, strict_members, strict_value, string
from choir.gateway.dialects import Counts, Tokens
from choir.gateway.names import InAnotherCase, Undecodable, exact_among
from choir.gateway.policy import case_refusal, model_refusal, search_refusal
from choir.gateway.refusals import Refusal, error_body, refused
from choir.gateway.routing import Match
from choir.gateway.user_rules import ProviderRule
from choir.gateway.websocket import (
    POLICY_VIOLATION,
    BadFrames,
    Message,
    Reader,
    close_frame,
    text_frame,
)

_HEARD = 1024 * 1024  # bytes of a provider's message that is read for counts
_IDS = 4096  # responses of this conversation that are remembered
_RESPONSES = frozenset(("response.create", "response.cancel", "response.steer"))
_REALTIME = frozenset(
    (
        *("session.update", "response.create", "response.cancel", "conversation.item.create"),
        *("conversation.item.retrieve", "conversation.item.truncate", "conversation.item.delete"),
        *("input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"),
        "output_audio_buffer.clear",
    )
)
_ASKS = "response.create"
_OWN_IDS = ("previous_response_id", "response_id")
_BODIES = ("session", "response")
"""Members of a realtime event in which tools and a stored prompt can be."""
_SESSIONS_OWN = ("conversation", "input")
"""Of a realtime response: which of the session's items it is about; none is stored anywhere."""


class _Details(msgspec.Struct):
    cached_tokens: Tokens | None = None


class _Usage(msgspec.Struct):
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    input_tokens_details: _Details | None = None
    input_token_details: _Details | None = None


class _Response(msgspec.Struct):
    id: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct):
    response: _Response | None = None


_event = msgspec.json.Decoder(_Event)


class Conversation:
    """One WebSocket.

    Attributes:
        refusal: set once something was said that may not be; nothing more is forwarded then.
        ended: never; the caller may leave at any time (as ``choir.gateway.dialects.Scanner``).
    """

    __slots__ = (
        *("_admit", "_counts", "_cut", "_heard", "_ids", "_is_realtime", "_match", "_models_limited", "_rule", "_said"),
        *("ended", "model", "refusal"),
    )

    def __init__(
        self,
        match: Match,
        max_message_bytes: int,
        rule: ProviderRule | None = None,
        admit: Callable[[bool], Refusal | None] = lambda asks: None,
    ) -> None:
        """
        Args:
            rule: what the user may call there.
            admit: the last word on each event; told whether it asks for a response.
        """
        self._match = match
        self._is_realtime = unquote_to_bytes(match.target.partition(b"?")[0]).endswith(b"/realtime")
        self._rule = rule
        self._models_limited = bool(match.provider.models) or (rule is not None and rule.reads_model)
        self._admit = admit
        self._cut = False
        self._said = Reader(masked=True, max_bytes=max_message_bytes)
        self._heard: Reader | None = Reader(masked=False, max_bytes=_HEARD)
        self._ids: dict[str, None] = {}
        self._counts = Counts()
        self.model = match.query_model
        self.refusal: Refusal | None = None
        self.ended = False

    @property
    def waiting(self) -> int:
        """Bytes of the sandbox's that are held until they can be judged."""
        return self._said.waiting

    @property
    def over(self) -> bool:
        """Something was refused, and what was heard ends with a whole message, so that a farewell can follow."""
        if self.refusal is None:
            return False
        return self._cut or self._heard is None or self._heard.begun == 0

    def say(self, data: bytes) -> bytes:
        """What of the sandbox's bytes may go to the provider now: whole messages, byte for byte."""
        if self.refusal is not None:
            return b""
        passed: list[bytes] = []
        last = None
        try:
            messages = self._said.feed(data)
        except BadFrames as bad:
            messages = bad.before
            last = refused(400, "frames_invalid", "what came on the WebSocket is not RFC 6455, or too long.")
        for message in messages:
            self.refusal = self._judge(message)
            if self.refusal is not None:
                return b"".join(passed)
            passed.append(message.raw)
        self.refusal = last
        return b"".join(passed)

    def hear(self, data: bytes) -> bytes:
        """Count what the provider says. All of it may pass; once something was refused, only what is left of the
        message under way."""
        if self.over:
            return b""
        reader = self._heard
        if reader is None:
            return data
        try:
            for message in reader.feed(data):
                if message.opcode == TEXT and b'"response' in message.text:
                    self._count(message.text)
        except BadFrames:
            self._heard = None
            return data
        if self.refusal is not None and reader.begun is not None and reader.begun <= len(data):
            self._cut = True
            return data[: len(data) - reader.begun]
        return data

    def finish(self) -> Counts:
        return self._counts

    def _count(self, text: bytes) -> None:
        try:
            response = _event.decode(text).response
        except UNREADABLE:
            return
        if response is None:
            return
        if response.id is not None and len(self._ids) < _IDS:
            self._ids[response.id] = None
        usage, counts = response.usage, self._counts
        if usage is not None and usage.input_tokens is not None:
            counts.input = (counts.input or 0) + usage.input_tokens
            counts.output = (counts.output or 0) + (usage.output_tokens or 0)
            details = usage.input_tokens_details or usage.input_token_details
            if details is not None and details.cached_tokens is not None:
                counts.cached = (counts.cached or 0) + details.cached_tokens

    def _judge(self, message: Message) -> Refusal | None:
        if message.opcode >= CLOSE:
            return None
        try:
            if message.opcode != TEXT:
                raise Undecodable
            members = strict_members(message.text)
            kind = string(members["type"]) if "type" in members else None
            if kind not in (_REALTIME if self._is_realtime else _RESPONSES):
                return refused(403, "event_unknown", "the WebSocket's event is of a type that policy does not know.")
            found = self._realtime(members) if self._is_realtime else self._body(message.text, members)
        except InAnotherCase as other:
            return case_refusal(other.name)
        except Undecodable:
            return refused(400, "event_undecodable", "each event must be one JSON object with each key once.")
        return self._admit(kind == _ASKS) if found is None else found

    def _realtime(self, members: dict[str, msgspec.Raw]) -> Refusal | None:
        for member in _BODIES:
            if member in members:
                inner = bytes(members[member])
                found = self._body(inner, {k: v for k, v in strict_members(inner).items() if k not in _SESSIONS_OWN})
                if found is None and self._models_limited:
                    found = self._nested_models(strict_value(inner))
                if found is not None:
                    return found
        return None

    def _nested_models(self, value: Any) -> Refusal | None:
        """A session names further models, e.g. ``audio.input.transcription.model``."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                waiting += value
            elif isinstance(value, dict):
                waiting += value.values()
                for name, inner in value.items():
                    if isinstance(inner, str):
                        exact_among(name, ("model",))
                if isinstance(model := value.get("model"), str):
                    found = self._model_refusal(model)
                    if found is not None:
                        return found
        return None

    def _model_refusal(self, model: str | None) -> Refusal | None:
        provider = self._match.provider
        found = model_refusal(provider.models, model) or search_refusal(provider, model)
        return self._rule.model_refusal(model) if found is None and self._rule is not None else found

    def _body(self, text: bytes, members: dict[str, msgspec.Raw]) -> Refusal | None:
        provider = self._match.provider
        if "model" in members:
            model = string(members["model"])
            refusal = self._model_refusal(model)
            if refusal is not None:
                return refusal
            self.model = self.model or model
        elif self._models_limited and self.model is None and "input" in members:
            return self._model_refusal(None)
        for member in _OWN_IDS:
            if member in members and string(members[member]) in self._ids:
                del members[member]
            elif member == "response_id" and member in members and not provider.allow_stored:
                return refused(403, "foreign_id_denied", "`response_id` names nothing of this WebSocket.")
        return body_policy.refusal(provider, "responses", text, members)


def farewell(refusal: Refusal, request_id: str) -> bytes:
    """What the sandbox hears when something it said was refused: an error event, and the end."""
    body = msgspec.json.decode(error_body("openai", refusal, request_id))
    event = msgspec.json.encode({"type": "error", "event_id": request_id, "status": refusal.status, **body})
    return text_frame(event) + close_frame(POLICY_VIOLATION, refusal.reason)
