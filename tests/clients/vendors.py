"""The vendors of the table, on one loopback port: each under a path of its own, speaking its real protocol.

Each takes its own key in its own header and nothing else: whoever brings another, two, or none gets 401. Every request
is kept as it came.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from websockets.frames import Opcode
from websockets.http11 import Request as Handshake
from websockets.server import ServerProtocol

TEXT = "The capital of France is Paris."
PIECES = ("The capital of France", " is Paris.")

CARRIERS = {
    "openai": ("authorization", "Bearer {key}"),
    "anthropic": ("x-api-key", "{key}"),
    "google": ("x-goog-api-key", "{key}"),
    "mistral": ("authorization", "Bearer {key}"),
    "bedrock": ("authorization", "Bearer {key}"),
    "azure": ("api-key", "{key}"),
    "tavily": ("authorization", "Bearer {key}"),
    "exa": ("x-api-key", "{key}"),
    "brave": ("x-subscription-token", "{key}"),
    "llama": ("", ""),
}
_EVERY_CARRIER = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "x-subscription-token")


@dataclass
class Request:
    """One that came."""

    vendor: str
    method: str
    target: str
    """Without the vendor's own prefix."""
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found


BREAKS = "breaks"
"""A model of Bedrock's whose streams end too early."""
BROKEN = b"broken"
"""Stands for the end of the connection among the pieces of a body."""
Answer = tuple[str, list[bytes]]
"""Content type, and the body in the pieces it is sent in; several are chunked."""


@dataclass
class Vendors:
    """All of them, running."""

    keys: dict[str, str] = field(default_factory=lambda: {name: secrets.token_hex(24) for name in CARRIERS})
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    """All that came in, as it came."""

    def url(self, vendor: str, rest: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/{vendor}{rest}"

    def of(self, vendor: str) -> list[Request]:
        return [request for request in self.requests if request.vendor == vendor]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = line.split(" ")
                pairs = [each.partition(":") for each in lines if each]
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.raw += head + body
                _, vendor, rest = target.split("/", 2)
                request = Request(vendor, method, "/" + rest, headers, body)
                self.requests.append(request)
                if not self._keyed(request):
                    _write(writer, 401, "application/json", [b'{"error":{"message":"wrong key"}}'])
                elif headers.get("upgrade") == "websocket":
                    await _websocket(reader, writer, head)
                    return
                else:
                    await _answer(writer, request)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _keyed(self, request: Request) -> bool:
        name, template = CARRIERS[request.vendor]
        brought = {each: request.headers[each] for each in _EVERY_CARRIER if each in request.headers}
        return brought == ({name: template.format(key=self.keys[request.vendor])} if name else {})


async def _answer(writer: asyncio.StreamWriter, request: Request) -> None:
    found = _ANSWERS[request.vendor](request)
    if found is None:
        _write(writer, 404, "application/json", [json.dumps({"error": {"message": request.target}}).encode()])
        return
    content_type, pieces = found
    more = ""
    if request.vendor == "bedrock" and request.path.endswith("/invoke"):
        more = "X-Amzn-Bedrock-Input-Token-Count: 21\r\nX-Amzn-Bedrock-Output-Token-Count: 9\r\n"
    breaks = request.target.startswith(f"/model/{BREAKS}/")
    _write(writer, 200, content_type, [*pieces[:2], BROKEN] if breaks else pieces, more)
    if breaks:
        await writer.drain()
        raise ConnectionError


def _write(writer: asyncio.StreamWriter, status: int, content_type: str, pieces: list[bytes], more: str = "") -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{more}"
    if len(pieces) == 1:
        writer.write(f"{head}Content-Length: {len(pieces[0])}\r\n\r\n".encode() + pieces[0])
        return
    writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    for piece in (*pieces, b""):
        if piece is BROKEN:
            return
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))


def _json(value: Any) -> Answer:
    return "application/json", [json.dumps(value).encode()]


def _events(*values: Any, named: bool = False, done: bool = False, end: str = "\n\n") -> Answer:
    events = []
    for value in values:
        name = f"event: {value['type']}\n" if named else ""
        events.append(f"{name}data: {json.dumps(value)}{end}".encode())
    return "text/event-stream", [*events, *([b"data: [DONE]\n\n"] if done else [])]


# --------------------------------------------------------------------------- OpenAI and what is compatible with it

CHAT_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 11},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}


