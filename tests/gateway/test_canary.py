"""Client x route x kind of failure x sink, with canaries for keys: zero hits.

Upstreams refuse, break, stall and repeat what they were sent: the key in headers, in errors, compressed or not. Then
every place that anything is written to is searched for the keys and for the gateway token.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import logging
import secrets
import socket
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .harness import ANSWER, Client, Double, Gateway, Sandbox, chunk


class Parrot(Double):
    """Also repeats the whole head of a request, key and all, in every place an error can have."""

    def _head(self) -> bytes:
        return self.requests[-1][0]

    def _key(self) -> bytes:
        for line in self._head().split(b"\r\n"):
            name, _, value = line.partition(b": ")
            if name.lower() in (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-subscription-token"):
                return value.split()[-1]
        return b"none"

    def _say(self, writer: Any, status: int, body: bytes, *lines: bytes) -> None:
        headers = b"".join(
            line + b"\r\n" for line in (*lines, b"x-request-id: " + self._key(), b"x-echo: " + self._key())
        )
        writer.write(b"HTTP/1.1 %d S\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body))

    def _error(self) -> bytes:
        text = self._head().decode()
        error = {"message": text, "type": "t", "code": 400, "status": "S", "details": []}
        return json.dumps({"type": "error", "error": error, "detail": text}).encode()

    async def do_repeat_400(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 400, self._error(), b"Content-Type: application/json")

    async def do_repeat_401(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 401, self._error(), b"Content-Type: application/json")

    async def do_repeat_403(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 403, self._error(), b"Content-Type: application/json")

    async def do_repeat_429(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 429, self._error(), b"Content-Type: application/json", b"retry-after: 1")

    async def do_repeat_500(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 500, self._error(), b"Content-Type: application/json")

    async def do_repeat_503_text(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 503, self._head(), b"Content-Type: text/plain")

    async def do_repeat_gzip(self, reader: Any, writer: Any, body: bytes) -> None:
        packed = gzip.compress(self._error())
        self._say(writer, 400, packed, b"Content-Type: application/json", b"Content-Encoding: gzip")

    async def do_repeat_deflate(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 400, zlib.compress(self._error()), b"Content-Encoding: deflate")

    async def do_repeat_brotli(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 400, b"\x0b\x02\x80" + self._error() + b"\x03", b"Content-Encoding: br")

    async def do_repeat_redirect(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 302, b"", b"Location: http://127.0.0.1:1/?key=" + self._key())

    async def do_repeat_headers(self, reader: Any, writer: Any, body: bytes) -> None:
        """An answer that is fine but for its headers."""
        lines = [b"openai-x: " + self._key(), b"x-ratelimit-key: " + self._key(), b"set-cookie: k=" + self._key()]
        self._say(writer, 200, ANSWER, b"Content-Type: application/json", *lines)

    async def do_repeat_reason(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 500 %b\r\nContent-Length: 0\r\n\r\n" % self._key())

    async def do_repeat_early_hints(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % self._key())
        await self.do_json(reader, writer, body)

    async def do_repeat_trailer(self, reader: Any, writer: Any, body: bytes) -> None:
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: x-key\r\n\r\n"
        )
        writer.write(head + chunk(ANSWER) + b"0\r\nx-key: " + self._key() + b"\r\n\r\n")

    async def do_repeat_malformed(self, reader: Any, writer: Any, body: bytes) -> None:
        writer.write(self._head())
        await writer.drain()
        raise ConnectionError

    async def do_repeat_too_long(self, reader: Any, writer: Any, body: bytes) -> None:
        self._say(writer, 400, self._error() * 200, b"Content-Type: application/json")


FAILURES = (
    *("json", "sse", "continue", "eof", "limited", "close", "reset", "garbage", "redirect", "stall", "silent", "cut"),
    *("short", "badchunk", "early"),
    *(name.removeprefix("do_") for name in vars(Parrot) if name.startswith("do_repeat_")),
)


@dataclass(frozen=True)
class Route:
    provider: str
    like: str
    prefix: str
    method: str
    path: str
    body: dict[str, Any]


MESSAGES = [{"role": "user", "content": "hello"}]
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "hello"}]}]}
ROUTES = (
    Route("c-openai", "openai", "/v1", "POST", "/chat/completions", {"model": "m", "messages": MESSAGES}),
    Route(
        "c-openai", "openai", "/v1", "POST", "/chat/completions", {"model": "m", "messages": MESSAGES, "stream": True}
    ),
    Route("c-openai", "openai", "/v1", "POST", "/responses", {"model": "m", "input": "hello"}),
    Route("c-openai", "openai", "/v1", "POST", "/embeddings", {"model": "m", "input": "hello"}),
    Route("c-openai", "openai", "/v1", "GET", "/models", {}),
    Route(
        "c-anthropic", "anthropic", "", "POST", "/v1/messages", {"model": "m", "max_tokens": 9, "messages": MESSAGES}
    ),
    Route("c-anthropic", "anthropic", "", "POST", "/v1/messages/count_tokens", {"model": "m", "messages": MESSAGES}),
    Route("c-google", "google", "", "POST", "/v1beta/models/m:generateContent", {"contents": []}),
    Route("c-google", "google", "", "POST", "/v1beta/models/m:streamGenerateContent?alt=sse", {"contents": []}),
    Route("c-mistral", "mistral", "", "POST", "/v1/chat/completions", {"model": "m", "messages": MESSAGES}),
    Route("c-bedrock", "aws-bedrock", "", "POST", "/model/m/converse", CONVERSE),
    Route("c-bedrock", "aws-bedrock", "", "POST", "/model/m/invoke-with-response-stream", CONVERSE),
    Route(
        "c-azure", "azure", "", "POST", "/openai/deployments/d/chat/completions?api-version=1", {"messages": MESSAGES}
    ),
    Route("c-tavily", "tavily", "", "POST", "/search", {"query": "hello"}),
    Route("c-exa", "exa", "", "POST", "/search", {"query": "hello"}),
    Route("c-brave", "brave", "", "GET", "/res/v1/web/search?q=hello", {}),
)
SEVERAL = "c-several"
"""With three keys, of which one after the other is turned away, and a circuit that opens."""
BROKEN = {
    "c-closed": "http://127.0.0.1:{closed}",
    "c-nowhere": "http://nowhere.invalid",
    "c-plain": "https://127.0.0.1:{port}",
}
"""Providers that no connection can be made to: refused, no such name, no TLS there."""


class Deployment:
    """A gateway with a canary of its own for every provider: some in the environment, some in .env, some in files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.double = Parrot()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            addresses = {"closed": closed.getsockname()[1], "port": self.double.port}
        self.canaries: list[str] = []
        lines, env = [], []
        likes = {route.provider: (route.like, f"http://127.0.0.1:{{port}}{route.prefix}") for route in ROUTES}
        for number, (name, (like, url)) in enumerate(
            [*likes.items(), *((name, ("openai", url)) for name, url in BROKEN.items())]
        ):
            canary = f"sk-canary-{secrets.token_hex(24)}"
            self.canaries.append(canary)
            if number % 2:
                (folder / f"{name}.key").write_text(canary)
                (folder / f"{name}.key").chmod(0o600)
                reference = f"file:{folder}/{name}.key"
            else:
                env.append(f"CANARY_{number}={canary}")
                reference = f"env:CANARY_{number}"
            lines.append(
                f'[providers.{name}]\nlike = "{like}"\nbase_url = "{url.format(**addresses)}"\nkey = "{reference}"\n'
                "circuit_failures = 0\n"
            )
        several = [f"sk-canary-{secrets.token_hex(24)}" for _ in range(3)]
        env += [f"SEVERAL_{number}={canary}" for number, canary in enumerate(several)]
        lines.append(
            f'[providers.{SEVERAL}]\nlike = "openai"\nbase_url = "http://127.0.0.1:{self.double.port}/v1"\n'
            'keys = ["env:SEVERAL_0", "env:SEVERAL_1", "env:SEVERAL_2"]\n'
        )
        self.canaries = [*several, *self.canaries]
        (folder / ".env").write_text("\n".join(env))
        (folder / ".env").chmod(0o600)
        self.gateway = Gateway(
            folder,
            "".join(lines)
            + "[limits]\nrequests_per_minute = 100000\nconcurrent_requests = 1000\n"
            + "[timeouts]\nfirst_byte = 0.3\nidle = 0.3\nconnect = 2\n",
        )
        self.sandbox = self.gateway.sandbox()
        self.told: dict[str, bytes] = {}
        """What clients saw, by call."""

    def secrets(self) -> list[bytes]:
        """What must be nowhere: keys and, but for the client's own memory, the token."""
        return [secret for canary in self.canaries for secret in forms(canary)]

    def stop(self) -> None:
        self.gateway.stop()
        self.double.stop()


