"""Which models a sandbox may call, from its environment. Pure.

``CHOIR_PROVIDERS`` (``choir.contract.provider_list``) says it; where it is missing, the SDKs' own variables do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from choir.sandbox.agent.events import AgentError

DEFAULT_MODELS = {
    "local": "SmolLM2-135M",
    "openai": "gpt-6-luna",
    "anthropic": "claude-haiku-5-5",
    "google": "gemini-3.8-flash",
    "mistral": "mistral-small-latest",
    "openrouter": "openrouter/auto",
    "groq": "llama-3.3-70b-versatile",
    "xai": "grok-4.7",
    "deepseek": "deepseek-flash",
    "zai": "glm-5.3-flash",
    "kimi": "kimi-k2.6",
}
"""Asked for when neither the person nor the operator names one."""

PLAIN = frozenset(("local",))
"""Too small for tools: they make no tool calls, whatever is asked, and lose the thread over a long context."""

_FAMILIES = ("openai", "anthropic", "google")
_SEARCHES = ("tavily", "exa", "brave")


@dataclass(frozen=True)
class Choice:
    """A model to call; "" is the first that the provider itself lists. ``base_url`` is as the family's SDK wants it."""

    provider: str
    family: str
    model: str
    base_url: str

    @property
    def name(self) -> str:
        """As a person names it."""
        return f"{self.provider}/{self.model}".strip("/")

    @property
    def plain(self) -> bool:
        """Whether it gets no tools."""
        return self.provider in PLAIN


def choices(environment: Mapping[str, str]) -> list[Choice]:
    """What a person can choose from, the default first: for each provider the operator's models, or one that Choir
    knows; others are called by name (``choose``). ``CHOIR_MODEL`` comes first."""
    found = []
    for entry in _entries(environment):
        family = _family(entry)
        if family:
            exact = [model for model in entry["models"] if "*" not in model]
            names = exact or [DEFAULT_MODELS.get(entry["name"], "")]
            found += [_choice(entry, family, name) for name in names]
    found.sort(key=lambda each: each.plain)  # stable: as configured, the little one last
    wanted = environment.get("CHOIR_MODEL", "")
    if wanted and found:
        found.insert(0, _named(environment, wanted))
    return list(dict.fromkeys(found))


def choose(environment: Mapping[str, str], model: str = "") -> Choice:
    """The model called ``PROVIDER/NAME``, ``PROVIDER``, or ``NAME`` of the first provider; "" is the default.

    Raises:
        AgentError: ``no_model``.
    """
    if model:
        return _named(environment, model)
    found = choices(environment)
    if found:
        return found[0]
    raise _none()


def search_provider(environment: Mapping[str, str]) -> tuple[str, str] | None:
    """(name, base URL) of the web search that the operator enabled, or None."""
    enabled = {entry["name"]: entry for entry in _entries(environment) if "search" in entry["speaks"]}
    for name in _SEARCHES:
        if name in enabled:
            return name, _base(enabled[name])
    return None


def token(environment: Mapping[str, str], family: str) -> str:
    """The gateway token: the key of every client here."""
    names = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "google": "GEMINI_API_KEY"}
    return environment.get("CHOIR_PROVIDER_GATEWAY_TOKEN") or environment.get(names.get(family, ""), "")


def _named(environment: Mapping[str, str], model: str) -> Choice:
    entries = [entry for entry in _entries(environment) if _family(entry)]
    provider, _, rest = model.partition("/")
    for entry in entries:
        if entry["name"] == provider:
            return _choice(entry, _family(entry), rest or DEFAULT_MODELS.get(provider, ""))
    if not entries:
        raise _none()
    known = (each for each in entries if model in each["models"] or DEFAULT_MODELS.get(each["name"]) == model)
    entry = next(known, entries[0])
    return _choice(entry, _family(entry), model)


def _none() -> AgentError:
    return AgentError(
        "no_model",
        "No model is available: the operator has enabled no provider that this desktop can talk to.",
    )


def _entries(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each ``{"name", "speaks", "path", "models", "base"}``."""
    listed = environment.get("CHOIR_PROVIDERS")
    if listed:
        origin = environment.get("CHOIR_PROVIDER_GATEWAY_BASE_URL", "")
        entries: list[dict[str, Any]] = json.loads(listed)
        return [{**entry, "base": f"{origin}/provider/v1/{entry['name']}"} for entry in entries]
    found: list[dict[str, Any]] = []
    for family, variable in zip(
        _FAMILIES, ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"), strict=True
    ):
        base = environment.get(variable)
        if base:
            named = re.search(r"/provider/v1/([a-z0-9-]+)", base)
            name = named[1] if named else ""
            found.append({"name": name, "speaks": [family], "path": "", "models": [], "base": base})
    return found


def _family(entry: dict[str, Any]) -> str:
    return next((family for family in _FAMILIES if family in entry["speaks"]), "")


def _base(entry: dict[str, Any]) -> str:
    return str(entry["base"])


def _choice(entry: dict[str, Any], family: str, model: str) -> Choice:
    return Choice(entry["name"], family, model, _base(entry) + (entry["path"] if family == "openai" else ""))
