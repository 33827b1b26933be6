"""May this call be made: token, lease, destination, limits, in this order. Nothing reaches a provider before."""

from __future__ import annotations

from dataclasses import dataclass

from choir import tokens
from choir.config import Config, Family, Limits, Provider
from choir.gateway.bounds import unbounded
from choir.gateway.policy import body_too_large, limited, model_refusal
from choir.gateway.prices import PriceTable
from choir.gateway.refusals import Refusal, refused
from choir.gateway.request_head import RequestHead
from choir.gateway.routing import Match, Table, Unroutable, family_of, guess_family
from choir.gateway.sandboxes import Sandbox
from choir.gateway.upstream import Upstream

_TOKEN_PREFIX = tokens.PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Settings:
    """What is in force; replaced as a whole by a reload. A call keeps the one it started with."""

    config: Config
    table: Table
    upstreams: dict[str, Upstream]
    prices: PriceTable


@dataclass(frozen=True, slots=True)
class Denied:
    """An answer of the gateway's own, and what the record may say about where the call wanted to go."""

    refusal: Refusal
    family: Family
    provider: str = ""
    route: str = ""
    model: str | None = None


def authenticate(sandbox: Sandbox, head: RequestHead, verified: bytes, now: float) -> Refusal | None:
    """Who is calling.

    Args:
        verified: a token that was found genuine before on the same connection, or b"".
    """
    if not head.token:
        return refused(401, "token_missing", "it carries no gateway token (Authorization: Bearer, x-api-key, …).")
    if head.ambiguous:
        return refused(401, "tokens_differ", "its headers carry different credentials; each must be the gateway token.")
    if head.token != verified:
        refusal = sandbox.token_refusal(head.token)
        if refusal is not None:
            return refusal
    return sandbox.lease_refusal(now)


def admit(
    settings: Settings,
    sandbox: Sandbox,
    method: str,
    target: bytes,
    head: RequestHead,
    length: int | None,
    now: float,
) -> Match | Denied:
    """Where an authenticated call goes; its request and its slot are reserved when a ``Match`` comes back."""
    if _TOKEN_PREFIX in target or _TOKEN_PREFIX in head.kept:
        message = "the gateway token stands where it would reach the provider; send it as Authorization: Bearer."
        return Denied(refused(401, "token_misplaced", message), guess_family(target))
    try:
        match = settings.table.match(method, target)
    except Unroutable as unroutable:
        provider = unroutable.provider
        family = family_of(provider, target) if provider else guess_family(target)
        return Denied(unroutable.refusal, family, provider.name if provider else "")
    limits = sandbox.budget.limits
    refusal = None
    if head.websocket and not match.websocket:
        refusal = refused(400, "upgrade_refused", "this route is no WebSocket.")
    elif length is not None and length > limits.max_body_bytes:
        refusal = body_too_large(limits)
    elif match.provider.models:
        refusal = _model_refusal_by_path(match, method)
    if refusal is None and match.billing == "unbounded" and limited(limits):
        refusal = unbounded(match)
    refusal = refusal or sandbox.budget.reserve(now)
    if refusal is not None:
        return Denied(refusal, match.family, match.provider.name, match.pattern, match.path_model or match.query_model)
    return match


def needs_body(match: Match, method: str, limits: Limits) -> bool:
    """Whether policy has to read the body before anything is forwarded."""
    if match.dialect is not None:
        return True
    if match.billing != "free" and limited(limits):
        return True
    return bool(match.provider.models) and match.path_model is None and method != "GET"


def _model_refusal_by_path(match: Match, method: str) -> Refusal | None:
    provider: Provider = match.provider
    if match.path_model is not None:
        return model_refusal(provider.models, match.path_model)
    if match.websocket:
        return model_refusal(provider.models, match.query_model)
    return None