def _chat(request: Request, usage: dict[str, Any] = CHAT_USAGE, unasked: bool = False) -> Answer:
    asked = request.json
    base = {"id": "c1", "created": 1, "model": asked.get("model", "m")}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": TEXT, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return _json({**base, "object": "chat.completion", "choices": [choice], "usage": usage})
    base["object"] = "chat.completion.chunk"
    chunks = []
    for number, piece in enumerate(PIECES):
        finish = "stop" if number == len(PIECES) - 1 else None
        delta = {"role": "assistant", "content": piece}
        chunks.append({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    if unasked:
        chunks[-1]["usage"] = usage
    elif (asked.get("stream_options") or {}).get("include_usage"):
        chunks.append({**base, "choices": [], "usage": usage})
    return _events(*chunks, done=True)


def _response(model: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "m1", "role": "assistant", "status": "completed", "content": [part]}
    finished = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "model": model,
        "output": [message] if finished else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSES_USAGE if finished else None,
    }


def _response_events(model: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{"type": "response.created", "response": _response(model, "in_progress")}]
    where = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    events += [{"type": "response.output_text.delta", "delta": piece, **where} for piece in PIECES]
    events.append({"type": "response.completed", "response": _response(model)})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _embedding(request: Request) -> Answer:
    vector: Any = [0.25, -0.5]
    if request.json.get("encoding_format") == "base64":
        vector = base64.b64encode(struct.pack("<2f", *vector)).decode()
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    usage = {"prompt_tokens": 5, "total_tokens": 5}
    return _json({"object": "list", "data": data, "model": request.json["model"], "usage": usage})


def _openai(request: Request) -> Answer | None:
    model = request.json.get("model", "")
    match request.method, request.path.removeprefix("/v1"):
        case "POST", "/chat/completions":
            return _chat(request)
        case "POST", "/responses":
            if request.json.get("stream"):
                return _events(*_response_events(model), named=True)
            return _json(_response(model))
        case "POST", "/embeddings":
            return _embedding(request)
        case "GET", "/models":
            model = {"id": "m", "object": "model", "created": 1, "owned_by": "x"}
            return _json({"object": "list", "data": [model]})
    return None


def _azure(request: Request) -> Answer | None:
    place, _, version = request.target.partition("?api-version=")
    if not version or not place.startswith("/openai/deployments/my-deployment/"):
        return None
    return _embedding(request) if place.endswith("/embeddings") else _chat(request)


def _mistral(request: Request) -> Answer | None:
    if "stream_options" in request.json:  # it refuses what it does not know
        return None
    usage = {"prompt_tokens": 16, "completion_tokens": 6, "total_tokens": 22}
    known = ("/v1/chat/completions", "/v1/fim/completions")
    return _chat(request, usage, unasked=True) if request.path in known else None


async def _websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    """The realtime API and the responses API over a WebSocket: each ``response.create`` is answered."""
    protocol = ServerProtocol()
    protocol.receive_data(head)
    handshake = next(event for event in protocol.events_received() if isinstance(event, Handshake))
    protocol.send_response(protocol.accept(handshake))
    realtime = "/realtime" in handshake.path

    def send(event: dict[str, Any]) -> None:
        protocol.send_text(json.dumps({"event_id": "e", **event}).encode())

    if realtime:
        send({"type": "session.created", "session": {"type": "realtime", "model": "gpt-realtime"}})
    while True:
        for data in protocol.data_to_send():
            writer.write(data)
        await writer.drain()
        if protocol.close_expected():
            break
        data = await reader.read(65536)
        if not data:
            return
        protocol.receive_data(data)
        for frame in protocol.events_received():
            event = json.loads(frame.data) if frame.opcode is Opcode.TEXT else {}  # type: ignore[union-attr]
            if event.get("type") != "response.create":
                continue
            for answer in _realtime_events() if realtime else _response_events(event["model"]):
                send(answer)


def _realtime_events() -> Iterator[dict[str, Any]]:
    where = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
    for piece in PIECES:
        yield {"type": "response.output_text.delta", "delta": piece, **where}
    usage = {
        "total_tokens": 50,
        "input_tokens": 30,
        "output_tokens": 20,
        "input_token_details": {"cached_tokens": 6, "text_tokens": 30, "audio_tokens": 0},
        "output_token_details": {"text_tokens": 20, "audio_tokens": 0},
    }
    yield {"type": "response.done", "response": {"id": "r1", "status": "completed", "output": [], "usage": usage}}


# --------------------------------------------------------------------------- Anthropic

MESSAGES_USAGE = {
    "input_tokens": 12,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 3,
    "output_tokens": 7,
}


def _message(model: str, *content: Any, **more: Any) -> dict[str, Any]:
    base = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": list(content)}
    return {**base, "stop_reason": "end_turn", "stop_sequence": None, "usage": MESSAGES_USAGE, **more}


def _anthropic(request: Request) -> Answer | None:
    if request.path == "/v1/messages/count_tokens":
        return _json({"input_tokens": 14})
    if request.path != "/v1/messages" or "anthropic-version" not in request.headers:
        return None
    model = request.json["model"]
    if not request.json.get("stream"):
        return _json(_message(model, {"type": "text", "text": TEXT}))
    start = _message(model, stop_reason=None, usage={**MESSAGES_USAGE, "output_tokens": 1})
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in PIECES
    ]
    return _events(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 7},
        },
        {"type": "message_stop"},
        named=True,
    )


