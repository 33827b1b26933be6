"""What one user may call: the operator's ``[users.NAME]`` (pure).

A call is named ``provider/model``, and ``provider/`` alone where it has no model. A provider is denied before a body is
read when no pattern could allow a call to it; a body is read for its model only where a pattern depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from choir.config import Config, UserEntry
from choir.gateway.refusals import Refusal, refused


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """What a user may call at one provider."""

    name: str
    allowed: bool = True
    models: tuple[re.Pattern[str], ...] | None = None
    """Only models that match one; None: all."""
    denied: tuple[re.Pattern[str], ...] = ()

    @property
    def reads_model(self) -> bool:
        """Whether a call's model matters."""
        return self.allowed and (self.models is not None or bool(self.denied))

    def refusal(self) -> Refusal | None:
        """Whether the provider itself is denied."""
        if self.allowed:
            return None
        return refused(403, "provider_not_allowed", f"the operator does not allow this user to call {self.name}.")

    def model_refusal(self, model: str | None) -> Refusal | None:
        """Whether a call for ``model`` is denied; None: it could not be read."""
        if not self.reads_model:
            return None
        if model is None:
            return refused(
                400,
                "model_unreadable",
                f"this user's models of {self.name} are limited and the call does not say which one it wants.",
            )
        listed = self.models is None or any(pattern.fullmatch(model) for pattern in self.models)
        if listed and not any(pattern.fullmatch(model) for pattern in self.denied):
            return None
        return refused(403, "model_not_allowed", f"the operator does not allow this user this model of {self.name}.")


UserRules = Mapping[str, ProviderRule]
"""By provider. One that is not there is free."""


def user_rules(config: Config, user_id: str) -> UserRules | None:
    """The rules of a user; None when nothing is denied to it."""
    entry = config.users.get(user_id)
    if entry is None:
        return None
    rules = {name: rule for name in config.providers if (rule := _rule(entry, name)) is not None}
    return rules or None


def _rule(entry: UserEntry, name: str) -> ProviderRule | None:
    models = None if entry.models is None else _of_provider(entry.models, name)
    if (
        (entry.providers is not None and name not in entry.providers)
        or name in entry.deny_providers
        or (models is not None and not models)
    ):
        return ProviderRule(name, allowed=False)
    denied = _of_provider(entry.deny_models, name)
    if "*" in denied:
        return ProviderRule(name, allowed=False)
    if models is not None and "*" in models:
        models = None
    if models is None and not denied:
        return None
    return ProviderRule(
        name,
        models=None if models is None else tuple(_compiled(models)),
        denied=tuple(_compiled(denied, re.IGNORECASE)),
    )


def _of_provider(patterns: Iterable[str], name: str) -> list[str]:
    """The model's part of those patterns whose provider's part matches ``name``."""
    parts = [pattern.partition("/") for pattern in patterns]
    return [model for provider, _, model in parts if next(_compiled([provider])).fullmatch(name)]


def _compiled(patterns: Iterable[str], flags: re.RegexFlag = re.NOFLAG) -> Iterator[re.Pattern[str]]:
    for pattern in patterns:
        yield re.compile(".*".join(map(re.escape, pattern.split("*"))), flags | re.DOTALL)
