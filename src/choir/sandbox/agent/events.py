"""The events of a run, as they are in the event store, and what a conversation is by them. Pure.

Every event of a run has ``run``, its id. A run begins with ``run_started`` and ends with exactly one of
``run_finished``, ``run_failed`` and ``run_stopped``; one that was under way when the sandbox ended is stopped by its
next start.

=====================  ============================================================================================
kind                   data beside ``run``
=====================  ============================================================================================
run_started            prompt; model (``PROVIDER/NAME``); tools (their names, none for plain chat); context (ids of the
                       remembered items that the model was shown); without_memory (a sentence: why none could be looked
                       up, else ""); separated (whether its commands are kept from the sandbox's own state and
                       processes, see ``separation``)
run_text               text: the next piece of the answer
tool_call              call (an id), tool, arguments (an object)
tool_output            call, text: the next piece of what it prints, while it runs
tool_result            call, ok, text (as the model gets it, bounded), seconds
usage                  model_calls, input_tokens, output_tokens, cached_tokens: of the whole run; null is unknown;
                       request_ids (the gateway's, as in its usage records)
run_finished
run_failed             reason (a word), message (a sentence for the person), request_ids
run_stopped            by: ``person`` or ``restart``
conversation_cleared   (no ``run``) what was said before is not shown to the model any more
=====================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from choir.errors import ChoirError

STARTED, TEXT = "run_started", "run_text"
CALL, OUTPUT, RESULT = "tool_call", "tool_output", "tool_result"
USAGE = "usage"
FINISHED, FAILED, STOPPED = "run_finished", "run_failed", "run_stopped"
CLEARED = "conversation_cleared"
ENDS = frozenset((FINISHED, FAILED, STOPPED))
KINDS = frozenset((STARTED, TEXT, CALL, OUTPUT, RESULT, USAGE, CLEARED)) | ENDS

HISTORY_MESSAGES = 40
HISTORY_CHARACTERS = 100_000

Turn = dict[str, str]
"""``{"role": "user" | "assistant", "content": text}``."""


class AgentError(ChoirError):
    """A prompt that was not taken, or a run that failed; the message is a sentence for the person."""


@dataclass
class Said:
    """One run as a conversation sees it. ``end`` is the kind of its last event, "" while it is under way."""

    run: str
    prompt: str
    text: str = ""
    end: str = ""


@dataclass
class Transcript:
    """What was said since the conversation was last cleared; fed with events in order."""

    said: dict[str, Said] = field(default_factory=dict)

    def apply(self, kind: str, data: Mapping[str, Any]) -> None:
        run = self.said.get(data.get("run", ""))
        if kind == CLEARED:
            self.said.clear()
        elif kind == STARTED:
            self.said[data["run"]] = Said(data["run"], data["prompt"])
        elif run is None:
            return
        elif kind == TEXT:
            run.text += data["text"]
        elif kind in ENDS:
            run.end = kind

    def unfinished(self) -> list[str]:
        return [each.run for each in self.said.values() if not each.end]

    def turns(self) -> list[Turn]:
        """What a model is shown of it: the last ``HISTORY_MESSAGES``, in ``HISTORY_CHARACTERS``."""
        turns: list[Turn] = []
        for each in self.said.values():
            turns.append({"role": "user", "content": each.prompt})
            if each.text.strip():
                turns.append({"role": "assistant", "content": each.text})
        return recent(turns)


def recent(turns: Iterable[Turn]) -> list[Turn]:
    """The last turns that models take: beginning with the person's, no empty ones, roles alternating."""
    turns = [turn for turn in turns if turn["content"].strip()][-HISTORY_MESSAGES:]
    size = 0
    for at in range(len(turns) - 1, -1, -1):
        size += len(turns[at]["content"])
        if size > HISTORY_CHARACTERS:
            turns = turns[at + 1 :]
            break
    kept: list[Turn] = []
    for turn in turns:
        if not kept and turn["role"] != "user":
            continue
        if kept and kept[-1]["role"] == turn["role"]:
            kept[-1] = {**turn, "content": kept[-1]["content"] + "\n\n" + turn["content"]}
        else:
            kept.append(turn)
    return kept
