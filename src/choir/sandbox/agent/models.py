"""pydantic-ai's model for a ``Choice``, on the vendors' own SDKs. Heavy imports, made late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from choir.sandbox.agent.providers import Choice

if TYPE_CHECKING:
    from pydantic_ai.models import Model
    from pydantic_ai.settings import ModelSettings

SECONDS = 600.0
MOST_TOKENS = 8192
"""Of one answer. Said always: where money or tokens are limited, the gateway refuses a call that does not say."""


def load(family: str) -> None:
    """Import what the family needs, so that a forked run has it."""
    if family == "openai":
        import pydantic_ai.models.openai
    elif family == "anthropic":
        import pydantic_ai.models.anthropic
    elif family == "google":
        import pydantic_ai.models.google  # noqa: F401


Heard = Callable[[str], None]
"""Told the gateway's id of each call (``x-choir-request-id``), which is in its usage record and its log."""


def model(choice: Choice, token: str, heard: Heard = lambda request_id: None) -> Model[Any]:
    """No retries: one clear sentence now is better than a page that seems to hang."""
    hooks = {"response": [_listener(heard)]}
    if choice.family == "anthropic":
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        # Only the one header: with both, SDK and gateway would have to agree which counts.
        http = DefaultAsyncHttpxClient(event_hooks=hooks)
        client = AsyncAnthropic(
            base_url=choice.base_url, api_key=token, auth_token=None, max_retries=0, http_client=http
        )
        return AnthropicModel(choice.model, provider=AnthropicProvider(anthropic_client=client))
    if choice.family == "google":
        import httpx2
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        listening = httpx2.AsyncClient(timeout=SECONDS, event_hooks=hooks)
        provider = GoogleProvider(api_key=token, base_url=choice.base_url, http_client=listening)
        return GoogleModel(choice.model, provider=provider)
    return _openai(choice, token, hooks)


def _listener(heard: Heard) -> Callable[[Any], Awaitable[None]]:
    async def listen(response: Any) -> None:
        request_id = response.headers.get("x-choir-request-id")
        if request_id:
            heard(request_id)

    return listen


def settings(choice: Choice) -> ModelSettings:
    if choice.plain:
        return {"timeout": SECONDS}
    return {"timeout": SECONDS, "max_tokens": MOST_TOKENS}


async def first_model(choice: Choice, token: str) -> str:
    """The first model that the provider lists; for providers of which Choir knows none.

    Raises:
        Exception: the SDK's own.
    """
    if choice.family == "anthropic":
        from anthropic import AsyncAnthropic

        async for found in AsyncAnthropic(base_url=choice.base_url, api_key=token, max_retries=0).models.list():
            return found.id
    elif choice.family == "openai":
        from openai import AsyncOpenAI

        async for listed in AsyncOpenAI(base_url=choice.base_url, api_key=token, max_retries=0).models.list():
            return listed.id
    return ""


def _openai(choice: Choice, token: str, hooks: dict[str, list[Any]]) -> Model[Any]:
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers import Provider
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    http = DefaultAsyncHttpxClient(event_hooks=hooks)
    client = AsyncOpenAI(base_url=choice.base_url, api_key=token, max_retries=0, http_client=http)
    provider: Provider[AsyncOpenAI]
    if choice.provider in ("openai", ""):
        provider = OpenAIProvider(openai_client=client)
    else:
        provider = OpenAICompatibleProvider(choice.provider, openai_client=client)
    if choice.provider != "mistral":
        return OpenAIChatModel(choice.model, provider=provider)

    class Mistral(OpenAIChatModel):
        """It tells the usage of a stream unasked, and refuses a member that it does not know."""

        def _get_stream_options(self, model_settings: Any) -> Any:
            from openai import omit

            return omit

    return Mistral(choice.model, provider=provider)