# --------------------------------------------------------------------------- Google

GOOGLE_USAGE = {
    "promptTokenCount": 9,
    "candidatesTokenCount": 4,
    "thoughtsTokenCount": 6,
    "cachedContentTokenCount": 2,
    "totalTokenCount": 19,
}


def _google(request: Request) -> Answer | None:
    def answer(text: str, **more: Any) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"content": content, "index": 0, **more}], "usageMetadata": GOOGLE_USAGE}

    _, version, models, verb = request.path.split("/")
    if version not in ("v1", "v1beta") or models != "models":
        return None
    if verb.endswith(":generateContent"):
        return _json(answer(TEXT, finishReason="STOP"))
    if verb.endswith(":streamGenerateContent") and request.target.endswith("?alt=sse"):
        return _events(answer(PIECES[0]), answer(PIECES[1], finishReason="STOP"), end="\r\n\r\n")
    if verb.endswith(":countTokens"):
        return _json({"totalTokens": 9})
    return None


# --------------------------------------------------------------------------- Bedrock

CONVERSE_USAGE = {"inputTokens": 10, "outputTokens": 3, "totalTokens": 17, "cacheReadInputTokens": 4}


def frame(kind: str, payload: Any, message_type: str = "event") -> bytes:
    """A message of AWS's binary event stream: two lengths and their CRC, headers, payload, and the CRC of all."""
    headers = b""
    about = {":event-type": kind, ":content-type": "application/json", ":message-type": message_type}
    for name, value in about.items():
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return message + struct.pack(">I", zlib.crc32(message))


def converse_frames() -> list[bytes]:
    deltas = [frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}}) for piece in PIECES]
    return [
        frame("messageStart", {"role": "assistant"}),
        *deltas,
        frame("contentBlockStop", {"contentBlockIndex": 0}),
        frame("messageStop", {"stopReason": "end_turn"}),
        frame("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 5}}),
    ]


def _invoked(value: Any) -> bytes:
    return frame("chunk", {"bytes": base64.b64encode(json.dumps(value).encode()).decode(), "p": "abcd"})


def _bedrock(request: Request) -> Answer | None:
    _, model, name, verb = request.target.split("/")  # an ARN's own slash is escaped
    if model != "model" or not name:
        return None
    stream = "application/vnd.amazon.eventstream"
    match verb:
        case "converse":
            message = {"role": "assistant", "content": [{"text": TEXT}]}
            more = {"stopReason": "end_turn", "usage": CONVERSE_USAGE, "metrics": {"latencyMs": 5}}
            return _json({"output": {"message": message}, **more})
        case "converse-stream":
            return stream, converse_frames()
        case "invoke":
            return _json({"generation": TEXT})
        case "invoke-with-response-stream":
            counts = {"inputTokenCount": 21, "outputTokenCount": 9, "invocationLatency": 5}
            end = {"type": "message_stop", "amazon-bedrock-invocationMetrics": counts}
            return stream, [*(_invoked({"generation": piece}) for piece in PIECES), _invoked(end)]
    return None


# --------------------------------------------------------------------------- search


def _search(request: Request) -> Answer | None:
    asked = request.json.get("query") or request.target
    if request.target not in ("/search", "/res/v1/web/search?q=capital+of+France&count=1"):
        return None
    return _json({"results": [{"title": "Paris", "url": "https://example.org/paris"}], "asked": asked})


_ANSWERS: dict[str, Callable[[Request], Answer | None]] = {
    "openai": _openai,
    "llama": _openai,
    "azure": _azure,
    "mistral": _mistral,
    "anthropic": _anthropic,
    "google": _google,
    "bedrock": _bedrock,
    "tavily": _search,
    "exa": _search,
    "brave": _search,
}


@contextlib.contextmanager
def running_vendors() -> Iterator[Vendors]:
    """Run them on a thread for as long as the block."""
    vendors = Vendors()
    started, loops, stops = threading.Event(), [], []

    async def main() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(vendors.serve, "127.0.0.1", 0)
        vendors.port = server.sockets[0].getsockname()[1]
        loops.append(asyncio.get_running_loop())
        stops.append(stop)
        started.set()
        await stop.wait()
        server.close()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert started.wait(10)
        yield vendors
    finally:
        loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(10)
