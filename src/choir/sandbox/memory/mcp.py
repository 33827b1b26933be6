"""The sandbox's memory for agent CLIs that speak MCP: ``python -m choir.sandbox.memory.mcp [DATABASE_URL]``, on stdio.

Works on the database itself, by default that of the variable ``DATABASE_URL``, so that it needs nothing else running:
in a desktop's sandbox it shares the file with the memory actor there, in a ``choir run`` it is the memory's only
process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from choir.errors import ChoirError
from choir.sandbox.actor import Message
from choir.sandbox.database import database_path
from choir.sandbox.memory import messages as m
from choir.sandbox.memory.actor import memory_actor
from choir.sandbox.memory.model import Draft, Item

INSTRUCTIONS = (
    "What was said, decided and done in this sandbox before. Recall before you start on something that may have a"
    " history; remember what a later session should know. Search is by words: use the words that the text would have."
)
MOST_RESULTS = 50
MOST_TOKENS = 20_000

Collection = Literal["user_inputs", "version_snapshots", "run_trajectories", "doc_trajectories"]


def server(path: str) -> MCPServer[None]:
    """The MCP server on the memory in the SQLite file ``path``. Refusals of the memory are tool errors."""
    memory = memory_actor(path)

    @asynccontextmanager
    async def lifespan(_: MCPServer[None]) -> AsyncIterator[None]:
        memory.start()
        try:
            yield
        finally:
            await memory.stop()

    async def ask(message: Message[Any]) -> Any:
        try:
            return await memory.ask(message)
        except ChoirError as error:
            raise ToolError(f"{error.message} {error.hint}".strip()) from error

    mcp: MCPServer[None] = MCPServer("choir-memory", instructions=INSTRUCTIONS, lifespan=lifespan, log_level="WARNING")

    @mcp.tool(structured_output=False)
    async def remember(
        content: Annotated[str, Field(description="What to remember, in whole sentences.")],
        source: Annotated[str, Field(description="Where it comes from, e.g. a file or an address.")] = "",
        thread: Annotated[
            str, Field(description="What it is a part of; things of one thread are found together.")
        ] = "",
        collection: Collection = "doc_trajectories",
    ) -> str:
        """Remember something for later sessions. The same content twice is one item."""
        made = await ask(m.Ingest(Draft(collection, content, source, thread or None)))
        return f"{'Known already' if made.duplicate else 'Remembered'}: {made.item_id}"

    @mcp.tool(structured_output=False, annotations=ToolAnnotations(read_only_hint=True))
    async def recall(
        query: Annotated[str, Field(description="Words to look for.")],
        results: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = 8,
        collection: Collection | None = None,
    ) -> str:
        """Search what is remembered, the best first: id, relevance from 0 to 1, time, source, content."""
        wanted = m.GetContextSnapshot(query, results) if collection is None else None
        found = await ask(wanted or m.ArtifactSearch(collection or "", query, results))
        return "\n\n".join(_shown(each.item, each.relevance) for each in found) or "Nothing found."

    @mcp.tool(structured_output=False, annotations=ToolAnnotations(read_only_hint=True))
    async def context(
        objective: Annotated[str, Field(description="What you are about to do.")],
        tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS, description="How long it may be.")] = 1500,
    ) -> str:
        """What is remembered that bears on a task, put together to fit."""
        return (await ask(m.ArtifactContextPack(objective, tokens))).text or "Nothing found."

    @mcp.tool(structured_output=False, annotations=ToolAnnotations(destructive_hint=True))
    async def forget(
        item_ids: Annotated[list[str], Field(description="Ids, as recall shows them.", min_length=1, max_length=500)],
    ) -> str:
        """Forget items, for good."""
        return f"Forgotten: {await ask(m.Forget(item_ids=item_ids))}"

    return mcp


def _shown(item: Item, relevance: float) -> str:
    at = datetime.fromtimestamp(item.created_at, UTC).strftime("%Y-%m-%d %H:%M")
    source = f" {item.source_ref}" if item.source_ref else ""
    return f"[{item.item_id} {relevance:.2f} {at} {item.collection}{source}]\n{item.content}"


def main() -> int:
    """Serve until standard input ends."""
    try:
        path = database_path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DATABASE_URL", ""))
    except ValueError as error:
        print(f"choir-memory: {error}", file=sys.stderr)
        return 64
    server(path).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
