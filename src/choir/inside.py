"""What a sandbox sees of Choir: addresses, files, variables. Imports next to nothing: ``choir run`` is on the clock."""

from __future__ import annotations

from choir import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
    return plain_json.dumps(entries)


def identity_environment(sandbox_id: str, user_id: str, role: str, token: str) -> dict[str, str]:
    """The variables by which a sandbox knows itself and the gateway."""
    return {
        "CHOIR_SANDBOX_ID": sandbox_id,
        "CHOIR_SANDBOX_USER_ID": user_id,
        "CHOIR_SANDBOX_ROLE": role,
        "CHOIR_PROVIDER_GATEWAY_BASE_URL": GATEWAY_ORIGIN,
        "CHOIR_PROVIDER_GATEWAY_TOKEN": token,
    }
