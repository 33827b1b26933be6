"""A model behind OpenAI's, Anthropic's and Google's APIs that does what the prompt says, for tests of the agent loop.

``sh:COMMAND`` is a shell tool call; ``call:NAME {JSON}`` any tool call; ``refuse:STATUS {JSON}`` an error answer;
``hang`` says a word and then nothing; anything else, and every tool result, is said back.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class ModelDouble:
    """``asked`` are the bodies of all calls; ``open`` how many calls hang."""

    origin: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open: int = 0
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/{prefix:.*}/chat/completions", self._openai)
        app.router.add_post("/{prefix:.*}/v1/messages", self._anthropic)
        app.router.add_post("/{prefix:.*}/search", self._search)
        app.router.add_get("/{prefix:.*}/models", self._models)
        app.router.add_post("/{prefix:.*}:streamGenerateContent", self._google)
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.5)
        await site.start()
        assert site._server is not None
        self.origin = "http://127.0.0.1:{1}".format(*site._server.sockets[0].getsockname())  # type: ignore[attr-defined]

    async def close(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> tuple[dict[str, Any], web.StreamResponse]:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        return body, response

    async def _hang(self) -> None:
        self.open += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.open -= 1

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body, response = await self._take(request)
        last = body["messages"][-1]
        told = _told(str(last["content"])) if last["role"] == "user" else ("say", str(last["content"]))
        if told[0] == "refuse":
            return web.json_response(told[2], status=told[1])
        await response.prepare(request)

        async def chunk(delta: dict[str, Any], finish: str | None = None, usage: Any = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            whole = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            await response.write(f"data: {json.dumps({**whole, 'usage': usage})}\n\n".encode())

        if told[0] == "call":
            function = {"name": told[1], "arguments": json.dumps(told[2])}
            call = {"index": 0, "id": f"call-{len(self.asked)}", "type": "function", "function": function}
            await chunk({"role": "assistant", "tool_calls": [call]})
            await chunk({}, "tool_calls")
        elif told[0] == "hang":
            await chunk({"content": "well"})
            await self._hang()
        else:
            for word in str(told[1]).split(" "):
                await chunk({"content": word + " "})
            await chunk({}, "stop", {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _anthropic(self, request: web.Request) -> web.StreamResponse:
        body, response = await self._take(request)
        await response.prepare(request)
        message = {"id": "1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        start = {
            **message,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 1},
        }
        delta = {"type": "text_delta", "text": "Bonjour"}
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        for event in (
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": end, "usage": {"output_tokens": 2}},
            {"type": "message_stop"},
        ):
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response

    async def _google(self, request: web.Request) -> web.StreamResponse:
        _, response = await self._take(request)
        await response.prepare(request)
        candidate = {"content": {"role": "model", "parts": [{"text": "Grüezi"}]}, "finishReason": "STOP", "index": 0}
        usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "totalTokenCount": 10}
        answer = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}
        await response.write(f"data: {json.dumps(answer)}\r\n\r\n".encode())
        return response

    async def _search(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        results = [{"title": "Choirs", "url": "https://example.org/choirs", "content": "They sing."}]
        return web.json_response({"results": results})

    async def _models(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {"object": "list", "data": [{"id": "first", "object": "model", "created": 1, "owned_by": "x"}]}
        )


def _told(prompt: str) -> tuple[Any, ...]:
    kind, _, rest = prompt.partition(":")
    if kind == "sh":
        return "call", "shell", {"command": rest}
    if kind == "call":
        name, _, arguments = rest.partition(" ")
        return "call", name, json.loads(arguments)
    if kind == "refuse":
        status, _, body = rest.partition(" ")
        return "refuse", int(status), json.loads(body)
    return ("hang",) if prompt == "hang" else ("say", f"you said {prompt}")
