"""What passes between Choir's processes: a sandbox's environment, usage records, the gateway's control messages.

Control messages are JSON objects over ``choir.channel``. To the gateway, each with ``op`` and answered by
``{"ok": true, ...}`` or ``{"ok": false, "reason", "message"}`` in order:

========  =====================================================================  ==================================
op        fields                                                                 answer
========  =====================================================================  ==================================
attach    sandbox_id, user_id, role, lease_s; descriptor: the HTTP listener      {}
renew     sandbox_ids (list), lease_s                                            unknown (list of ids to attach again)
detach    sandbox_id                                                             {}
authority sandbox_id                                                             certificate (PEM; see ``CA_FILE``)
status                                                                           pid, config, ledger, providers,
                                                                                 sandboxes
reload                                                                           providers, changes, change_count
subscribe                                                                        {}, then events (see below)
========  =====================================================================  ==================================

Unasked, the gateway sends every connected client ``{"event": "wanted", "service": "local"}`` when a call needs a
process that is not running (``start_on_use``); whoever supervises that service starts it.

After ``subscribe`` a client is also sent every usage record as ``{"event": "usage", "record": {...}}``; one that does
not keep up misses some. A client whose socket is full otherwise, and every client when the gateway's worker is forked
again, finds its connection closed: it connects again and attaches its sandboxes again. ``lease_s`` is in seconds. The
descriptor is a TCP socket listening on 127.0.0.1 of the sandbox; a refused one is closed. ``status`` lists at most 200
sandboxes, ``sandbox_count`` is their number; ``config`` is the path of choir.toml or null; ``ledger`` is ``{"waiting",
"failing", "journal_failing", "full"}``: how many records wait for it, and why. ``reload`` with a wrong configuration
answers with its reason and changes nothing; ``changes`` are the first 200 of ``choir.gateway.changes.Change``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from choir.config import Family, Provider

GATEWAY_HOST = "127.0.0.1"
GATEWAY_PORT = 7070
GATEWAY_ORIGIN = f"http://{GATEWAY_HOST}:{GATEWAY_PORT}"
GATEWAY_TLS_ORIGIN = f"https://{GATEWAY_HOST}:{GATEWAY_PORT}"
"""The same listener: a connection's first byte tells which of the two it speaks."""
DESKTOP_PORT = 7080
MEMORY_URL = f"http://{GATEWAY_HOST}:{DESKTOP_PORT}/api/memory"
"""Where a desktop's sandbox reaches its own memory (``choir.sandbox.memory.http_api``); in ``CHOIR_MEMORY_URL``."""
DATABASE_URL = "sqlite:////home/choir/.choir/choir.db"
"""A sandbox's own state: events, memory. In its home, which outlives it."""

CA_FILE = "/etc/choir/ca.pem"
"""Inside a sandbox that has one: the certificate that vouches for ``GATEWAY_TLS_ORIGIN``."""
CA_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
"""Where clients look for the file. Most take it in place of the system's; the gateway is the only server there is."""

LEASE_SECONDS = 120.0
RENEW_SECONDS = 30.0

INHERITED = ("LANG", "LC_ALL", "TZ", "TERM", "CHOIR_LOG")
"""The only variables of the host that reach a sandbox unasked. PATH, HOME, USER and CA files are set, not inherited."""

Role = Literal["live", "dev", "run", "probe"]


