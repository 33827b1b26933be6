"""The real gateway process between a raw client and an upstream double that misbehaves on demand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import os
import re
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

from choir import channel, tokens
from choir.contract import UsageRecord
from choir.gateway import event_stream
from choir.gateway.websocket import text_frame
from choir.paths import State
from choir.service import Service
from choir.storage.ledger import Ledger

ANSWER = b'{"id":"1","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":3}}'
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"Pa"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"ris"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)
SAID = text_frame(b'{"type":"response.created"}')
LONG = text_frame(b"x" * 131_072)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Double:
    """An upstream on a thread of its own. A request's ``X-Behave`` header chooses what it does."""

    def __init__(self, path: Path | None = None) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        """(head, body) of every request that arrived whole."""
        self.connections = 0
        self.sent = 0
        self.lost = threading.Event()
        """Set when a connection ended while the double was still answering on it."""
        self.release = threading.Event()
        """What ``hold`` waits for."""
        self._path = path
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        self._started.wait(10)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._path is not None:
            server = await asyncio.start_unix_server(self._serve, self._path)
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        async with server:
            await self._stop.wait()
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                behave = re.search(rb"(?im)^x-behave: *(\S+)\r$", head)
                act = getattr(self, "do_" + behave[1].decode() if behave else "do_json")
                length = re.search(rb"(?im)^content-length: *(\d+)\r$", head)
                body = b""
                if re.search(rb"(?im)^transfer-encoding: *chunked\r$", head):
                    while size := int((await reader.readline()).strip(), 16):
                        body += await reader.readexactly(size)
                        await reader.readline()
                    await reader.readline()
                elif length and not getattr(act, "early", False):
                    body = await reader.readexactly(int(length[1]))
                self.requests.append((head, body))
                await act(reader, writer, body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    # Each writes an answer; returning keeps the connection.
    async def do_json(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: up-1\r\nSet-Cookie: a=b\r\n"
            b"openai-organization: org-secret\r\nX-RateLimit-Remaining-Requests: 9\r\nServer: double\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
        )

    async def do_echo(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def do_gzip(self, reader: Any, writer: Any, body: bytes) -> None:
        data = gzip.compress(ANSWER)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        )

    async def do_sse(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        for event in EVENTS:
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(0.005)
        writer.write(b"0\r\n\r\n")

    async def do_sse_plain(self, reader: Any, writer: Any, body: bytes) -> None:
        """With a length, and in pieces that are no events."""
        data = b"".join(EVENTS)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(data))
        for at in range(0, len(data), 11):
            writer.write(data[at : at + 11])
            await writer.drain()
            await asyncio.sleep(0.001)

    async def do_sse_gzip(self, reader: Any, writer: Any, body: bytes) -> None:
        data = gzip.compress(b"".join(EVENTS))
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
        )

    async def do_refused_events(self, reader: Any, writer: Any, body: bytes) -> None:
        data = b"".join(EVENTS)
        writer.write(b"HTTP/1.1 429 No\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(data))
        writer.write(data)

    async def do_linger(self, reader: Any, writer: Any, body: bytes) -> None:
        """All events, but the stream does not end."""
        self._events_head(writer)
        writer.write(b"".join(map(chunk, EVENTS)))
        await writer.drain()
        await reader.read(1)
        self.lost.set()
        raise ConnectionError

    async def do_ended_cut(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        writer.write(b"".join(map(chunk, EVENTS)))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        raise ConnectionError

    def _events_head(self, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def do_hold(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        writer.write(chunk(EVENTS[0]))
        await writer.drain()
        while not self.release.is_set():
            read = asyncio.ensure_future(reader.read(1))
            done, _ = await asyncio.wait({read}, timeout=0.02)
            if done:
                self.lost.set()
                raise ConnectionError
            read.cancel()
            await asyncio.wait({read})
        writer.write(chunk(EVENTS[3]) + b"0\r\n\r\n")

    async def do_cut(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        writer.write(chunk(EVENTS[0]) + chunk(b'data: {"choices":[{"del'))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        raise ConnectionError

    async def do_short(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n" + ANSWER)
        await writer.drain()
        raise ConnectionError

    async def do_eof(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + ANSWER)
        await writer.drain()
        raise ConnectionError

    async def do_close(self, reader: Any, writer: Any, body: bytes) -> None:
        raise ConnectionError

    async def do_reset(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.transport.abort()
        raise ConnectionError

    async def do_garbage(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n\r\n")

    async def do_badchunk(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        writer.write(chunk(EVENTS[0]))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\nnot a chunk")

    async def do_stall(self, reader: Any, writer: Any, body: bytes) -> None:
        await reader.read(1)

    async def do_silent(self, reader: Any, writer: Any, body: bytes) -> None:
        self._events_head(writer)
        writer.write(chunk(EVENTS[0]))
        await reader.read(1)

    async def do_trickle(self, reader: Any, writer: Any, body: bytes) -> None:
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            len(ANSWER),
            ANSWER,
        )
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async def do_continue(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await self.do_json(reader, writer, body)

    async def do_redirect(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 307 Temporary\r\nLocation: http://127.0.0.1:1/steal\r\nContent-Length: 0\r\n\r\n")

    async def do_limited(self, reader: Any, writer: Any, body: bytes) -> None:
        text = b'{"error":{"message":"slow down"}}'
        writer.write(
            b"HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%b"
            % (len(text), text)
        )

    async def _repeat(self, writer: Any, status: int) -> None:
        """Answer with the request's own head: the key is in it."""
        text = json.dumps({"error": {"message": self.requests[-1][0].decode()}}).encode()
        writer.write(
            b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, re.search(rb"(?i)bearer (\S+)", self.requests[-1][0])[1], len(text), text)  # type: ignore[index]
        )

    async def do_400(self, reader: Any, writer: Any, body: bytes) -> None:
        await self._repeat(writer, 400)

    async def do_401(self, reader: Any, writer: Any, body: bytes) -> None:
        await self._repeat(writer, 401)

    async def do_500(self, reader: Any, writer: Any, body: bytes) -> None:
        await self._repeat(writer, 500)

    async def do_early(self, reader: Any, writer: Any, body: bytes) -> None:
        text = b'{"error":{"message":"no"}}'
        writer.write(
            b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        )
        await writer.drain()
        while await reader.read(65536):
            pass
        raise ConnectionError

    do_early.early = True  # type: ignore[attr-defined]

    async def do_websocket(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: abc\r\nSet-Cookie: a=b\r\n\r\nhello"
        )
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()
        raise ConnectionError

    async def do_half_a_message(self, reader: Any, writer: Any, body: bytes) -> None:
        """A WebSocket on which the caller speaks within a message of the provider's, which another follows."""
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + SAID[:9]
        )
        await reader.read(65536)
        writer.write(SAID[9:] + SAID[:9])
        await reader.read()
        self.lost.set()
        raise ConnectionError

    async def do_talkative(self, reader: Any, writer: Any, body: bytes) -> None:
        """A WebSocket on which the provider says a lot and never listens."""
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        self.sent = 0
        while self.sent < 512:
            writer.write(LONG)
            await writer.drain()
            self.sent += 1
        while not self.release.is_set():
            await asyncio.sleep(0.02)
        raise ConnectionError

    async def do_frames_cut(self, reader: Any, writer: Any, body: bytes) -> None:
        """A whole message of AWS's binary event stream, and no end."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.amazon.eventstream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(chunk(event_stream.message({":event-type": "messageStart", ":message-type": "event"}, b"{}")))
        await writer.drain()
        raise ConnectionError

    async def do_big(self, reader: Any, writer: Any, body: bytes) -> None:
        size = 64 * 1024 * 1024
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % size)
        self.sent = 0
        while self.sent < size:
            writer.write(b"x" * 65536)
            await writer.drain()
            self.sent += 65536


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes, whole: bool) -> None:
        self.status, self.headers, self.body, self.whole = status, headers, body, whole

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]  # type: ignore[no-any-return]


class Client:
    """A raw HTTP/1.1 client on one connection."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 10)
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        self._rest += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            if not self._more():
                raise EOFError(self._rest)
        found, _, self._rest = self._rest.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        found = bytearray(self._rest[:size])
        self._rest = self._rest[size:]
        while len(found) < size:
            data = self.sock.recv(min(size - len(found), 1 << 20))
            if not data:
                raise EOFError(found)
            found += data
        return bytes(found)

    def closed(self) -> bool:
        """Whether the other side has closed, with nothing more to say."""
        return not self._rest and not self._more()

    def head(self) -> tuple[int, dict[str, str]]:
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)
        }
        return int(lines[0].split()[1]), headers

    def answer(self) -> Answer:
        status, headers = self.head()
        body, whole = b"", True
        try:
            if headers.get("transfer-encoding") == "chunked":
                while size := int(self.until(b"\r\n"), 16):
                    body += self.exactly(size)
                    self.exactly(2)
                self.exactly(2)
            else:
                body = self.exactly(int(headers.get("content-length", "0")))
        except EOFError:
            whole = False
        return Answer(status, headers, body, whole)

    def close(self) -> None:
        self.sock.close()


class Sandbox:
    def __init__(self, gateway: Gateway, sandbox_id: str, user_id: str) -> None:
        self.gateway, self.sandbox_id, self.user_id = gateway, sandbox_id, user_id
        self.token = tokens.sign(gateway.token_key, sandbox_id)
        self.port = 0

    def attach(self, lease_s: float = 100.0) -> dict[str, Any]:
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
            self.port = listener.getsockname()[1]
            return self.gateway.ask(
                {
                    "op": "attach",
                    "sandbox_id": self.sandbox_id,
                    "user_id": self.user_id,
                    "role": "run",
                    "lease_s": lease_s,
                },
                [listener.fileno()],
            )

    def request(
        self,
        path: str = "/chat/completions",
        body: bytes = b'{"model":"m1","messages":[]}',
        behave: str = "json",
        method: str = "POST",
        provider: str = "mock",
        headers: str = "",
        auth: str | None = None,
    ) -> bytes:
        auth = f"Authorization: Bearer {self.token}\r\n" if auth is None else auth
        framing = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if method != "GET" else ""
        return (
            f"{method} /provider/v1/{provider}{path} HTTP/1.1\r\nHost: localhost:7070\r\n{auth}{framing}"
            f"X-Behave: {behave}\r\n{headers}\r\n"
        ).encode() + (body if method != "GET" else b"")

    def call(self, raw: bytes | None = None, **how: Any) -> Answer:
        """One request on a connection of its own."""
        with contextlib.closing(Client(self.port)) as client:
            client.send(self.request(**how) if raw is None else raw)
            return client.answer()

    def records(self, count: int) -> list[UsageRecord]:
        """The sandbox's records, oldest first, as they were told to a subscriber."""
        return self.gateway.records(self.sandbox_id, count)


class Gateway:
    """A gateway process with a provider ``mock`` whose key is a canary."""

    def __init__(self, folder: Path, config: str, services: dict[str, str] | None = None, **environment: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "choir.toml"
        self.config.write_text(config)
        self.state = State(folder / "state")
        self.log = folder / "gateway.log"
        self.canary = "sk-proj-" + secrets.token_hex(24)
        self.token_key = tokens.new_key()
        self.service = Service.spawn("gateway", "choir.gateway.main", log=self.log, environment=environment)
        self.ready = asyncio.run(
            self.service.start(
                {
                    "state": str(self.state.root),
                    "config": str(self.config),
                    "token_key": base64.b64encode(self.token_key).decode(),
                    "secrets": {"MOCK_KEY": self.canary},
                    "services": services or {},
                }
            )
        )
        self.worker_pid = int(self.ready["worker_pid"])
        self._told: list[UsageRecord] = []
        self._news = threading.Condition()
        self.control: Any = None
        self.events: list[dict[str, Any]] = []
        self.connect()

    def connect(self) -> None:
        """Connect to the control socket (again)."""
        if self.control is not None:
            self.control.close()
        self.control = channel.connect(str(self.state.gateway_socket))
        self.control.sock.settimeout(10)
        listener = channel.connect(str(self.state.gateway_socket))
        listener.sock.settimeout(10)
        try:
            listener.send({"op": "subscribe"})
            assert listener.receive()[0] == {"ok": True}
        except BaseException:
            listener.close()
            raise
        listener.sock.settimeout(None)
        self._reader = threading.Thread(target=self._listen, args=(listener,), daemon=True)
        self._reader.start()

    def _listen(self, listener: channel.Channel) -> None:
        with contextlib.closing(listener), contextlib.suppress(channel.ChannelClosed):
            while True:
                message, _ = listener.receive()
                with self._news:
                    if message["event"] == "usage":
                        self._told.append(UsageRecord(**message["record"]))
                    else:
                        self.events.append(message)
                    self._news.notify_all()

    def ask(self, message: dict[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        self.control.send(message, descriptors or [])
        while True:
            answer, _ = self.control.receive()
            if "event" not in answer:
                return answer

    def lost(self) -> None:
        """Return once the control connection is closed by the other side."""
        with contextlib.suppress(channel.ChannelClosed):
            while True:
                self.control.receive()

    def event(self) -> dict[str, Any]:
        """The next event that is not a usage record."""
        with self._news:
            assert self._news.wait_for(lambda: self.events, 10)
            return self.events.pop(0)

    def records(self, sandbox_id: str, count: int) -> list[UsageRecord]:
        def found() -> list[UsageRecord]:
            return [record for record in self._told if record.sandbox_id == sandbox_id]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, 10), found()
            assert len(found()) == count, found()
            return found()

    def sandbox(self, lease_s: float = 100.0, user_id: str = "u1") -> Sandbox:
        sandbox = Sandbox(self, "s" + secrets.token_hex(6), user_id)
        assert sandbox.attach(lease_s) == {"ok": True}
        return sandbox

    def ledger(self) -> list[UsageRecord]:
        return Ledger(self.state.ledger).query(limit=1_000_000)

    def metrics_text(self) -> str:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(self.state.metrics_socket))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()

    def stop(self) -> int:
        self.control.close()
        code = self.service.stop(8)
        self._reader.join(10)
        return code

    def sinks(self) -> dict[str, bytes]:
        """Everything that was written anywhere."""
        found = {str(self.log): self.log.read_bytes()}
        for folder, _, names in os.walk(self.state.root):
            for name in names:
                path = Path(folder) / name
                if path.is_file():
                    found[str(path)] = path.read_bytes()
        return found


def provider(
    name: str, port: int, *lines: str, like: str = "openai", prefix: str = "/v1", circuit_failures: int = 0
) -> str:
    return (
        f'[providers.{name}]\nlike = "{like}"\nbase_url = "http://127.0.0.1:{port}{prefix}"\nkey = "env:MOCK_KEY"\n'
        + f'carrier = "Authorization: Bearer {{key}}"\ncircuit_failures = {circuit_failures}\n'
        + "".join(f"{line}\n" for line in lines)
    )
