"""What the desktop answers to processes of its own sandbox, which come over the loopback: the memory, and no more."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from choir.sandbox.desktop import Desktop

INSIDE = ("127.0.0.1", 40000)


def answers(folder: Path, *scopes: dict[str, Any], body: bytes = b"") -> list[list[dict[str, Any]]]:
    async def main() -> list[list[dict[str, Any]]]:
        desktop = Desktop({"HOME": str(folder), "DATABASE_URL": f"sqlite:///{folder}/choir.db"}, str(folder))
        found = []
        for scope in scopes:
            sent: list[dict[str, Any]] = []

            async def receive(kind: str = scope["type"]) -> dict[str, Any]:
                if kind == "websocket":
                    return {"type": "websocket.connect"}
                return {"type": "http.request", "body": body}

            async def send(event: Any, sent: list[dict[str, Any]] = sent) -> None:
                sent.append(event)

            await desktop({"headers": [], "query_string": b"", "method": "GET", **scope}, receive, send)
            found.append(sent)
        await desktop.close()
        return found

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_the_memory(tmp_path: Path) -> None:
    scope = {"type": "http", "method": "POST", "client": INSIDE, "path": "/api/memory/ingest"}
    draft = {"collection": "user_inputs", "content": "likes tea"}
    (sent,) = answers(tmp_path, scope, body=json.dumps({"draft": draft}).encode())
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"])["result"]["duplicate"] is False


@pytest.mark.parametrize("path", ["/api/desktop", "/api/terminal/terminal-1", "/api/anything"])
def test_no_socket_of_the_page(tmp_path: Path, path: str) -> None:
    ((end,),) = answers(tmp_path, {"type": "websocket", "client": INSIDE, "path": path})
    assert (end["type"], end["code"]) == ("websocket.close", 1008)


def test_no_files(tmp_path: Path) -> None:
    path = "/api/files/list"
    (sent,) = answers(tmp_path, {"type": "http", "client": INSIDE, "path": path})
    assert sent[0]["status"] == 403
    (sent,) = answers(tmp_path, {"type": "http", "client": None, "path": path})
    assert sent[0]["status"] != 403
