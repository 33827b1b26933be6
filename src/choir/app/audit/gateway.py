"""Attacks on the running gateway from inside sandboxes of the audit's own, and the one way that has to work."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from choir import ids, tokens
from choir.app.audit import programs
from choir.app.audit.finding import Finding, held
from choir.app.audit.ground import USER, Ground, python
from choir.config import Provider
from choir.isolation.contract import SandboxSpec
from choir.storage.ledger import Ledger

Call = tuple[str, str, str | None, str | None]
"""(method, path, body, token); see ``programs.CALLS``."""

_LEDGER_SECONDS = 5.0
_TRIES, _PAUSE_SECONDS = 3, 2.0
_TARGET = "the way to the providers"
_FIX = "The gateway must check listener and token on every route; report this."


def cheap_call(providers: Sequence[Provider]) -> tuple[str, str, str, str | None] | None:
    """(provider, method, path, body) of a call that costs nothing or next to it."""
    for provider in sorted(providers, key=lambda item: not item.start_on_use):
        base = f"/provider/v1/{provider.name}"
        if provider.start_on_use:
            body = json.dumps({"model": "local", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]})
            return provider.name, "POST", f"{base}/v1/chat/completions", body
        for pattern in provider.allow:
            method, path = pattern.split(" ", 1)
            if method == "GET" and path.endswith("/models"):
                return provider.name, "GET", base + path, None
    return None


async def findings(ground: Ground) -> list[Finding]:
    call = cheap_call(ground.gateway.providers)
    if call is None:
        fix = "Give the gateway a key, or install choir[local]; `choir config check` says what is missing."
        name, tried = "call through the gateway", "find a provider to call"
        return [Finding(_TARGET, name, "gateway", tried, "none is enabled", "failed", fix)]
    provider, method, path, body = call
    ours = ground.spec(*_calls([(method, path, body, "")]))
    status, request_id, reason = await entitled(ground, ours)
    stolen = ours.environment["CHOIR_PROVIDER_GATEWAY_TOKEN"]
    return [
        Finding(
            _TARGET,
            "call through the gateway",
            "gateway",
            f"{method} {path}",
            f"status {status} {reason}".strip(),
            held(status == 200),
            "See the gateway's log and `choir config check`: the one allowed way must work.",
        ),
        await refused(ground, "a stolen token", "use a token of an ended sandbox in another", stolen),
        await refused(ground, "a made-up token", "make up a token of the right shape", forged()),
        await refused(ground, "a token of another sandbox", "sign one for somebody else", ground_token(ground)),
        await refused(ground, "no token", "leave the token out", None),
        await recorded(ground, ours.sandbox_id, request_id, provider),
    ]


async def entitled(ground: Ground, spec: SandboxSpec) -> tuple[int, str, str]:
    """(status, request id, reason) of the one allowed call; a provider that is out of breath is asked again."""
    for _ in range(_TRIES):
        said = await ground.answer(spec, attached=True) or [[0, "", "no answer"]]
        status, request_id, reason = said[0]
        if status not in (429, 502, 503, 504):
            break
        await asyncio.sleep(_PAUSE_SECONDS)
    return status, str(request_id), str(reason)


def _calls(calls: Sequence[Call]) -> tuple[str, ...]:
    return python(programs.CALLS, json.dumps(calls))


def forged() -> str:
    """Of the right shape, and nobody's."""
    return f"{tokens.PREFIX}{ids.new_id()}.{secrets.token_urlsafe(12)}.{secrets.token_urlsafe(32)}"


def ground_token(ground: Ground) -> str:
    """A genuine one, of a sandbox that is another."""
    return tokens.sign(ground.key, ids.new_id())


async def refused(ground: Ground, name: str, tried: str, token: str | None) -> Finding:
    """On every provider, on model lists, and on paths that no provider has: 401, whatever it was."""
    paths = [f"/provider/v1/{provider.name}" for provider in ground.gateway.providers]
    calls: list[Call] = [("GET", f"{base}/models", None, token) for base in paths]
    calls += [("GET", path, None, token) for path in ("/provider/v1/nobody/models", "/", "/admin")]
    said = await ground.answer(ground.spec(*_calls(calls)), attached=True) or []
    statuses = sorted({status for status, *_ in said})
    return Finding(
        _TARGET,
        name,
        "identity",
        f"{tried}, on {len(calls)} paths",
        f"status {', '.join(map(str, statuses)) or 'none'}",
        held(statuses == [401] and len(said) == len(calls)),
        _FIX,
    )


async def recorded(ground: Ground, sandbox_id: str, request_id: str, provider: str) -> Finding:
    """The call is written down as its sandbox's, although its headers said it was somebody else's."""
    deadline = time.monotonic() + _LEDGER_SECONDS
    match: Any = None
    while match is None and time.monotonic() < deadline:
        records = await asyncio.to_thread(Ledger(ground.state.ledger).query, sandbox_id=sandbox_id, limit=5)
        match = next((record for record in records if record.request_id == request_id), None)
        if match is None:
            await asyncio.sleep(0.05)  # it is written in batches
    ok = match is not None and (match.provider, match.user_id) == (provider, USER)
    return Finding(
        "usage records",
        "usage log",
        "ledger",
        f"look for call {request_id}, whose headers claimed another sandbox and user",
        f"{match.provider} {match.status} {match.latency_ms:.0f} ms, {match.user_id}" if match else "not there",
        held(ok),
        "See the gateway's log for its ledger; `choir doctor` looks at the database.",
    )
