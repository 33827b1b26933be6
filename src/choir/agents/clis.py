"""The agent CLIs that Choir knows, and which providers each can use. Pure."""

from __future__ import annotations

from typing import NamedTuple

from choir.agents import writers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from choir.agents.writers import Choice, Written
    from choir.config import Family, Provider


class Agent(NamedTuple):
    """One agent CLI."""

    families: tuple[Family, ...]
    """What it speaks, the best first."""
    write: Callable[[Choice], Written]
    install: str
    """How people get it."""
    has_default: tuple[str, ...] = ()
    """Providers for which the CLI knows a model of its own."""
    responses: bool = False
    """Whether it needs OpenAI's responses API."""


def speaks_responses(provider: Provider) -> bool:
    """Whether OpenAI's responses API is reached under the base URL of its OpenAI-style clients."""
    wanted = {f"POST {provider.client_path}{rest}" for rest in ("/responses", "/**")}
    return "openai" in provider.speaks and any(pattern in wanted for pattern in provider.allow)


def usable(agent: Agent, providers: Sequence[Provider]) -> list[tuple[Provider, Family]]:
    """The providers ``agent`` can use and how: its own makers' first, then as configured, ``local`` last."""
    found = [
        (provider, family)
        for family in agent.families
        for provider in providers
        if family in provider.speaks and (not agent.responses or speaks_responses(provider))
    ]
    return sorted(found, key=lambda each: (each[0].start_on_use, each[0].name != each[1]))


AGENTS: dict[str, Agent] = {
    "claude": Agent(
        ("anthropic",),
        writers.claude,
        "npm install -g @anthropic-ai/claude-code",
        has_default=("anthropic",),
    ),
    "codex": Agent(("openai",), writers.codex, "npm install -g @openai/codex", has_default=("openai",), responses=True),
    "pi": Agent(
        ("anthropic", "openai", "google"),
        writers.pi,
        "npm install -g @mariozechner/pi-coding-agent",
        has_default=tuple(writers.PI_NATIVE),
    ),
    "opencode": Agent(("anthropic", "openai", "google"), writers.opencode, "npm install -g opencode-ai"),
    "gemini": Agent(("google",), writers.gemini, "npm install -g @google/gemini-cli", has_default=("google",)),
    "qwen": Agent(("openai",), writers.qwen, "npm install -g @qwen-code/qwen-code"),
    "aider": Agent(("anthropic", "openai"), writers.aider, "uv tool install aider-chat"),
    "goose": Agent(("anthropic", "openai"), writers.goose, "see Goose's own documentation"),
}