class UsageRecord(msgspec.Struct, frozen=True):
    """One per call, always. Nothing from a body, a query string or a header can get in but the model's name.

    Unknown is None, never 0. ``model`` is cut to 128 printable ASCII characters.
    """

    ts: str
    """UTC start of the call, RFC 3339 with milliseconds."""
    request_id: str
    sandbox_id: str
    user_id: str
    provider: str
    model: str | None
    route: str
    """The pattern of the provider's table that matched, or "" for a refused path."""
    status: int
    """What the caller was answered; 0 when it was gone before an answer."""
    outcome: str
    """ok, refused:<reason>, upstream:<reason>, client_gone or cut."""
    latency_ms: float
    ttft_ms: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    count: int = 1
    """Calls it stands for. More than one only for a flood of refusals: what a sandbox is refused beyond 600 a minute is
    counted by outcome; such a record's ``bytes_out`` is their sum, its ``latency_ms`` 0, and ``request_id`` its own."""


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway tells others about a provider: never the key, only whether there is one."""

    name: str
    enabled: bool
    reason: str = ""
    """Why it is not enabled, e.g. "no key in OPENAI_API_KEY"."""


def gateway_base_url(provider: str, origin: str = GATEWAY_ORIGIN) -> str:
    """Where ``provider`` is reached from inside a sandbox."""
    return f"{origin}/provider/v1/{provider}"


def wants_tls(enabled: Iterable[Provider]) -> bool:
    """Whether the clients of one of them insist on https, so that a sandbox needs ``CA_FILE``."""
    return any("{tls_base}" in template for provider in enabled for template in provider.environment.values())


_FAMILY_ENVIRONMENT: dict[Family, dict[str, str]] = {
    "openai": {"OPENAI_BASE_URL": "{base}{client_path}", "OPENAI_API_KEY": "{token}"},
    "anthropic": {"ANTHROPIC_BASE_URL": "{base}", "ANTHROPIC_API_KEY": "{token}"},
}


def default_provider(enabled: Iterable[Provider], family: Family) -> Provider | None:
    """Whose API the family's own SDK is pointed at: its maker's, else the first that speaks it, ``local`` last."""
    speakers = [provider for provider in enabled if family in provider.speaks]
    speakers.sort(key=lambda provider: (provider.name != family, provider.start_on_use))
    return speakers[0] if speakers else None


def provider_environment(enabled: Iterable[Provider], token: str) -> dict[str, str]:
    """The variables that make unmodified SDKs and agent CLIs call the gateway, with the token as their key."""
    enabled = list(enabled)
    environment: dict[str, str] = {}

    def add(provider: Provider, templates: Mapping[str, str]) -> None:
        for name, template in templates.items():
            environment[name] = template.format(
                base=gateway_base_url(provider.name),
                tls_base=gateway_base_url(provider.name, GATEWAY_TLS_ORIGIN),
                client_path=provider.client_path,
                origin=GATEWAY_ORIGIN,
                token=token,
            )

    for provider in enabled:
        add(provider, provider.environment)
    for family, templates in _FAMILY_ENVIRONMENT.items():
        chosen = default_provider(enabled, family)
        if chosen is not None:
            add(chosen, templates)
    environment["CHOIR_PROVIDERS"] = provider_list(enabled)
    return environment


def provider_list(enabled: Iterable[Provider]) -> str:
    """``CHOIR_PROVIDERS``: what a sandbox may call, for programs that offer a choice. JSON, a list of
    ``{"name", "speaks", "path", "models"}``: ``path`` is what an OpenAI-style client's base URL has after
    ``gateway_base_url(name)``; ``models`` are the operator's patterns, empty when every model is allowed."""
    entries = [
        {"name": each.name, "speaks": each.speaks, "path": each.client_path, "models": each.models} for each in enabled
    ]
    return msgspec.json.encode(entries).decode()


def identity_environment(sandbox_id: str, user_id: str, role: Role, token: str) -> dict[str, str]:
    """The variables by which a sandbox knows itself and the gateway."""
    return {
        "CHOIR_SANDBOX_ID": sandbox_id,
        "CHOIR_SANDBOX_USER_ID": user_id,
        "CHOIR_SANDBOX_ROLE": role,
        "CHOIR_PROVIDER_GATEWAY_BASE_URL": GATEWAY_ORIGIN,
        "CHOIR_PROVIDER_GATEWAY_TOKEN": token,
    }