def forms(secret: str) -> list[bytes]:
    """A secret, a part of it that tells it from others, and both as they could be written elsewhere."""
    plain = secret.encode()
    return [plain, plain[:24], plain[-16:], base64.b64encode(plain)[:24], plain.hex().encode()]


def search(places: dict[str, bytes], wanted: list[bytes]) -> list[str]:
    return [name for name, content in places.items() if any(each in content for each in wanted)]


def raw(sandbox: Sandbox, route: Route, provider: str, failure: str) -> bytes:
    """Everything that comes back on the wire."""
    request = sandbox.request(
        path=route.path,
        body=json.dumps(route.body).encode(),
        behave=failure,
        method=route.method,
        provider=provider,
        headers="Connection: close\r\n",
    )
    told = b""
    with contextlib.closing(Client(sandbox.port)) as client, contextlib.suppress(ConnectionError):
        client.sock.settimeout(20)
        client.send(request)
        while data := client.sock.recv(65536):
            told += data
    return told


Act = Callable[[str], object]
"""A call of an unmodified client; its argument is what the upstream shall do."""


@contextlib.contextmanager
def sdk_calls(sandbox: Sandbox) -> Iterator[dict[str, Act]]:
    import anthropic
    import openai
    from google import genai

    base = f"http://127.0.0.1:{sandbox.port}/provider/v1"
    once = genai.types.HttpRetryOptions(attempts=1)
    google = genai.types.HttpOptions(base_url=f"{base}/c-google", retry_options=once)
    with (
        openai.OpenAI(base_url=f"{base}/c-openai", api_key=sandbox.token, max_retries=0) as one,
        anthropic.Anthropic(base_url=f"{base}/c-anthropic", api_key=sandbox.token, max_retries=0) as two,
        genai.Client(api_key=sandbox.token, http_options=google) as three,
    ):

        def chat(behave: str, **how: Any) -> object:
            return one.chat.completions.create(
                model="m",
                messages=MESSAGES,
                extra_headers={"X-Behave": behave},
                **how,  # type: ignore[call-overload]
            )

        def messages(behave: str, **how: Any) -> object:
            return two.messages.create(
                model="m",
                max_tokens=9,
                messages=MESSAGES,
                extra_headers={"X-Behave": behave},
                **how,  # type: ignore[call-overload]
            )

        def generate(behave: str) -> object:
            config: Any = {"http_options": {"headers": {"X-Behave": behave}}}
            return three.models.generate_content(model="m", contents="hello", config=config)

        yield {
            "openai chat": chat,
            "openai stream": lambda behave: list(chat(behave, stream=True)),  # type: ignore[call-overload]
            "openai responses": lambda behave: one.responses.create(
                model="m", input="hello", extra_headers={"X-Behave": behave}
            ),
            "anthropic": messages,
            "anthropic stream": lambda behave: list(messages(behave, stream=True)),  # type: ignore[call-overload]
            "google": generate,
        }


