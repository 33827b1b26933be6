"""Event streams under load: an upstream that sends events when they are due and clients that read them.

Both are one thread on one core, so that a time stamp in an event and the time of its arrival are of one clock. The
delay of the load itself is measured by connecting the clients straight to the upstream.
"""

from __future__ import annotations

import asyncio
import base64
import re
import resource
import select
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from choir import channel, tokens
from choir.paths import State
from choir.service import Service

from . import run as reference

SLOT = 0.001  # seconds; events are due in slots of this length
_MARK = re.compile(rb"@(\d+),(\d+)@")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"@%d,%d@"},"finish_reason":null}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":'
    b'{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}\n\n'
)
_DONE = b"data: [DONE]\n\n"
BODY = b'{"messages":[{"role":"user","content":"Count."}],"model":"m","stream":true}'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def request(path: str, *headers: str) -> bytes:
    """A chat call that asks for a stream."""
    lines = "".join(f"{header}\r\n" for header in headers)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Source:
    """The upstream's end of one connection."""

    def __init__(self, load: Load, sock: socket.socket) -> None:
        self.load, self.sock = load, sock
        self.sent = 0
        self.open = False
        self._text = b""
        self._unsent = b""

    def ready(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.open = False
            self.load.close(self.sock)
            return
        self._text += data
        end = self._text.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self._text, 0, end)
        whole = end + 4 + (int(found[1]) if found else 0)
        if len(self._text) >= whole:
            self._text = self._text[whole:]
            self.sent = 0
            self.open = True
            self.write(_HEAD)
            self.load.opened(self)

    def event(self) -> None:
        self.write(_chunk(_EVENT % (time.perf_counter_ns(), self.sent)))
        self.sent += 1

    def end(self) -> None:
        if self.open:
            self.open = False
            self.write(_chunk(_USAGE) + _chunk(_DONE) + b"0\r\n\r\n")

    def write(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.open = False
            return
        self._unsent = data[sent:]


class Sink:
    """A client's end of one stream."""

    def __init__(self, load: Load, sock: socket.socket) -> None:
        self.load, self.sock = load, sock
        self.received = 0
        self.ended = False
        self.leaves = False
        """Closes as soon as it has something."""
        self.status = b""
        self._rest = b""

    def ready(self) -> None:
        try:
            data = self.sock.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now = time.perf_counter_ns()
        load = self.load
        if not data:
            load.finished(self)
            return
        data = self._rest + data if self._rest else data
        if not self.status:
            self.status = data[:12]
        end = 0
        for mark in _MARK.finditer(data):
            end = mark.end()
            if int(mark[2]) == self.received:
                self.received += 1
            load.delays.append(now - int(mark[1]))
        self._rest = data[max(end, len(data) - 64) :]
        if self.leaves:
            load.finished(self)
            return
        if data.endswith(b"\r\n0\r\n\r\n"):
            self.ended = b"[DONE]" in self._rest
            load.finished(self)


class Load:
    """One upstream and its clients, in this thread."""

    def __init__(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.delays: list[int] = []
        """Nanoseconds from an event's sending to its arrival."""
        self.sources: list[Source] = []
        """Streams that were asked for, in that order."""
        self.sinks: list[Sink] = []
        self.on_open: Callable[[Source], None] = lambda source: None
        self.on_end: Callable[[Sink], None] = lambda sink: None
        self._poll = select.epoll()
        self._handlers: dict[int, Source | Sink] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self._poll.register(self._listener, select.EPOLLIN)
        self.port = int(self._listener.getsockname()[1])

    def connect(self, port: int, text: bytes) -> Sink:
        """Open a stream: a connection to ``port`` and a request on it."""
        sock = socket.create_connection(("127.0.0.1", port))
        sink = Sink(self, sock)
        self._register(sock, sink)
        self.sinks.append(sink)
        sock.sendall(text)
        return sink

    def _register(self, sock: socket.socket, handler: Source | Sink) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handlers[sock.fileno()] = handler
        self._poll.register(sock, select.EPOLLIN)

    def close(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._poll.unregister(sock)
            del self._handlers[sock.fileno()]
            sock.close()

    def opened(self, source: Source) -> None:
        self.sources.append(source)
        self.on_open(source)

    def finished(self, sink: Sink) -> None:
        self.close(sink.sock)
        self.on_end(sink)

    def step(self, seconds: float) -> None:
        """Handle what comes; wait at most so long."""
        for descriptor, _ in self._poll.poll(max(0.0, seconds), 1024):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._handlers:
                self._handlers[descriptor].ready()

    def _accept(self) -> None:
        for _ in range(256):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            self._register(sock, Source(self, sock))

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> bool:
        """Handle what comes until ``done``; False when that took too long."""
        end = time.perf_counter() + seconds
        while not done():
            if time.perf_counter() > end:
                return False
            self.step(0.05)
        return True

    def play(self, seconds: float, per_second: float) -> None:
        """Every open stream sends ``per_second`` events for so long, each stream at its own time."""
        slots = max(1, round(1 / per_second / SLOT))
        due: list[list[Source]] = [[] for _ in range(slots)]
        for number, source in enumerate(self.sources):
            due[number * 7919 % slots].append(source)
        next_slot = time.perf_counter()
        end = next_slot + seconds
        turn = 0
        while next_slot < end:
            self.step(next_slot - time.perf_counter())
            now = time.perf_counter()
            while next_slot <= now and next_slot < end:
                for source in due[turn % slots]:
                    if source.open:
                        source.event()
                turn += 1
                next_slot += SLOT

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handler in list(self._handlers.values()):
            handler.sock.close()
        self._listener.close()
        self._poll.close()


def percentile(values: list[int], share: float) -> float:
    """In milliseconds, of nanoseconds."""
    return statistics.quantiles(values, n=1000)[round(share * 1000) - 1] / 1e6 if len(values) > 1 else 0.0


class Gateway:
    """A real gateway process with full policy and ledger, and as many sandboxes as asked for."""

    def __init__(self, folder: Path, core: int, upstream: int, sandboxes: int) -> None:
        config = folder / "choir.toml"
        config.write_text(
            f'[providers.mock]\nlike = "openai"\nbase_url = "http://127.0.0.1:{upstream}/v1"\nkey = "env:BENCH_KEY"\n'
            "[limits]\nrequests_per_minute = 1000000000\nconcurrent_requests = 100000\n"
        )
        key = tokens.new_key()
        with reference.pinned(core):
            self.service = Service.spawn("gateway", "choir.gateway.main", log=folder / "gateway.log")
        start = {
            "state": str(folder / "state"),
            "config": str(config),
            "token_key": base64.b64encode(key).decode(),
            "secrets": {"BENCH_KEY": "bench-key"},
            "services": {},
        }
        self.worker = int(asyncio.run(self.service.start(start))["worker_pid"])
        self.control = channel.connect(str(State(folder / "state").gateway_socket))
        self.doors: list[tuple[int, bytes]] = []
        """For each sandbox its port and a request."""
        for number in range(sandboxes):
            name = f"bench{number}"
            with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
                port = int(listener.getsockname()[1])
                attach = {"op": "attach", "sandbox_id": name, "user_id": name, "role": "run", "lease_s": 86400.0}
                self.control.send(attach, [listener.fileno()])
                self.control.receive()
            token = tokens.sign(key, name)
            self.doors.append((port, request("/provider/v1/mock/chat/completions", f"Authorization: Bearer {token}")))

    def memory(self) -> tuple[int, int]:
        """Of the worker, in bytes: its own pages (unique set size), and what is resident."""
        fields = {}
        for line in Path(f"/proc/{self.worker}/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            fields[name] = int(value) * 1024
        return fields["Private_Clean:"] + fields["Private_Dirty:"], fields["Rss:"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.control.close()
        self.service.stop()


def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="choir-bench-")
