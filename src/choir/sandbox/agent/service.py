"""The agent loop as a service: one conversation, at most one run at a time, all of it events in the event store.

A run belongs to the service and not to a page: it goes on when the browser is closed, and whoever comes later reads its
events from any sequence number on (``subscribe``). The model and the tools are in processes of their own (``worker``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from choir.errors import ChoirError
from choir.ids import new_id
from choir.sandbox.agent import events, providers, separation
from choir.sandbox.agent.coalesce import Coalescer
from choir.sandbox.agent.events import AgentError, Transcript
from choir.sandbox.agent.recollection import Recollection
from choir.sandbox.agent.run import Request
from choir.sandbox.agent.worker import Run, Worker
from choir.sandbox.event_store import Event, EventStore

MAX_PROMPT_CHARACTERS = 200_000
WINDOW_EVENTS = 20_000
"""How far back a conversation is rebuilt from when the sandbox starts."""


class AgentService:
    """
    Args:
        store: started.
        memory: what is remembered of runs, and shown to them.
        environment: the sandbox's own.
        state: the folder of the sandbox's own state, which runs are kept away from.
    """

    def __init__(self, store: EventStore, memory: Recollection, environment: Mapping[str, str], state: str) -> None:
        self._store = store
        self._memory = memory
        self._environment = environment
        self._state = state
        self._worker = Worker(environment)
        self._transcript: Transcript | None = None
        self._loading = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None
        self._stopped_by = ""
        self.busy = False
        """Whether a run is under way."""

    def models(self) -> list[dict[str, Any]]:
        """What a person can choose from, the default first: ``{"model": "PROVIDER/NAME", "provider", "tools"}``. Others
        of the same providers can be named too."""
        found = providers.choices(self._environment)
        return [{"model": each.name, "provider": each.provider, "tools": not each.plain} for each in found]

    def warm(self, model: str = "") -> None:
        """Get ready for a prompt that is being typed."""
        with contextlib.suppress(AgentError):  # the prompt itself will say so
            self._worker.warm(providers.choose(self._environment, model).family)

    async def prompt(self, text: str, model: str = "") -> str:
        """Begin a run; its id.

        Args:
            model: ``PROVIDER/NAME`` as in ``models``; "" is the default.

        Raises:
            AgentError: ``empty_prompt``, ``prompt_too_long``, ``busy`` or ``no_model``.
            EventStoreError: it could not be written down, and was not begun.
        """
        text = text.strip()
        if not text:
            raise AgentError("empty_prompt", "Type something first.")
        if len(text) > MAX_PROMPT_CHARACTERS:
            raise AgentError("prompt_too_long", f"That is longer than {MAX_PROMPT_CHARACTERS:,} characters.")
        if self.busy:
            raise AgentError("busy", "The last answer is not finished yet; stop it or wait.")
        choice = providers.choose(self._environment, model)
        run, self._stopped_by, self.busy = new_id(), "", True
        begun = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._go(run, text, choice, begun))
        await begun
        return run

    async def stop(self) -> None:
        """End the run, if there is one: the model call is closed, every process that it started is dead, and its end is
        written down when this returns. What it said stays."""
        if self._running is not None and not self._running.done():
            if self.busy:
                self._stopped_by = self._stopped_by or "person"
                self._running.cancel()
            await asyncio.wait({self._running})

    async def clear(self) -> None:
        """What was said until now is not shown to the model any more."""
        await self.stop()
        await self._append(events.CLEARED, {})

    async def subscribe(self, after: int = 0) -> AsyncGenerator[Event, None]:
        """The events of runs (``events``) behind sequence number ``after``, those of the past first, then each as it
        comes, until the store stops.

        Raises:
            EventStoreError: ``events_gone``.
        """
        await self.load()
        async for event in self._store.follow(after):
            if event.kind in events.KINDS:
                yield event

    async def load(self) -> Transcript:
        """The conversation as it is now; the first time rebuilt from the store, where a run that was under way when the
        sandbox ended is stopped."""
        async with self._loading:
            if self._transcript is None:
                transcript = Transcript()
                after = await self._beginning()
                while page := await self._store.read(after):
                    for event in page:
                        transcript.apply(event.kind, event.data)
                    after = page[-1].sequence
                self._transcript = transcript
                for run in transcript.unfinished():
                    await self._append(events.STOPPED, {"run": run, "by": "restart"})
            return self._transcript

    async def close(self) -> None:
        """As ``stop``, when the sandbox ends."""
        self._stopped_by = "restart"
        await self.stop()
        self._worker.close()

    async def _beginning(self) -> int:
        first = await self._store.read(0, 1)
        return max(await self._store.last() - WINDOW_EVENTS, first[0].sequence - 1) if first else 0

    async def _append(self, kind: str, data: Mapping[str, Any]) -> None:
        await self._store.append(kind, data)
        if self._transcript is not None:
            self._transcript.apply(kind, data)

    async def _go(self, run: str, prompt: str, choice: providers.Choice, begun: asyncio.Future[None]) -> None:
        said = Coalescer(lambda kind, data: self._append(kind, {"run": run, **data}))
        end: tuple[str, dict[str, Any]] = (events.STOPPED, {"by": "person"})
        worked: list[tuple[str, dict[str, Any]]] = []
        try:
            request = await self._begin(run, prompt, choice, begun)
            end = await self._relay(await self._worker.run(choice.family, request.as_dict()), said, worked)
        except asyncio.CancelledError:
            await self._worker.stop()
            end = (events.STOPPED, {"by": self._stopped_by or "restart"})
        except ChoirError as error:
            end = (events.FAILED, {"reason": error.reason, "message": error.message})
        except Exception as error:  # whoever follows must never wait for an end that does not come
            end = (events.FAILED, {"reason": "run_broken", "message": f"The run broke off ({type(error).__name__})."})
        if not begun.done():  # nothing was written down
            self.busy = False
            begun.set_exception(AgentError(end[1].get("reason", "stopped"), end[1].get("message", "It was stopped.")))
            return
        await said.flush()
        with contextlib.suppress(ChoirError):  # remembering is not worth a run's end
            await self._memory.remember(run, prompt, worked, said.text)
        self.busy = False  # before anybody can read of the end: the next prompt is welcome
        await self._append(end[0], {"run": run, **end[1]})

    async def _begin(self, run: str, prompt: str, choice: providers.Choice, begun: asyncio.Future[None]) -> Request:
        turns = (await self.load()).turns()
        context, shown, without = ("", [], "") if choice.plain else await self._memory.context(prompt)
        home = self._environment["HOME"]
        separated = separation.available()
        search = None if choice.plain else providers.search_provider(self._environment)
        names = () if choice.plain else (*TOOLS, *(("search_web",) if search else ()))
        await self._append(
            events.STARTED,
            {
                "run": run,
                "prompt": prompt,
                "model": choice.name,
                "tools": list(names),
                "context": shown,
                "without_memory": without,
                "separated": separated,
            },
        )
        begun.set_result(None)
        return Request(
            choice=choice,
            token=providers.token(self._environment, choice.family),
            prompt=prompt,
            turns=turns,
            context=context,
            folder=await asyncio.to_thread(separation.prepare, home),
            state=self._state if separated else "",
            search=search,
        )

    async def _relay(
        self, run: Run, said: Coalescer, worked: list[tuple[str, dict[str, Any]]]
    ) -> tuple[str, dict[str, Any]]:
        """The run's messages into the store; how it ended."""
        end = None
        async with contextlib.aclosing(run.messages()) as messages:
            async for message in messages:
                if "end" in message:
                    end = (message["end"], message["data"])
                elif "ask" in message:
                    await self._answer(run, message)
                else:
                    kind, data = message["kind"], message["data"]
                    if kind in (events.CALL, events.RESULT):
                        worked.append((kind, data))
                    await said.add(kind, data)
        if end is None or end[0] not in events.ENDS:
            return events.FAILED, {"reason": "run_died", "message": "The agent's process ended before its answer did."}
        return end

    async def _answer(self, run: Run, message: Mapping[str, Any]) -> None:
        try:
            run.answer(message["ask"], await self._memory.search(str(message["query"]), int(message["results"])))
        except ChoirError as error:
            run.answer(message["ask"], error=error.message)


TOOLS = ("shell", "read_file", "write_file", "edit_file", "list_files", "search_memory")
"""As in ``toolbox``, which is too heavy to import here; a test compares."""
