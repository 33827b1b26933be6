"""A gateway with a canary for a key, an upstream that fails in every way, callers that try every trick, and a search of
every place it could leak to.

The canary's gateway is a real one, in a state folder of its own that is thrown away. A second upstream, the trap, is
where callers and redirects point: nothing may ever reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from choir import config as configuration
from choir import ids, inside, tokens
from choir.app.secrets import stored_key
from choir.app.up import start_gateway
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.paths import State

FAILURES = ("answers", "refuses (401)", "breaks (500)", "redirects (302)", "resets", "stops in mid-stream")
CARRIERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "x-subscription-token")
_CHAT = "/provider/v1/canary/chat/completions"
_BODY = b'{"model": "m", "messages": []}'
_MODELS = "/provider/v1/canary/models"


@dataclass(frozen=True)
class Outcome:
    """Of one kind of call."""

    name: str
    tried: str
    came_back: str
    ok: bool


class Upstream:
    """Answers once per connection, in the way it was told; remembers what came."""

    def __init__(self, canary: bytes, trap: str = "") -> None:
        self.canary = canary
        self.trap = trap
        self.failure = FAILURES[0]
        self.forget()

    def forget(self) -> None:
        self.hits = 0
        self.heads = b""

    @property
    def saw_key(self) -> bool:
        return self.canary in self.heads

    @property
    def saw_token(self) -> bool:
        return tokens.PREFIX.encode() in self.heads

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.heads += await reader.readuntil(b"\r\n\r\n")
            self.hits += 1
            if self.failure == "resets":
                writer.transport.abort()
                return
            writer.write(self._answer())
            await writer.drain()
            if self.failure == "stops in mid-stream":
                writer.transport.abort()
                return
        writer.close()

    def _answer(self) -> bytes:
        # Providers do repeat a refused key, in headers and in the error's text.
        echo = b"x-echo: %b\r\nset-cookie: k=%b\r\nconnection: close\r\n" % (self.canary, self.canary)
        if self.failure == "stops in mid-stream":
            return b"HTTP/1.1 200 OK\r\n%bcontent-type: text/event-stream\r\n\r\ndata: {}\n\n" % echo
        status = {
            "answers": b"200 OK",
            "refuses (401)": b"401 Unauthorized",
            "redirects (302)": b"302 Found\r\nlocation: %b" % self.trap.encode(),
        }.get(self.failure, b"500 Oh")
        body = b'{"error": {"message": "wrong key %b"}}' % self.canary if status.startswith(b"401") else b"{}"
        kind = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        return b"HTTP/1.1 %b\r\n%b%b%b" % (status, echo, kind, body)


@contextlib.asynccontextmanager
async def _gateway(root: Path, canary: str, port: int) -> AsyncIterator[tuple[State, GatewayControl]]:
    state = State(root / "state").prepare()
    path = root / "choir.toml"
    path.write_text(
        f'[providers.canary]\nlike = "openai"\nbase_url = "http://127.0.0.1:{port}"\nkey = "env:CANARY_KEY"\n'
    )
    service = await start_gateway(
        configuration.load(path), state, {"CANARY_KEY": canary}, log=state.logs / "gateway.log"
    )
    control = GatewayControl(state.gateway_socket)
    try:
        yield state, control
    finally:
        await control.close()
        await asyncio.to_thread(service.stop)


async def run() -> list[Outcome]:
    """Every kind of failure and trick, each with what came back, and last where the canary was found."""
    canary = f"sk-canary-{secrets.token_hex(24)}"
    trap = Upstream(canary.encode())
    trapping = await asyncio.start_server(trap.serve, "127.0.0.1", 0)
    elsewhere = f"127.0.0.1:{trapping.sockets[0].getsockname()[1]}"
    upstream = Upstream(canary.encode(), f"http://{elsewhere}/")
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="choir-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        async with _gateway(Path(folder), canary, server.sockets[0].getsockname()[1]) as (state, control):
            sandbox_id = ids.new_id()
            token = tokens.sign(stored_key(state.token_key), sandbox_id)
            await control.attach(sandbox_id, "canary", "probe", listener, lease_s=inside.LEASE_SECONDS)
            tried = Tricks(upstream, trap, listener.getsockname()[1], token)
            outcomes += [await tried.failure(failure) for failure in FAILURES]
            outcomes += [await tried.carriers(), await tried.hosts(elsewhere), await tried.malformed()]
            outcomes.append(await false_listeners(control))
            measured = await asyncio.to_thread(_metrics, state.metrics_socket)
            await control.detach(sandbox_id)
            with socket.create_server(("127.0.0.1", 0)) as another:
                await control.attach(ids.new_id(), "canary", "probe", another, lease_s=inside.LEASE_SECONDS)
                outcomes.append(await tried.after_its_lease(another.getsockname()[1]))
        for each in (server, trapping):
            each.close()
            await each.wait_closed()
        outcomes.append(_leaks(state, (canary, token.rpartition(".")[2]), measured))
    return outcomes


class Tricks:
    """Calls of a caller in a sandbox. ``port``: of its listener."""

    def __init__(self, upstream: Upstream, trap: Upstream, port: int, token: str) -> None:
        self._upstream, self._trap, self._port, self._token = upstream, trap, port, token

    async def failure(self, failure: str) -> Outcome:
        """One call to an upstream that behaves like that."""
        self._upstream.failure = failure
        self._upstream.forget()
        status, answer = await self._call("POST", _CHAT, {"authorization": f"Bearer {self._token}"})
        up, shown = self._upstream, self._upstream.canary in answer
        ok = up.saw_key and not up.saw_token and not shown and not self._trap.hits
        self._upstream.failure = FAILURES[0]
        carried = "carried" if up.saw_key else "NOT carried"
        followed = " and the redirect was followed" if self._trap.hits else ""
        leak = " and the answer shows it" if shown else ""
        return Outcome(
            f"canary key, provider {failure}",
            "call it",
            f"status {status}; the key was {carried} upstream{leak}{followed}",
            ok,
        )

    async def carriers(self) -> Outcome:
        """The sandbox's token in every header that clients use, and in all at once."""
        wrong = []
        for names in (*((name,) for name in CARRIERS), CARRIERS):
            self._upstream.forget()
            headers = {name: f"Bearer {self._token}" if name == "authorization" else self._token for name in names}
            status, _ = await self._call("POST", _CHAT, headers)
            if status != 200 or self._upstream.saw_token or self._upstream.heads.count(self._upstream.canary) != 1:
                wrong.append("+".join(names))
        came_back = f"not so for {', '.join(wrong)}" if wrong else "the token never, the key once"
        return Outcome("the sandbox's token upstream", f"send it in {len(CARRIERS)} headers", came_back, not wrong)

    async def hosts(self, elsewhere: str) -> Outcome:
        """Every way in which a caller might choose the host."""
        token = {"authorization": f"Bearer {self._token}"}
        body = f'{{"model": "m", "messages": [], "base_url": "http://{elsewhere}", "api_base": "http://{elsewhere}"}}'
        self._trap.forget()
        for path, headers in (
            (f"http://{elsewhere}{_CHAT}", {}),
            (_CHAT, {"host": elsewhere}),
            (_CHAT, {"x-forwarded-host": elsewhere, "forwarded": f"host={elsewhere}", "x-base-url": elsewhere}),
            (f"{_CHAT}?api_base=http://{elsewhere}&base_url=http://{elsewhere}", {}),
            (f"/provider/v1/canary@{elsewhere}/chat/completions", {}),
            (f"/provider/v1/canary/../../..//{elsewhere}/", {}),
        ):
            await self._call("POST", path, {**token, **headers}, body.encode())
        found = f"{self._trap.hits} calls went there" if self._trap.hits else "none went there"
        tried = "name another in path, query, headers and body"
        return Outcome("a host of the caller's", tried, found, not self._trap.hits)

    async def malformed(self) -> Outcome:
        """Paths and framings that two parsers might read differently, and calls without a right; none goes on."""
        token = f"authorization: Bearer {self._token}\r\n".encode()
        chat, models = _CHAT.encode(), _MODELS.encode()
        requests = [
            b"GET %b HTTP/1.1\r\nhost: a\r\n\r\n" % models,
            b"GET %b?key=%b HTTP/1.1\r\nhost: a\r\n\r\n" % (models, self._token.encode()),
            b"GET %b HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %bx\r\n\r\n" % (models, self._token.encode()),
            *(
                b"GET %b HTTP/1.1\r\nhost: a\r\n%b\r\n" % (path, token)
                for path in (
                    b"/provider/v1/canary/../../admin", b"/provider/v1/canary/%2e%2e/%2e%2e/admin",
                    b"/provider/v1/canary/models%00", b"/provider/v1/canary/models%2f..%2fadmin", b"/admin",
                    b"/provider/v1/canary\\models", b"/provider/v1/canary/v1/files",
                )
            ),
            *(
                b"POST %b HTTP/1.1\r\nhost: a\r\n%b%b\r\n\r\n0\r\n\r\n" % (chat, token, framing)
                for framing in (
                    b"content-length: 2\r\ntransfer-encoding: chunked", b"content-length: 2\r\ncontent-length: 3",
                    b"transfer-encoding: x",
                )
            ),
            b"GET %b HTTP/1.1\r\nhost: a\r\n%bx: a\r\n b\r\n\r\n" % (models, token),
            b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: a\r\n%b\r\n" % token,
        ]  # fmt: skip
        self._upstream.forget()
        answered = [await asyncio.to_thread(_raw, self._port, request) for request in requests]
        wrong = [status for status in answered if not 400 <= status < 500 and status]
        hits = self._upstream.hits
        seen = (
            f"{hits} went on, statuses {sorted(set(answered))}"
            if hits or wrong
            else f"refused, {len(requests)} of them"
        )
        tried = "no token, ?key=, climbing paths, two lengths, obsolete folding, CONNECT"
        return Outcome("malformed and unentitled calls", tried, seen, not hits and not wrong)

    async def after_its_lease(self, port: int) -> Outcome:
        """With the lease's end the token is worth nothing, and the old listener answers nobody."""
        self._upstream.forget()
        status, _ = await self._call("POST", _CHAT, {"authorization": f"Bearer {self._token}"}, port=port)
        old, _ = await self._call("POST", _CHAT, {"authorization": f"Bearer {self._token}"}, patience=2)
        ok = status == 401 and old == 0 and not self._upstream.hits
        said = f"status {status} elsewhere, {old or 'no answer'} on its own listener"
        return Outcome("a token after its lease", "end the lease, then call", said, ok)

    async def _call(
        self, method: str, path: str, headers: dict[str, str], body: bytes = _BODY, port: int = 0, patience: float = 30
    ) -> tuple[int, bytes]:
        """Status, and head and body as one text; (0, ...) for no answer in ``patience`` seconds."""
        return await asyncio.to_thread(_call, port or self._port, method, path, headers, body, patience)


