"""What runs take from the memory and leave in it.

A prompt goes into ``user_inputs``, what the run did and said into ``run_trajectories``; both with the thread
``conversation`` and the source ``run:ID``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from choir.sandbox.actor import ThreadActor
from choir.sandbox.agent.events import CALL, RESULT
from choir.sandbox.memory import messages as m
from choir.sandbox.memory.context import rendered
from choir.sandbox.memory.model import Draft, RebuildingError

CONTEXT_TOKENS = 1500
STEP_CHARACTERS = 2000
THREAD = "conversation"


class Recollection:
    """
    Args:
        memory: the started actor; called when it is first needed.
    """

    def __init__(self, memory: Callable[[], ThreadActor]) -> None:
        self._memory = memory

    async def context(self, prompt: str) -> tuple[str, list[str], str]:
        """What to show a model that is asked ``prompt``, the ids of the items in it, and why there are none when
        nothing could be looked up: the index is being made anew, which no run waits for.

        Raises:
            ChoirError: the memory's.
        """
        try:
            found = await self._memory().ask(m.ArtifactContextPack(prompt, CONTEXT_TOKENS))
        except RebuildingError as error:
            return f"[nothing can be looked up: {error.message}]", [], error.message
        return found.text, [item.item_id for item in found.items], ""

    async def search(self, query: str, results: int) -> str:
        """As a model reads it.

        Raises:
            ChoirError: the memory's.
        """
        found = await self._memory().ask(m.GetContextSnapshot(query, min(max(results, 1), 50)))
        return "".join(rendered(each.item) for each in found) or "[nothing found]"

    async def remember(self, run: str, prompt: str, steps: Sequence[tuple[str, dict[str, Any]]], answer: str) -> None:
        """
        Args:
            steps: ``tool_call`` and ``tool_result`` events, in order.

        Raises:
            ChoirError: the memory's.
        """
        source = f"run:{run}"
        drafts = [Draft("user_inputs", prompt, source, THREAD)]
        drafts += [Draft("run_trajectories", text, source, THREAD) for text in told(steps)]
        if answer.strip():
            drafts.append(Draft("run_trajectories", answer.strip(), source, THREAD))
        await self._memory().ask(m.IngestBatch(drafts))


def told(steps: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Each tool call with what came of it, bounded. Pure."""
    results = {data["call"]: data["text"] for kind, data in steps if kind == RESULT}
    texts = []
    for kind, data in steps:
        if kind == CALL:
            asked = " ".join(str(value) for value in data["arguments"].values())[:STEP_CHARACTERS]
            came = results.get(data["call"], "[stopped]")[:STEP_CHARACTERS]
            texts.append(f"{data['tool']}: {asked}\n{came}")
    return texts