def what_a_client_shows(act: Act, behave: str) -> bytes:
    """Its answer, or its exception with all that hangs on it."""
    try:
        return repr(act(behave)).encode()
    except Exception as error:
        shown = [repr(error), *traceback.format_exception(error), repr(vars(error))]
        response = getattr(error, "response", None)
        if response is not None:
            shown.append(repr(getattr(response, "headers", "")))
            with contextlib.suppress(Exception):  # a stream that was not read
                shown.append(response.text)
        return "\n".join(shown).encode()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """After all calls were made."""
    deployment = Deployment(tmp_path_factory.mktemp("canary"))
    try:
        sandbox = deployment.sandbox
        calls = [(route, route.provider, failure) for route in ROUTES for failure in FAILURES]
        calls += [(ROUTES[0], provider, "json") for provider in BROKEN]
        with ThreadPoolExecutor(24) as pool:
            answers = pool.map(lambda call: raw(sandbox, *call), calls)
            for (route, provider, failure), told in zip(calls, answers, strict=True):
                deployment.told[f"raw {provider} {route.method} {route.path} {failure}"] = told
        for failure in ("json", "repeat_401", "repeat_429", "json", "repeat_401", *FAILURES):
            deployment.told[f"raw {SEVERAL} {failure}"] = raw(sandbox, ROUTES[0], SEVERAL, failure)
        yield deployment
    finally:
        deployment.stop()