async def false_listeners(control: GatewayControl) -> Outcome:
    """What is not a sandbox's listener must not be taken for one: whoever is on it would be that sandbox."""
    taken = []
    for name, sock in _false_listeners():
        with sock:
            try:
                await control.attach(ids.new_id(), "canary", "probe", sock, lease_s=inside.LEASE_SECONDS)
                taken.append(name)
            except ChoirError:
                continue
    tried = "attach a socket on every address, one that does not listen, a datagram socket, a unix socket"
    return Outcome("a false listener", tried, f"taken: {', '.join(taken)}" if taken else "refused", not taken)


def _false_listeners() -> Iterator[tuple[str, socket.socket]]:
    yield "every address", socket.create_server(("0.0.0.0", 0))  # noqa: S104 - refused, and closed at once
    yield "not listening", socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    yield "datagram", socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unix = socket.socket(socket.AF_UNIX)
    unix.bind("\0choir-verify-" + secrets.token_hex(8))
    unix.listen()
    yield "unix", unix


def _leaks(state: State, needles: tuple[str, ...], measured: bytes) -> Outcome:
    files = [path for path in state.root.rglob("*") if path.is_file()]
    sinks = {path.name: path.read_bytes() for path in files if path not in (state.token_key, state.local_key)}
    sinks["metrics"] = measured
    leaks = [name for name, data in sinks.items() if any(needle.encode() in data for needle in needles)]
    return Outcome(
        "canary key, every sink",
        f"search metrics and {len(files)} files of logs, ledger and state for key and token",
        f"found in {', '.join(leaks)}" if leaks else "not there",
        not leaks and len(files) > 1 and bool(measured),
    )


def _metrics(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(path))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            text = b""
            while data := sock.recv(65536):
                text += data
        except OSError:
            return b""
    return text


def _raw(port: int, request: bytes) -> int:
    """The status of the first answer; 0 when the connection was closed without one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(request)
            head = sock.recv(4096)
    except OSError:
        return 0
    return int(head.split()[1]) if head.startswith(b"HTTP/1.") else 0


def _call(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes, patience: float
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request(method, path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, f"{answer.getheaders()}".encode() + answer.read()
    except (http.client.HTTPException, OSError) as error:
        return 0, str(error).encode()
    finally:
        connection.close()
