"""A provider that takes one key: OpenAI's chat completions, whole and as event streams, with a pause between events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from aiohttp import web

EVENTS = 8
PAUSE_SECONDS = 0.03
_USAGE = {"prompt_tokens": 5, "completion_tokens": EVENTS, "total_tokens": 5 + EVENTS}


class Provider:
    """``key``: what it wants to see. Counts what comes."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.calls = self.strangers = self.tokens_seen = 0
        self.origin = ""

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/chat/completions", self._complete)
        app.router.add_get("/models", self._models)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.origin = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
        return runner

    def _knows(self, request: web.Request) -> bool:
        self.tokens_seen += any("choir-gt-" in value for value in request.headers.values())
        known = request.headers.get("authorization") == f"Bearer {self._key}"
        self.strangers += not known
        return known

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "m", "object": "model"}]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if not self._knows(request):
            return web.json_response({"error": {"message": "no"}}, status=401)
        self.calls += 1
        body = await request.json()
        if not body.get("stream"):
            message = {"role": "assistant", "content": "one two three"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({**_head("chat.completion"), "choices": [choice], "usage": _USAGE})
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # the caller was killed
            await answer.prepare(request)
            for number in range(EVENTS):
                await self._event(answer, {"delta": {"content": f"word {number} "}, "finish_reason": None})
                await asyncio.sleep(PAUSE_SECONDS)
            await self._event(answer, {"delta": {}, "finish_reason": "stop"})
            if (body.get("stream_options") or {}).get("include_usage"):
                await answer.write(_line({**_head("chat.completion.chunk"), "choices": [], "usage": _USAGE}))
            await answer.write(b"data: [DONE]\n\n")
        return answer

    async def _event(self, answer: web.StreamResponse, choice: dict[str, Any]) -> None:
        await answer.write(_line({**_head("chat.completion.chunk"), "choices": [{"index": 0, **choice}]}))


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m"}


def _line(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
