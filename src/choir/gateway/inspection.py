"""The one look at a body that policy reads before anything of it is forwarded (pure)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from choir.gateway import body_policy
from choir.gateway.body import UNREADABLE, inflated, strict_members, string
from choir.gateway.bounds import dearer, generation_configs, output_bound
from choir.gateway.names import InAnotherCase, Undecodable
from choir.gateway.policy import case_refusal, fallbacks_refusal, model_refusal, search_refusal
from choir.gateway.refusals import Refusal, refused
from choir.gateway.routing import Match
from choir.gateway.stream_usage import asking

_UNDECODABLE = "policy has to read the body, and it is not a plain or gzipped JSON object with each key once."


@dataclass(slots=True)
class Inspected:
    """What was found."""

    body: bytes
    """To be forwarded."""
    model: str | None = None
    fallbacks: bool = False
    """It names further models, of which the provider may choose (OpenRouter's ``models``)."""
    refusal: Refusal | None = None
    usage_asked: bool = False
    """``body`` asks for a usage chunk that the caller did not ask for."""
    input_bound: int = 0
    """Tokens of the plain body at most."""
    output_bound: int | None = None
    """Tokens of the answer at most, as the body says it."""
    dearer: str | None = None
    """The member that asks for more than the plain price."""


def inspect(match: Match, body: bytes, coding: bytes, max_body_bytes: int, bounded: bool) -> Inspected:
    """Judge a whole body.

    Args:
        coding: the Content-Encoding, lower case.
        max_body_bytes: of the plain body too.
        bounded: the most that the call can use has to be told.
    """
    found = Inspected(body, match.path_model)
    provider, dialect = match.provider, match.dialect
    if match.billing == "request" and not provider.models:  # gathered only because something is limited
        return found
    try:
        plain = inflated(body, coding, max_body_bytes)
        members = strict_members(plain)
        if bounded:
            found.input_bound = len(plain)
            found.dearer = dearer(dialect, members)
            if dialect is not None:
                found.output_bound = output_bound(dialect, members)
        elif dialect == "generate":
            generation_configs(members)  # what is refused does not depend on whether a limit is set
        if match.path_model is None:
            if "model" in members:
                found.model = string(members["model"])
            found.fallbacks = "models" in members
            if provider.models:
                found.refusal = model_refusal(provider.models, found.model)
            if found.fallbacks and found.refusal is None and (provider.models or bounded):
                found.refusal = fallbacks_refusal()
            if provider.search_models and found.refusal is None:
                found.refusal = search_refusal(provider, found.model, *_fallbacks(members))
        if dialect is not None and found.refusal is None:
            found.refusal = body_policy.refusal(provider, dialect, plain, members)
        if dialect == "chat" and "stream" in members and provider.ask_usage and plain is body and found.refusal is None:
            changed = asking(body, members)
            if changed is not None:
                found.body, found.usage_asked = changed, True
    except InAnotherCase as other:
        found.refusal = case_refusal(other.name)
    except Undecodable:
        found.refusal = refused(400, "body_undecodable", _UNDECODABLE)
    return found


def _fallbacks(members: dict[str, msgspec.Raw]) -> list[str]:
    try:
        return msgspec.json.decode(members["models"], type=list[str] | None) or [] if "models" in members else []
    except UNREADABLE as error:
        raise Undecodable from error
