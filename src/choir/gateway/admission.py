"""May this call be made: token, lease, destination, limits, in this order. Nothing reaches a provider before."""

from __future__ import annotations

from dataclasses import dataclass

from choir import tokens
from choir.config import Config, Family, Limits
from choir.gateway.bounds import unbounded
from choir.gateway.policy import body_too_large, limited, model_refusal, search_refusal
from choir.gateway.prices import PriceTable
from choir.gateway.refusals import Refusal, refused
from choir.gateway.request_head import RequestHead
from choir.gateway.routing import Match, Table, Unroutable, family_of, guess_family
from choir.gateway.sandboxes import Sandbox
from choir.gateway.upstream import Upstream
from choir.gateway.user_rules import ProviderRule, UserRules

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


@dataclass(frozen=True, slots=True)
class Admission:
    """What was decided of a head. It holds as long as settings and limits are the same."""

    settings: Settings
    limits: Limits
    match: Match
    upstream: Upstream
    needs_body: bool
    """Policy has to read the body before anything is forwarded."""
    bounded: bool
    """Tokens or money are limited, so the most that the call can use is reserved."""
    rule: ProviderRule | None
    """What the user may call there; None: everything."""


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


def decide(
    settings: Settings, limits: Limits, rules: UserRules | None, method: str, target: bytes, head: RequestHead
) -> Admission | Denied:
    """Where an authenticated call goes, by what its head says.

    Args:
        rules: the user's.
    """
    if _TOKEN_PREFIX in target or _TOKEN_PREFIX in head.kept:
        message = "the gateway token stands where it would reach the provider; send it as Authorization: Bearer."
        return Denied(refused(401, "token_misplaced", message), guess_family(target))
    try:
        match = settings.table.match(method, target)
    except Unroutable as unroutable:
        provider = unroutable.provider
        family = family_of(provider, target) if provider else guess_family(target)
        return Denied(unroutable.refusal, family, provider.name if provider else "")
    rule = rules.get(match.provider.name) if rules is not None else None
    refusal = rule.refusal() if rule is not None else None
    if refusal is None and head.websocket and not match.websocket:
        refusal = refused(400, "upgrade_refused", "this route is no WebSocket.")
    elif refusal is None and match.websocket and not head.websocket:
        refusal = refused(400, "upgrade_required", "this route is a WebSocket.")
    elif refusal is None and (match.provider.models or rule is not None):
        refusal = _model_refusal_by_path(match, rule)
    if refusal is None:
        refusal = search_refusal(match.provider, match.path_model, match.query_model)
    if refusal is None and match.billing == "unbounded" and limited(limits):
        refusal = unbounded(match)
    if refusal is not None:
        return _denied(match, refusal)
    upstream = settings.upstreams[match.provider.name]
    bounded = match.billing != "free" and limited(limits)
    return Admission(settings, limits, match, upstream, _needs_body(match, method, bounded, rule), bounded, rule)


def reserve(admission: Admission, sandbox: Sandbox, length: int | None, now: float) -> Denied | None:
    """Take a request and a slot of the sandbox's, or say why not.

    Args:
        length: of the body, None when it is not told.
    """
    limits = admission.limits
    if length is not None and length > limits.max_body_bytes:
        return _denied(admission.match, body_too_large(limits))
    standing = admission.upstream.standing
    if standing.troubled:
        refusal = standing.admit(sandbox.user_id, now)
        if refusal is not None:
            return _denied(admission.match, refusal)
    refusal = sandbox.budget.reserve(now)
    if refusal is None:
        return None
    if standing.troubled:
        standing.left()
    return _denied(admission.match, refusal)


def _denied(match: Match, refusal: Refusal) -> Denied:
    return Denied(refusal, match.family, match.provider.name, match.pattern, match.path_model or match.query_model)


def _needs_body(match: Match, method: str, bounded: bool, rule: ProviderRule | None) -> bool:
    if match.dialect is not None or bounded:
        return True
    reads_model = bool(match.provider.models) or (rule is not None and rule.reads_model)
    return reads_model and match.path_model is None and method != "GET"


def _model_refusal_by_path(match: Match, rule: ProviderRule | None) -> Refusal | None:
    if match.path_model is None and (not match.websocket or match.says_model):
        return None
    model = match.query_model if match.path_model is None else match.path_model
    refusal = model_refusal(match.provider.models, model)
    if refusal is None and rule is not None:
        refusal = rule.model_refusal(model)
    return refusal
