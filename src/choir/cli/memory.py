"""``choir memory``: what a sandbox remembers, from outside."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from choir.app import memory as outside
from choir.cli.usage import table
from choir.errors import ChoirError
from choir.paths import State

Ask = Callable[..., Any]
"""``ask(op, body, lines=…, each=…)``."""

_SHOWN = 200


def memory(state: State, arguments: argparse.Namespace) -> int:
    """
    Raises:
        ChoirError: the memory's own reason, or why it could not be asked.
    """
    home = (
        outside.run_home(state, Path(arguments.run))
        if arguments.run
        else outside.desktop_home(state, arguments.sandbox)
    )

    def ask(
        op: str,
        body: dict[str, Any] | None = None,
        lines: Iterable[bytes] = (),
        each: Callable[[bytes], None] | None = None,
    ) -> Any:
        question = {"op": op, "body": body or {}}
        return asyncio.run(outside.ask(arguments.config, state, home, question, lines, each))

    answer, text = ACTIONS[arguments.action](ask, arguments)
    if text is not None:
        print(json.dumps(answer) if arguments.json else text)
    return 0


def _search(ask: Ask, arguments: argparse.Namespace) -> tuple[Any, str]:
    query = " ".join(arguments.query)
    if arguments.collection:
        found = ask("search", {"collection": arguments.collection, "query": query, "k": arguments.k})
    else:
        found = ask("context_snapshot", {"query": query, "max_items": arguments.k})
    rows: list[tuple[str, ...]] = [
        (
            f"{each['relevance']:.2f}",
            _when(each["item"]["created_at"]),
            each["item"]["collection"],
            each["item"]["source_ref"] or "-",
            each["item"]["item_id"],
            _line(each["item"]["content"]),
        )
        for each in found
    ]
    headings = ("relevance", "when", "collection", "source", "id", "content")
    return found, table(headings, rows) if rows else "Nothing found."


def _explain(ask: Ask, arguments: argparse.Namespace) -> tuple[Any, str]:
    found = ask("explain", {"item_id": arguments.item, "query": " ".join(arguments.query)})
    rows: list[tuple[str, ...]] = [
        (
            share["term"],
            share["origin"],
            f"{share['idf']:.2f}",
            f"{share['share']:.2f}",
            f"a neighbour ({share['via']}), ×{share['decay']:g}" if share["via"] else "the item itself",
        )
        for share in sorted(found["shares"], key=lambda each: -each["share"])
    ]
    item = found["item"]
    lines = [f"{item['item_id']}  {_when(item['created_at'])}  {item['collection']}  {_line(item['content'])}", ""]
    lines += [
        table(("term", "from", "rarity", "share", "found in"), rows) if rows else "No word of the query is in it."
    ]
    lines += [f"× {name} {factor:.3f}" for name, factor in found["factors"].items()]
    if found["missing"]:
        lines.append(f"not found: {', '.join(found['missing'])}")
    lines.append(f"relevance {found['relevance']:.3f}, of an ideal score of {found['ideal']:.2f}")
    return found, "\n".join(lines)


def _forget(ask: Ask, arguments: argparse.Namespace) -> tuple[Any, str]:
    body: dict[str, Any] = {"item_ids": arguments.id, "source_ref": arguments.source}
    if arguments.before is not None:
        body["before"] = outside.unix_time(arguments.before)
    gone = ask("forget", body)
    return {"forgotten": gone}, f"Forgot {_count(gone, 'item')}."


def _export(ask: Ask, arguments: argparse.Namespace) -> tuple[Any, str | None]:
    if arguments.output is None:
        ask("export", each=sys.stdout.buffer.write)
        sys.stdout.flush()
        return None, None
    partial = f"{arguments.output}.partial"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                answer = ask("export", each=file.write)
            os.rename(partial, arguments.output)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise ChoirError("export_failed", f"Cannot write {arguments.output}: {error.strerror}.") from error
    return answer, f"Wrote {_count(answer['occurrences'], 'line')} to {arguments.output}."


def _import(ask: Ask, arguments: argparse.Namespace) -> tuple[Any, str]:
    name = arguments.file

    def send(file: IO[bytes]) -> Any:
        return ask("import", lines=file)

    try:
        if name == "-":
            answer = send(sys.stdin.buffer)
        else:
            with open(name, "rb") as file:
                answer = send(file)
    except OSError as error:
        raise ChoirError("import_failed", f"Cannot read {name}: {error.strerror}.") from error
    known = _count(answer["duplicates"], "line")
    return answer, f"Took over {_count(answer['inserted'], 'item')}; {known} had known content."


def _stats(ask: Ask, _arguments: argparse.Namespace) -> tuple[Any, str]:
    found = ask("stats")
    rows: list[tuple[str, ...]] = [(name, f"{count:,}") for name, count in found["items"].items()]
    rows += [
        ("repeats", f"{found['repeats']:,}"),
        ("index", f"{found['index_bytes'] / 1e6:,.1f} MB"),
        ("file", f"{found['file_bytes'] / 1e6:,.1f} MB"),
    ]
    return found, "\n".join([table(("what", "how much"), rows), *(f"note: {note}" for note in found["notes"])])


ACTIONS: dict[str, Callable[[Ask, argparse.Namespace], tuple[Any, str | None]]] = {
    "search": _search,
    "explain": _explain,
    "forget": _forget,
    "export": _export,
    "import": _import,
    "stats": _stats,
}


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M")


def _line(content: str) -> str:
    """One line that a terminal can show; what is in it was written by an agent."""
    text = " ".join("".join(c if c.isprintable() else " " for c in content[: _SHOWN * 4]).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
