"""``choir run --agent NAME``: the environment, files and command that make an agent CLI use the gateway. Pure."""

from __future__ import annotations

from typing import NamedTuple

from choir.agents.clis import AGENTS, usable
from choir.agents.names import detect
from choir.agents.writers import Choice
from choir.errors import EXIT_USAGE, ChoirError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from choir.agents.clis import Agent
    from choir.agents.writers import Written
    from choir.config import Family, Provider

LOCAL_MODEL = "SmolLM2-135M"
"""What the provider ``local`` is asked for; it has this one model and takes any name."""


class AgentError(ChoirError):
    """An agent cannot be configured as asked."""

    exit_code = EXIT_USAGE


class AgentSetup(NamedTuple):
    """What an agent CLI needs. Apply ``environment`` over ``contract.provider_environment``, then drop ``unset``."""

    environment: dict[str, str]
    unset: tuple[str, ...]
    files: dict[str, str]
    """Path relative to the sandbox's home → content. Never holds the token, nor any key."""
    command: tuple[str, ...]


def prepare(
    name: str,
    providers: Sequence[Provider],
    token: str,
    model: str | None = None,
    command: Sequence[str] = (),
    workspace: Path | None = None,
    memory: Sequence[str] = (),
) -> AgentSetup:
    """Work out the setup of agent ``name``.

    Args:
        providers: those that the gateway has enabled.
        model: as the provider names it, or ``PROVIDER/MODEL``; None takes the CLI's own default.
        command: as the person gave it; empty starts the CLI.
        workspace: the folder that the CLI shall not ask about.
        memory: the command of the sandbox's memory as an MCP server, for CLIs that take one.

    Raises:
        AgentError: ``agent_unknown``, ``agent_needs_provider``, ``agent_needs_model``.
    """
    agent = AGENTS.get(name)
    if agent is None:
        raise AgentError("agent_unknown", f"Choir does not know the agent {name!r}.", f"Known are {', '.join(AGENTS)}.")
    provider, family, chosen = _choose(name, agent, providers, model)
    written = agent.write(Choice(provider, family, chosen, tuple(providers), token, workspace, tuple(memory)))
    return AgentSetup(
        written.environment,
        written.unset,
        written.files,
        _command(name, written, tuple(command)),
    )


def _choose(
    name: str, agent: Agent, providers: Sequence[Provider], model: str | None
) -> tuple[Provider, Family, str | None]:
    candidates = usable(agent, providers)
    if not candidates:
        what = " or ".join(f"{family} API" for family in agent.families)
        if agent.responses:
            what = "openai responses API"
        have = ", ".join(provider.name for provider in providers) or "none"
        raise AgentError(
            "agent_needs_provider",
            f"{name} needs a provider that speaks the {what}; enabled: {have}.",
            f"Give the key of one, e.g. {_example(agent.families[0])}: docs/configuration.md.",
        )
    prefix, _, rest = (model or "").partition("/")
    named = [each for each in candidates if each[0].name == prefix] if rest else []
    provider, family = (named or candidates)[0]
    if named:
        model = rest
    if model is None and provider.start_on_use:
        model = LOCAL_MODEL
    if model is None and len(provider.models) == 1 and "*" not in provider.models[0]:
        model = provider.models[0]
    if model is None and provider.name not in agent.has_default:
        raise AgentError(
            "agent_needs_model",
            f"{name} knows no model of {provider.name}.",
            f"Say which, e.g. --model {provider.name}/MODEL",
        )
    return provider, family, model


def _example(family: Family) -> str:
    return {"anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}.get(family, "OPENAI_API_KEY")


def _command(agent: str, written: Written, command: tuple[str, ...]) -> tuple[str, ...]:
    """``command`` with the flags that nobody should have to type; another command than the CLI's is left alone."""
    if not command:
        command = (agent,)
    if detect(command[0]) != agent:
        return command
    rest = command[1:]
    said = {word.partition("=")[0] for word in rest}
    first = (command[0], *(flag for flag, words in written.flags if said.isdisjoint(words)))
    for subcommand, flags in written.subcommand_flags:
        if subcommand in rest:
            at = rest.index(subcommand) + 1
            missing = tuple(flag for flag in flags if flag not in rest)
            return (*first, *rest[:at], *missing, *rest[at:])
    return (*first, *rest)
