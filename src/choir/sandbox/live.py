"""What an open page is told as it happens, and what it asks for: ``WS /api/desktop``, JSON messages.

Out: ``{"type": "hello", "models"}`` (``AgentService.models``); ``{"type": "layout", "windows": [Window]}``, now and
after each change by whoever, and ``done`` after each command of this page's own; ``{"type": "runs", "events": [{"kind",
"data"}]}``, events of ``choir.sandbox.agent.events``: those of the past up to ``{"type": "now"}``, then as they come;
``{"type": "refused", "note"}``.

In: ``{"type": "window", ...}`` with a command of ``choir.sandbox.windows.changed``; ``{"type": "prompt", "text",
"model"}``, ``stop``, ``clear``, and ``warm`` with a model when a prompt is being typed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from choir.errors import ChoirError
from choir.sandbox.agent import events as kinds
from choir.sandbox.agent.service import AgentService
from choir.sandbox.event_store import Event, EventStore
from choir.sandbox.windows import Layout, Windows, as_data

BACKLOG = 256
PAST_EVENTS = 5_000
"""How far back a page is told what was said, at most."""
PARCEL = 128 * 1024
"""Characters of one message, about."""
TRY_AGAIN_LATER = 1013

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Tell = Callable[[Mapping[str, Any]], Awaitable[None]]


class Live:
    """
    Args:
        closed: called with the id of a terminal's window that was closed.
    """

    def __init__(
        self, agent: AgentService, store: EventStore, windows: Windows, closed: Callable[[str], Awaitable[None]]
    ) -> None:
        self._agent = agent
        self._store = store
        self._windows = windows
        self._closed = closed
        self._pages: set[asyncio.Queue[Mapping[str, Any] | None]] = set()

    async def serve(self, receive: Receive, send: Send) -> None:
        """One page, until it goes."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue(BACKLOG)

        async def tell(message: Mapping[str, Any]) -> None:
            await send({"type": "websocket.send", "text": json.dumps(message, separators=(",", ":"))})

        async def follow(what: Awaitable[None]) -> None:
            try:
                await what
            except ChoirError as error:
                await tell({"type": "refused", "note": error.message})
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})

        self._pages.add(queue)
        following: list[asyncio.Task[None]] = []
        try:
            await tell({"type": "hello", "models": self._agent.models()})
            following = [
                asyncio.create_task(follow(self._follow_layout(queue, tell))),
                asyncio.create_task(follow(self._follow_runs(tell))),
            ]
            while (message := await receive())["type"] != "websocket.disconnect":
                try:
                    await self._obey(json.loads(message.get("text") or "null"), queue)
                except ChoirError as error:
                    await tell({"type": "refused", "note": error.message})
                except (ValueError, TypeError, KeyError):
                    await tell({"type": "refused", "note": "That was not understood."})
        finally:
            self._pages.discard(queue)
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    async def _follow_layout(self, queue: asyncio.Queue[Mapping[str, Any] | None], tell: Tell) -> None:
        await tell(_layout(await self._windows.layout()))
        while (message := await queue.get()) is not None:
            await tell(message)

    async def _follow_runs(self, tell: Tell) -> None:
        await self._agent.load()
        cleared = await self._store.latest(kinds.CLEARED)
        first = await self._store.read(0, 1)
        after = max(
            cleared.sequence if cleared else 0,
            await self._store.last() - PAST_EVENTS,
            first[0].sequence - 1 if first else 0,
        )
        while page := await self._store.read(after):
            for events in parcels(told(page)):
                await tell({"type": "runs", "events": events})
            after = page[-1].sequence
        await tell({"type": "now"})
        async for event in self._agent.subscribe(after):
            await tell({"type": "runs", "events": list(told([event]))})

    async def _obey(self, message: dict[str, Any], queue: asyncio.Queue[Mapping[str, Any] | None]) -> None:
        match message["type"]:
            case "window":
                try:
                    await self._change(message)
                finally:
                    if queue in self._pages:
                        queue.put_nowait({"type": "done"})
            case "prompt":
                await self._agent.prompt(str(message["text"]), str(message.get("model") or ""))
            case "stop":
                await self._agent.stop()
            case "clear":
                await self._agent.clear()
            case "warm":
                self._agent.warm(str(message.get("model") or ""))
            case _:
                raise ValueError("unknown type")

    async def _change(self, command: Mapping[str, Any]) -> None:
        before = await self._windows.layout()
        layout = await self._windows.change(command)
        if layout is None:
            return
        for queue in list(self._pages):
            if queue.qsize() > BACKLOG - 2:  # it connects again and is told all
                self._pages.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(_layout(layout))
        for gone in {each.id for each in before if each.app == "terminal"} - {each.id for each in layout}:
            await self._closed(gone)


def _layout(layout: Layout) -> Mapping[str, Any]:
    return {"type": "layout", **as_data(layout)}


def told(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """What a page is told of ``events``: those of runs, pieces of one text put together."""
    held: dict[str, Any] | None = None
    for event in events:
        if event.kind not in kinds.KINDS:
            continue
        same = held and held["kind"] == event.kind and held["data"].get("run") == event.data.get("run")
        if (
            held
            and same
            and (event.kind, held["data"].get("call"))
            in (
                (kinds.TEXT, None),
                (kinds.OUTPUT, event.data.get("call")),
            )
        ):
            held["data"]["text"] += event.data["text"]
            continue
        if held:
            yield held
        held = {"kind": event.kind, "data": dict(event.data)}
    if held:
        yield held


def parcels(events: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """``events`` in lists of about ``PARCEL`` characters."""
    parcel: list[dict[str, Any]] = []
    size = 0
    for event in events:
        parcel.append(event)
        size += sum(len(value) for value in event["data"].values() if isinstance(value, str)) + 100
        if size > PARCEL:
            yield parcel
            parcel, size = [], 0
    if parcel:
        yield parcel
