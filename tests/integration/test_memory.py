"""What a sandbox remembers: written inside by an MCP client, by ``choir memory`` from outside, running or stopped."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from .conftest import World

REMEMBER = """
import asyncio, os, sys
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

async def main():
    command = ["-I", "-m", "choir.sandbox.memory.mcp"]
    environment = {"DATABASE_URL": os.environ["DATABASE_URL"]}
    async with Client(StdioServerParameters(command=sys.executable, args=command, env=environment)) as client:
        arguments = {"content": "The zanzibar build needs two cores.", "source": "notes"}
        print((await client.call_tool("remember", arguments)).content[0].text)
        print((await client.call_tool("recall", {"query": "zanzibar"})).content[0].text)

asyncio.run(main())
"""

LINES = [
    {"collection": "user_inputs", "content": "Use tabs in the makefile.", "thread": "t", "created_at": 1700000000.0},
    {"collection": "user_inputs", "content": "And spaces elsewhere.", "thread": "t", "created_at": 1700000001.0},
    {"collection": "doc_trajectories", "content": "The makefile builds the wheel.", "source_ref": "docs/build.md"},
]


def test_an_agent_in_choir_run_remembers_and_the_person_sees_it(world: World) -> None:
    (world.project / "agent.py").write_text(REMEMBER)
    done = world.choir("run", "--", "python", "agent.py")
    assert done.stdout.startswith("Remembered: "), done.stderr
    assert "zanzibar build" in done.stdout
    found = world.choir("memory", "search", "--run", ".", "zanzibar")
    assert "The zanzibar build needs two cores." in found.stdout, found.stderr
    assert "notes" in found.stdout


def test_the_memory_of_a_desktop_from_outside(world: World) -> None:
    world.up()
    assert world.choir("sandbox", "start").returncode == 0
    exported = world.project / "memory.jsonl"
    exported.write_text("".join(json.dumps(line) + "\n" for line in LINES))

    def memory(*arguments: str, stdin: str = "") -> str:
        done = world.choir("memory", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert memory("import", str(exported)) == "Took over 3 items; 0 lines had known content.\n"
    found = json.loads(memory("search", "makefile", "tabs", "-k", "1", "--json"))
    (best,) = found
    assert best["item"]["content"] == "Use tabs in the makefile."
    shown = memory("search", "makefile")
    assert "docs/build.md" in shown
    assert "Use tabs in the makefile." in shown
    why = memory("explain", best["item"]["item_id"], "tabs", "in", "makefiles")
    assert "tab" in why
    assert "relevance 0." in why

    world.choir("sandbox", "stop")  # and now the same with nobody home
    first = memory("export")
    assert [json.loads(line)["content"] for line in first.splitlines()] == [str(line["content"]) for line in LINES]
    again = memory("forget", "--before", "2024-01-01")
    assert again == "Forgot 2 items.\n"
    assert memory("search", "tabs") == "Nothing found.\n"
    assert memory("import", "-", stdin=first).startswith("Took over 2 items; 1 line had")
    assert json.loads(memory("stats", "--json"))["items"]["user_inputs"] == 2
    kept = [{k: v for k, v in json.loads(line).items() if k != "item_id"} for line in memory("export").splitlines()]
    assert sorted(map(str, kept[:3])) == sorted(
        str({k: v for k, v in json.loads(line).items() if k != "item_id"}) for line in first.splitlines()
    )


def test_errors_are_sentences(world: World) -> None:
    done = world.choir("memory", "stats")
    assert done.returncode == 69
    assert "There is no sandbox" in done.stderr
    done = world.choir("memory", "search", "--run", ".", "x", "--collection", "nothing", "--json")
    assert json.loads(done.stdout)["error"]["reason"] == "unknown_collection"
    done = world.choir("memory", "import", "--run", ".", "-", stdin="{}\n")
    assert "Line 1 is no remembered item" in done.stderr
    assert world.choir("memory", "forget", "--run", ".").returncode == 64


def test_a_database_that_an_agent_made_is_never_opened_on_the_host(world: World) -> None:
    """A link in its place leads nowhere inside, and a hostile file harms a sandbox's process only."""
    assert world.choir("memory", "stats", "--run", ".").returncode == 0
    (home,) = (world.state / "homes").glob("run-*")
    database = home / ".choir" / "choir.db"
    secret = world.root / "secret.db"
    with sqlite3.connect(secret) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = secret.read_bytes()
    for path in database.parent.iterdir():
        path.unlink()
    os.symlink(secret, database)
    done = world.choir("memory", "import", "--run", ".", "-", stdin=json.dumps(LINES[0]) + "\n")
    assert done.returncode != 0
    assert "cannot be" in done.stderr
    assert secret.read_bytes() == before
    assert Path(f"{secret}-wal").exists() is False
