"""The conversation: kept in SQLite, answered by the agent loop, followed by any number of pages.

A run belongs to the conversation and not to a page: it goes on when the browser is closed, and a page that comes
later sees what has been said so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from choir.sandbox.agent_loop import AgentError, Turn, sentence

MAX_PROMPT_CHARACTERS = 200_000
FOLLOWER_BACKLOG = 4096

Event = dict[str, Any]
"""``{"type": "message" | "token" | "end" | ...}``; see ``Conversation.follow``."""


class Model(Protocol):
    """What is needed of ``choir.sandbox.agent_loop.AgentLoop``."""

    async def warm(self) -> None: ...
    def answer(self, turns: list[Turn]) -> AsyncIterator[str]: ...


class Messages:
    """The stored messages. ``state`` is running, done, stopped or failed; ``note`` says why it failed."""

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, at REAL NOT NULL, role TEXT NOT NULL,"
            " text TEXT NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL DEFAULT '') STRICT"
        )
        # What was under way when the sandbox ended last time will not go on.
        self._db.execute("UPDATE messages SET state = 'stopped' WHERE state = 'running'")

    def add(self, role: str, text: str, state: str) -> int:
        cursor = self._db.execute(
            "INSERT INTO messages (at, role, text, state) VALUES (?, ?, ?, ?)", (time.time(), role, text, state)
        )
        return int(cursor.lastrowid or 0)

    def finish(self, message: int, text: str, state: str, note: str) -> None:
        self._db.execute("UPDATE messages SET text = ?, state = ?, note = ? WHERE id = ?", (text, state, note, message))

    def clear(self) -> None:
        self._db.execute("DELETE FROM messages")

    def all(self) -> list[Event]:
        rows = self._db.execute("SELECT id, at, role, text, state, note FROM messages ORDER BY id")
        return [dict(zip(("id", "at", "role", "text", "state", "note"), row, strict=True)) for row in rows]

    def close(self) -> None:
        self._db.close()


def database_path(url: str) -> str:
    """The file of an ``sqlite:////absolute/path`` URL.

    Raises:
        ValueError: it is none.
    """
    prefix = "sqlite:///"
    if not url.startswith(prefix + "/"):
        raise ValueError("DATABASE_URL must be sqlite:////absolute/path")
    return url[len(prefix) :]


class Conversation:
    """One conversation with at most one run at a time."""

    def __init__(self, messages: Messages, model: Model) -> None:
        self._messages = messages
        self._model = model
        self._followers: set[asyncio.Queue[Event]] = set()
        self._run: asyncio.Task[None] | None = None
        self._running: Event | None = None
        self._warming: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        return self._run is not None and not self._run.done()

    @contextlib.contextmanager
    def follow(self) -> Iterator[tuple[Event, Callable[[], Any]]]:
        """(first event, awaitable next event).

        ``history`` with all ``messages``; then ``message`` (one was added), ``token`` (``id``, ``text`` to append),
        ``end`` (``id``, ``state``, ``note``) and ``cleared``.
        """
        queue: asyncio.Queue[Event] = asyncio.Queue(FOLLOWER_BACKLOG)
        self._followers.add(queue)
        try:
            yield {"type": "history", "messages": self._current(), "busy": self.busy}, queue.get
        finally:
            self._followers.discard(queue)

    def prompt(self, text: str) -> None:
        """Ask.

        Raises:
            AgentError: empty, too long, or the last answer is not finished.
        """
        text = text.strip()
        if not text:
            raise AgentError("Type something first.")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise AgentError(f"That is longer than {MAX_PROMPT_CHARACTERS:,} characters.")
        if self.busy:
            raise AgentError("The last answer is not finished yet; stop it or wait.")
        self._messages.add("user", text, "done")
        turns = [{"role": each["role"], "content": each["text"]} for each in self._messages.all()]
        answer = self._messages.add("assistant", "", "running")
        self._running = self._messages.all()[-1]
        self._run = asyncio.create_task(self._answer(answer, turns))
        for message in self._messages.all()[-2:]:
            self._tell({"type": "message", "message": message})

    def stop(self) -> None:
        """End the run, if there is one; what has come stays."""
        if self._run is not None:
            self._run.cancel()

    async def close(self) -> None:
        """End the run and wait until its end is stored."""
        self.stop()
        tasks = [task for task in (self._run, self._warming) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def clear(self) -> None:
        """Forget everything said."""
        self.stop()
        self._running = None
        self._messages.clear()
        self._tell({"type": "cleared"})

    def warm(self) -> None:
        """Get ready for a prompt that is being typed."""
        if self._warming is None:
            self._warming = asyncio.create_task(self._warm())

    async def _warm(self) -> None:
        with contextlib.suppress(AgentError, ImportError):  # the prompt itself will say so
            await self._model.warm()

    async def _answer(self, number: int, turns: list[Turn]) -> None:
        running = self._running
        assert running is not None
        state, note = "done", ""
        try:
            async for piece in self._model.answer(turns):
                running["text"] += piece
                self._tell({"type": "token", "id": number, "text": piece})
        except asyncio.CancelledError:
            state = "stopped"
        except AgentError as error:
            state, note = "failed", str(error)
        except Exception as error:  # a page must never wait for an end that does not come
            state, note = "failed", sentence(error)
        self._messages.finish(number, running["text"], state, note)
        if self._running is running:
            self._running = None
        self._tell({"type": "end", "id": number, "state": state, "note": note})

    def _current(self) -> list[Event]:
        messages = self._messages.all()
        if self._running is not None and messages and messages[-1]["id"] == self._running["id"]:
            messages[-1]["text"] = self._running["text"]
        return messages

    def _tell(self, event: Event) -> None:
        for queue in list(self._followers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:  # it will connect again and see the history
                self._followers.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait({"type": "behind"})
