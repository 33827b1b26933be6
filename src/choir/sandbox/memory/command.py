"""One question to the memory from outside: ``python -m choir.sandbox.memory.command``, JSON lines over stdio.

It runs in a sandbox of its own over the home in question (``choir.app.memory``), so that nothing on the host opens a
database that an agent could write.

In: ``{"op": NAME, "body": {…}}`` with a name of ``http_api.ROUTES``, or ``export``, or ``import`` followed by one line
an occurrence. Out: ``{"result": …}`` or ``{"error": …}``; before it, for ``export``, one line an occurrence.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from choir.errors import ChoirError
from choir.sandbox.database import database_path
from choir.sandbox.memory.actor import MemoryState
from choir.sandbox.memory.http_api import ROUTES, parse
from choir.sandbox.memory.model import Draft, MemoryStoreError, RebuildingError
from choir.sandbox.memory.store import MemoryStore

BATCH = 500


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """An occurrence as ``MemoryStore.export`` gives it. Its id and hash are not taken over: items get theirs here."""

    collection: str
    content: str
    source_ref: str = ""
    thread: str | None = None
    created_at: float | None = None
    item_id: str = ""
    chunk_hash: str = ""


def main() -> int:
    """Answer the one question on standard input."""
    source, out = sys.stdin.buffer, sys.stdout.buffer
    try:
        answer: dict[str, Any] = {"result": _answer(msgspec.json.decode(source.readline()), source, out)}
    except ChoirError as error:
        answer = {"error": error.as_dict()}
    out.write(msgspec.json.encode(answer) + b"\n")
    out.flush()
    return 0


def _answer(asked: dict[str, Any], source: IO[bytes], out: IO[bytes]) -> Any:
    path = database_path(os.environ["DATABASE_URL"])
    if asked["op"] == "export":
        with contextlib.closing(MemoryStore(path)) as store:
            count = 0
            for row in store.export():
                out.write(msgspec.json.encode(row) + b"\n")
                count += 1
            return {"occurrences": count}
    if asked["op"] == "import":
        with contextlib.closing(MemoryStore(path)) as store:
            return take(store, source)
    message = parse(ROUTES[asked["op"]], msgspec.json.encode(asked["body"]))
    with contextlib.closing(MemoryState(path)) as state:
        try:
            return state.handle(message)
        except RebuildingError:
            state.mend()  # nobody else may be there to do it
            return state.handle(message)


def take(store: MemoryStore, lines: IO[bytes]) -> dict[str, int]:
    """Remember each line, batch by batch.

    Raises:
        MemoryStoreError: ``bad_line``, and those of ``ingest``; the lines of earlier batches are remembered.
    """
    inserted = duplicates = 0
    batch: list[Draft] = []
    for draft in _drafts(lines):
        batch.append(draft)
        if len(batch) == BATCH:
            made = store.ingest(batch)
            duplicates += sum(each.duplicate for each in made)
            inserted += sum(not each.duplicate for each in made)
            batch = []
    made = store.ingest(batch)
    duplicates += sum(each.duplicate for each in made)
    inserted += sum(not each.duplicate for each in made)
    return {"inserted": inserted, "duplicates": duplicates}


def _drafts(lines: IO[bytes]) -> Iterator[Draft]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = msgspec.json.decode(line, type=Line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise MemoryStoreError(
                "bad_line",
                f"Line {number} is no remembered item: {error}.",
                "A line has collection and content, and may have source_ref, thread and created_at, as an export has.",
            ) from error
        yield Draft(given.collection, given.content, given.source_ref, given.thread, given.created_at)


if __name__ == "__main__":
    sys.exit(main())
