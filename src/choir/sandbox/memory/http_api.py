"""The memory over plain HTTP, for any agent in the sandbox: raw ASGI, to be served on the sandbox's own loopback.

``POST /api/memory/NAME`` with a JSON object of the message's fields (``choir.sandbox.memory.messages``); the answer is
``{"result": …}``, or ``{"error": {"reason", "message", "hint"}}`` with 400, 404, 405 or 413 (the request) or 503 (the
store).

    curl $CHOIR_MEMORY_URL/ingest -d '{"draft": {"collection": "user_inputs", "content": "likes tea"}}'
    curl $CHOIR_MEMORY_URL/search -d '{"collection": "user_inputs", "query": "tea", "k": 3}'
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import fields
from typing import Any

import msgspec

from choir.errors import ChoirError
from choir.sandbox.actor import ActorError, Message, ThreadActor
from choir.sandbox.memory import messages as m
from choir.sandbox.memory.model import MemoryStoreError

PREFIX = "/api/memory/"
MAX_BODY = 8 * 1024 * 1024

ROUTES: dict[str, type[Message[Any]]] = {
    "ingest": m.Ingest,
    "ingest_batch": m.IngestBatch,
    "search": m.ArtifactSearch,
    "expand": m.ArtifactExpand,
    "context_pack": m.ArtifactContextPack,
    "context_snapshot": m.GetContextSnapshot,
    "forget": m.Forget,
    "explain": m.Explain,
    "check": m.Check,
    "stats": m.GetStats,
}
_ASKED_WRONGLY = frozenset(
    (
        "bad_limit",
        "bad_request",
        "bad_time",
        "content_not_text",
        "content_too_long",
        "unknown_collection",
        "unknown_item",
    )
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class MemoryApi:
    """An ASGI application for the paths below ``PREFIX``."""

    def __init__(self, memory: ThreadActor) -> None:
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, answer = await self._answer(scope, receive)
        body = msgspec.json.encode(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        kind = ROUTES.get(scope["path"].removeprefix(PREFIX))
        if kind is None:
            return 404, _error("unknown_route", "There is no such route.", f"There are {', '.join(ROUTES)}.")
        if scope["method"] != "POST":
            return 405, _error("bad_method", "Only POST is answered here.")
        body = await _read(receive)
        if body is None:
            return 413, _error("body_too_long", f"A request has at most {MAX_BODY:,} bytes.", "Send it in parts.")
        try:
            return 200, {"result": await self._memory.ask(parse(kind, body))}
        except ActorError as error:
            return 503, {"error": error.as_dict()}
        except ChoirError as error:
            return 400 if error.reason in _ASKED_WRONGLY else 503, {"error": error.as_dict()}


def parse(kind: type[Message[Any]], body: bytes) -> Message[Any]:
    """A message of that kind from JSON; an empty body is ``{}``.

    Raises:
        MemoryStoreError: ``bad_request``.
    """
    try:
        given = msgspec.json.decode(body or b"{}")
        if not isinstance(given, dict):
            raise MemoryStoreError("bad_request", "The body must be a JSON object.")
        unknown = given.keys() - {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown:
            raise MemoryStoreError("bad_request", f"Unknown field {min(unknown)[:64]!r}.")
        message: Message[Any] = msgspec.convert(given, kind)
    except msgspec.MsgspecError as error:
        raise MemoryStoreError("bad_request", f"The body does not fit: {error}.") from error
    except UnicodeError as error:
        raise MemoryStoreError("bad_request", "The body is no UTF-8.") from error
    except RecursionError as error:
        raise MemoryStoreError("bad_request", "The body is nested too deeply.") from error
    return message


async def _read(receive: Receive) -> bytes | None:
    body: bytes = b""
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return body
        body += bytes(event.get("body", b""))
        if len(body) > MAX_BODY:
            return None
        if not event.get("more_body"):
            return body


def _error(reason: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"reason": reason, "message": message, "hint": hint}}
