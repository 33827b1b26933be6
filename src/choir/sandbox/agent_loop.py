"""The agent loop, first cut: plain streamed chat through the gateway with the vendors' own SDKs.

The SDKs are heavy and are imported at the first prompt (``warm``). Nothing here ever sees a provider key: the key of
these clients is the gateway token.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

DEFAULT_MODELS = {
    "local": "SmolLM2-135M",
    "openai": "gpt-5-mini",
    "anthropic": "claude-haiku-4-5",
    "mistral": "mistral-small-latest",
    "openrouter": "openrouter/auto",
    "groq": "llama-3.3-70b-versatile",
    "xai": "grok-4-fast",
    "deepseek": "deepseek-chat",
    "zai": "glm-4.6",
    "kimi": "kimi-k2-turbo-preview",
}
"""Asked for when CHOIR_MODEL names none; a provider that is not here is asked for its own list."""

MAX_TOKENS = 2048
TIMEOUT_SECONDS = 600.0
HISTORY_MESSAGES = 40

Turn = dict[str, str]
"""``{"role": "user" | "assistant", "content": text}``."""


class AgentError(Exception):
    """The run failed; the message is a sentence for the person."""


@dataclass(frozen=True)
class Route:
    """Which SDK is used, and the provider behind its base URL ("" when it is not the gateway's)."""

    family: Literal["openai", "anthropic"]
    provider: str


def choose(environment: Mapping[str, str]) -> Route:
    """The SDK whose base URL is set; a real provider before the little local model.

    Raises:
        AgentError: there is none.
    """
    routes = []
    for family in ("openai", "anthropic"):
        base = environment.get(f"{family.upper()}_BASE_URL")
        if base:
            named = re.search(r"/provider/v1/([a-z0-9-]+)", base)
            routes.append(Route(family, named[1] if named else ""))
    if not routes:
        raise AgentError("No model is available: the operator has enabled no provider that this desktop can talk to.")
    return min(routes, key=lambda route: route.provider == "local")


class AgentLoop:
    """One conversation's way to a model. ``environment`` is the process's own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._client: Any = None
        self._model = environment.get("CHOIR_MODEL", "")
        self._loading = asyncio.Lock()

    async def warm(self) -> None:
        """Import the SDK and make its client, off the event loop."""
        async with self._loading:
            if self._client is None:
                route = choose(self._environment)
                module = await asyncio.to_thread(importlib.import_module, route.family)
                make = module.AsyncOpenAI if route.family == "openai" else module.AsyncAnthropic
                # One clear sentence now is better than retries that look like a hanging page.
                self._client = make(max_retries=0, timeout=TIMEOUT_SECONDS)

    async def answer(self, turns: list[Turn]) -> AsyncIterator[str]:
        """The pieces of the model's answer to ``turns``, as they come.

        Raises:
            AgentError: what the gateway or the provider refused, as a sentence.
        """
        route = choose(self._environment)
        await self.warm()
        turns = recent(turns)
        try:
            model = await self._pick_model(route)
            pieces = self._openai(route, model, turns) if route.family == "openai" else self._anthropic(model, turns)
            async for piece in pieces:
                yield piece
        except AgentError:
            raise
        except Exception as error:
            raise AgentError(sentence(error)) from error

    async def _pick_model(self, route: Route) -> str:
        if not self._model:
            self._model = DEFAULT_MODELS.get(route.provider, "")
        if not self._model:
            async for model in self._client.models.list():
                self._model = model.id
                break
            else:
                raise AgentError("The provider offers no model.")
        return self._model

    async def _openai(self, route: Route, model: str, turns: list[Turn]) -> AsyncIterator[str]:
        # Asked for so that the usage record has tokens; Mistral says them unasked and refuses the field.
        asked = {} if route.provider == "mistral" else {"stream_options": {"include_usage": True}}
        stream = await self._client.chat.completions.create(model=model, messages=turns, stream=True, **asked)
        async with stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    async def _anthropic(self, model: str, turns: list[Turn]) -> AsyncIterator[str]:
        async with self._client.messages.stream(model=model, messages=turns, max_tokens=MAX_TOKENS) as stream:
            async for text in stream.text_stream:
                yield text


def recent(turns: list[Turn]) -> list[Turn]:
    """The last turns that models take: beginning with the person's, no empty ones, roles alternating."""
    kept: list[Turn] = []
    for turn in turns[-HISTORY_MESSAGES:]:
        if not turn["content"].strip() or (not kept and turn["role"] != "user"):
            continue
        if kept and kept[-1]["role"] == turn["role"]:
            kept[-1] = {**turn, "content": kept[-1]["content"] + "\n\n" + turn["content"]}
        else:
            kept.append(turn)
    return kept


def sentence(error: Exception) -> str:
    """An SDK's exception in words: the refusal's own message when it has one (both SDKs keep the JSON as ``body``)."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, Mapping) else None
        if isinstance(message, str) and message:
            return message
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return f"The model's provider answered with status {status}."
    if type(error).__name__ in ("APITimeoutError", "TimeoutError"):
        return "The model took too long to answer."
    if type(error).__name__ == "APIConnectionError":
        return "The provider gateway does not answer. Try again in a moment."
    return f"The answer broke off ({type(error).__name__})."