def test_every_call_was_answered_and_every_key_was_used(deployment: Deployment) -> None:
    assert len(deployment.told) == len(ROUTES) * len(FAILURES) + len(
        BROKEN
    )  # c-several, and two routes that differ by body alone
    for name, told in deployment.told.items():
        assert told.startswith(b"HTTP/1.1 "), name
    heads = b"".join(head for head, _ in deployment.double.requests)
    for canary in deployment.canaries[: -len(BROKEN)]:
        assert canary.encode() in heads
    assert deployment.sandbox.token.encode() not in heads
    # The search can find: the same words in what the upstream said.
    assert search({"upstream": heads}, deployment.secrets()) == ["upstream"]
    log = deployment.gateway.log.read_text()
    for name in ("SEVERAL_0", "SEVERAL_1", "SEVERAL_2"):
        assert f"key {name} of {SEVERAL}: " in log, "rests, and is told by its name"
    assert any(b"x-choir-request-id" in told and b" 502 " in told[:16] for told in deployment.told.values())


def test_no_client_is_told_a_key(deployment: Deployment) -> None:
    assert search(deployment.told, deployment.secrets()) == []
    assert search(deployment.told, [deployment.sandbox.token.encode()]) == []


def test_no_sdk_shows_a_key(deployment: Deployment) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    shown: dict[str, bytes] = {}
    try:
        with sdk_calls(deployment.sandbox) as acts:
            for failure in ("repeat_400", "repeat_401", "repeat_500", "repeat_gzip", "reset", "cut", "stall"):
                for name, act in acts.items():
                    shown[f"{name} {failure}"] = what_a_client_shows(act, failure)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    shown["their debug logs"] = stream.getvalue().encode()
    assert b"error" in shown["their debug logs"].lower()
    assert search(shown, deployment.secrets()) == []


def test_no_sink_holds_a_key_or_the_token(deployment: Deployment) -> None:
    gateway, sandbox = deployment.gateway, deployment.sandbox
    assert gateway.ask({"op": "reload"})["ok"]
    (gateway.folder / "c-openai.key").write_text("x")
    sinks = gateway.sinks()  # log (stdout and stderr), ledger, journal
    sinks["metrics"] = gateway.metrics_text().encode()
    sinks["status"] = json.dumps(gateway.ask({"op": "status"})).encode()
    sinks["reload"] = json.dumps(gateway.ask({"op": "reload"})).encode()
    with gateway._news:
        sinks["events"] = repr(gateway._told).encode() + repr(gateway.events).encode()
    for words in (("usage", "--json", "--limit", "100000"), ("config", "check")):
        config = ("--config", str(gateway.config)) if words[0] == "config" else ()
        done = subprocess.run(
            [sys.executable, "-m", "choir.cli.main", *words, *config, "--state", str(gateway.state.root)],
            capture_output=True,
            timeout=60,
        )
        sinks[words[0]] = done.stdout + done.stderr
    for pid in (gateway.service.pid, gateway.worker_pid):
        for name in ("cmdline", "environ", "comm"):
            with contextlib.suppress(PermissionError):
                sinks[f"{pid} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    assert {"metrics", "status", "events", "usage"} <= sinks.keys()
    assert any(name.endswith("usage.db") for name in sinks)
    assert len(sinks["usage"]) > 100_000, "all calls are in it"
    assert b'"sandbox_id"' in next(content for name, content in sinks.items() if name.endswith("gateway.log"))
    keys_of_choir = {str(gateway.state.token_key)}
    assert search({name: text for name, text in sinks.items() if name not in keys_of_choir}, deployment.secrets()) == []
    assert search(sinks, [sandbox.token.encode(), sandbox.token.rpartition(".")[2].encode()]) == []


def test_records_tell_what_happened_without_a_payload(deployment: Deployment) -> None:
    records = deployment.gateway.ledger()
    outcomes = {record.outcome for record in records}
    assert {"ok", "cut", "upstream:http_400", "upstream:http_401", "upstream:reset", "upstream:redirect"} <= outcomes
    assert {"upstream:first_byte_timeout", "upstream:unreachable", "upstream:malformed"} <= outcomes
    assert not any("hello" in repr(record) for record in records)
