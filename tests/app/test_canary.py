from __future__ import annotations

import asyncio
from typing import Any

from choir.app import canary
from choir.paths import State


def test_the_canary_is_nowhere_and_no_trick_works() -> None:
    outcomes = asyncio.run(canary.run())
    assert [outcome for outcome in outcomes if not outcome.ok] == []
    assert [outcome.name for outcome in outcomes] == [
        *(f"canary key, provider {failure}" for failure in canary.FAILURES),
        "the sandbox's token upstream",
        "a host of the caller's",
        "malformed and unentitled calls",
        "a false listener",
        "a token after its lease",
        "canary key, every sink",
    ]


class Open:
    """A gateway that relays everything, token, hosts and all, and answers what the provider does."""

    def __init__(self, upstream: int, key: str) -> None:
        self.upstream, self.key = upstream, key

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ", 2)[1]
        port = int(path.split(b":")[2].split(b"/")[0]) if path.startswith(b"http:") else self.upstream
        there_reader, there = await asyncio.open_connection("127.0.0.1", port)
        there.write(head.replace(b"\r\n", b"\r\nx-key: %b\r\n" % self.key.encode(), 1))
        writer.write(await there_reader.read())
        there.close()
        writer.close()


def test_a_gateway_that_lets_everything_through_is_red() -> None:
    async def main() -> list[canary.Outcome]:
        key = "sk-canary-0"
        trap = canary.Upstream(key.encode())
        upstream = canary.Upstream(key.encode())
        servers = [await asyncio.start_server(each.serve, "127.0.0.1", 0) for each in (trap, upstream)]
        ports = [server.sockets[0].getsockname()[1] for server in servers]
        relay = await asyncio.start_server(Open(ports[1], key).serve, "127.0.0.1", 0)
        tricks = canary.Tricks(upstream, trap, relay.sockets[0].getsockname()[1], "choir-gt-01a.b.c")
        found = [await tricks.failure(failure) for failure in canary.FAILURES[:3]]
        found += [await tricks.carriers(), await tricks.hosts(f"127.0.0.1:{ports[0]}"), await tricks.malformed()]
        found.append(await tricks.after_its_lease(relay.sockets[0].getsockname()[1]))
        for server in (relay, *servers):
            server.close()
            await server.wait_closed()
        return found

    outcomes = asyncio.run(main())
    assert [outcome for outcome in outcomes if outcome.ok] == []


def test_a_control_that_takes_every_listener_is_red() -> None:
    class Control:
        async def attach(self, *arguments: Any, **more: Any) -> None:
            return

    outcome = asyncio.run(canary.false_listeners(Control()))  # type: ignore[arg-type]
    assert outcome.came_back == "taken: every address, not listening, datagram, unix"


def test_a_secret_in_any_sink_is_red(tmp_path: Any) -> None:
    state = State(tmp_path / "s").prepare()
    (state.logs / "a.log").write_text("nothing")
    (state.logs / "b.log").write_text("nothing")
    assert canary._leaks(state, ("secret",), b"metrics").ok
    assert not canary._leaks(state, ("secret",), b"metrics secret").ok
    assert not canary._leaks(state, ("secret",), b"").ok, "the metrics were not seen"
    (state.logs / "b.log").write_text("the secret is here")
    assert "b.log" in canary._leaks(state, ("secret",), b"metrics").came_back
