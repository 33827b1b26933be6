"""A gateway with a canary for a key, an upstream that fails in every way, and a search of every place it could leak to.

The canary's gateway is a real one, in a state folder of its own that is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from choir import config as configuration
from choir import contract, ids, tokens
from choir.app.secrets import stored_key
from choir.app.up import start_gateway
from choir.control_client import GatewayControl
from choir.paths import State

FAILURES = ("answers", "refuses (401)", "breaks (500)", "resets")


@dataclass(frozen=True)
class Outcome:
    """Of one kind of call."""

    failure: str
    tried: str
    came_back: str
    ok: bool


class Upstream:
    """Answers once per connection, in the way it was told; remembers whether the key came."""

    def __init__(self, canary: bytes) -> None:
        self.canary = canary
        self.failure = FAILURES[0]
        self.saw_key = False
        self.saw_token = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.saw_key = self.canary in head
            self.saw_token = tokens.PREFIX.encode() in head
            if self.failure == FAILURES[3]:
                writer.transport.abort()
                return
            status = {FAILURES[0]: b"200 OK", FAILURES[1]: b"401 Unauthorized"}.get(self.failure, b"500 Oh")
            # Providers do repeat a refused key, in headers and in the error's text.
            body = b'{"error": {"message": "wrong key %b"}}' % self.canary if self.failure == FAILURES[1] else b"{}"
            writer.write(
                b"HTTP/1.1 %b\r\nx-echo: %b\r\nset-cookie: k=%b\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b"
                % (status, self.canary, self.canary, len(body), body)
            )
            await writer.drain()
        writer.close()


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
    """Every kind of failure, each with what came back, and last where the canary was found."""
    canary = f"sk-canary-{secrets.token_hex(24)}"
    upstream = Upstream(canary.encode())
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    outcomes: list[Outcome] = []
    answers = b""
    with tempfile.TemporaryDirectory(prefix="choir-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        port = server.sockets[0].getsockname()[1]
        async with _gateway(Path(folder), canary, port) as (state, control):
            sandbox_id = ids.new_id()
            token = tokens.sign(stored_key(state.token_key), sandbox_id)
            await control.attach(sandbox_id, "canary", "probe", listener, lease_s=contract.LEASE_SECONDS)
            for failure in FAILURES:
                upstream.failure, upstream.saw_key, upstream.saw_token = failure, False, False
                status, answer = await asyncio.to_thread(_call, listener.getsockname()[1], token)
                answers += answer
                carried = "carried" if upstream.saw_key else "NOT carried"
                ok = upstream.saw_key and not upstream.saw_token and canary.encode() not in answer
                leak = " and the answer shows it" if canary.encode() in answer else ""
                outcomes.append(
                    Outcome(failure, "call it", f"status {status}; the key was {carried} upstream{leak}", ok)
                )
            await control.detach(sandbox_id)
        server.close()
        await server.wait_closed()
        files = [path for path in state.root.rglob("*") if path.is_file()]
        needles = (canary.encode(), token.rpartition(".")[2].encode())
        leaks = [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]
        outcomes.append(
            Outcome(
                "anything",
                f"search {len(files)} files of logs, ledger and state for key and token",
                f"found in {', '.join(leaks)}" if leaks else "not there",
                not leaks and len(files) > 1,
            )
        )
    return outcomes


def _call(port: int, token: str) -> tuple[int, bytes]:
    """Status, and head and body as one text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(
            "POST",
            "/provider/v1/canary/chat/completions",
            b'{"model": "m", "messages": []}',
            {"Authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        answer = connection.getresponse()
        return answer.status, f"{answer.getheaders()}".encode() + answer.read()
    except (http.client.HTTPException, OSError) as error:
        return 0, str(error).encode()
    finally:
        connection.close()
