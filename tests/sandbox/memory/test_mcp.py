"""The MCP server as its own process, spoken to by the official SDK's client over stdio."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

COMMAND = ["-I", "-m", "choir.sandbox.memory.mcp"]


def with_client(path: str, test: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        parameters = StdioServerParameters(
            command=sys.executable, args=COMMAND, env={"DATABASE_URL": f"sqlite:///{path}"}
        )
        async with Client(parameters) as client:
            await test(client)

    asyncio.run(asyncio.wait_for(main(), 60))


async def call(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    (content,) = result.content
    text = str(content.text)  # type: ignore[union-attr]
    return f"ERROR {text}" if result.is_error else text


def test_remember_recall_context_forget(path: str) -> None:
    async def test(client: Client) -> None:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"remember", "recall", "context", "forget"}
        said = await call(client, "remember", content="The deploy key rotates on Mondays.", source="wiki/deploy.md")
        first = re.fullmatch(r"Remembered: (\w{26})", said)
        assert first
        again = await call(client, "remember", content="The deploy key rotates on Mondays.")
        assert again == f"Known already: {first[1]}"
        await call(client, "remember", content="likes green tea", collection="user_inputs")
        found = await call(client, "recall", query="when do deploy keys rotate?", results=1)
        assert found.startswith(f"[{first[1]} 0.")
        assert "wiki/deploy.md" in found
        assert "Mondays" in found
        assert "tea" in await call(client, "recall", query="tea", collection="user_inputs")
        assert await call(client, "recall", query="tea", collection="run_trajectories") == "Nothing found."
        assert "Mondays" in await call(client, "context", objective="plan the deploy", tokens=200)
        assert await call(client, "forget", item_ids=[first[1]]) == "Forgotten: 1"
        assert await call(client, "recall", query="deploy") == "Nothing found."
        assert re.match("ERROR .*There is no item", await call(client, "forget", item_ids=[first[1]]))
        assert (await call(client, "recall", query="x", results=0)).startswith("ERROR")

    with_client(path, test)
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT content FROM memory_items").fetchall() == [("likes green tea",)]


def test_a_store_that_cannot_be_used_is_said(path: str) -> None:
    Path(path).write_bytes(b"no database" * 1000)

    async def test(client: Client) -> None:
        said = await call(client, "recall", query="x")
        assert said.startswith("ERROR")
        assert "damaged" in said

    with_client(path, test)


def test_without_a_database_it_says_so() -> None:
    done = subprocess.run([sys.executable, *COMMAND], env={}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 64
    assert "DATABASE_URL" in done.stderr
