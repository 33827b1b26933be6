"""The pages and the interface around signing in, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.routing import Route

from choir.config import Config
from choir.contract import UsageRecord
from choir.errors import ConfigError
from choir.hypervisor.login import Login
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import Origins
from choir.hypervisor.people.account import Account
from choir.hypervisor.people.admin import Admin
from choir.hypervisor.people.admin_site import AdminSite
from choir.hypervisor.people.api import Api
from choir.hypervisor.people.api_tokens import ApiTokens
from choir.hypervisor.people.door import Door
from choir.hypervisor.people.oidc import IdentityProvider
from choir.hypervisor.people.passkeys import Passkeys
from choir.hypervisor.usage_feed import UsageFeed
from choir.storage.ledger import Share

API = "/api/"


@dataclass(frozen=True)
class Rooms:
    """Where people come in, where they look after their account, where their scripts ask."""

    door: Door
    account: Account
    api: Api
    admin: AdminSite

    def routes(self) -> list[Route]:
        return [*self.door.routes(), *self.account.routes(), *self.api.routes(), *self.admin.routes()]


def furnish(
    *,
    config: Config,
    origins: Origins,
    login: Login,
    admin: Admin,
    maintenance: Maintenance,
    feed: UsageFeed,
    usage: Callable[[str, int], list[UsageRecord]],
    shares: Callable[[str], list[Share]],
    owner: str,
) -> Rooms:
    """
    Args:
        usage: a user's newest records.
        shares: usage since a day.
        owner: the user that the account running Choir is.

    Raises:
        ConfigError: ``oidc_secret_missing``.
    """
    people, sessions = admin.people, admin.sessions
    passkeys = Passkeys(people, origins.public_url)
    tokens = ApiTokens(people)
    provider = None
    if config.oidc.issuer:
        provider = IdentityProvider(config.oidc, client_secret(config), origins.public_url)
    door = Door(
        *(origins, people, sessions, login, passkeys, config.hypervisor, owner, config.oidc, provider),
        seated=admin.supervisor.users,
    )
    account = Account(door, people, sessions, passkeys, tokens)
    api = Api(people, tokens, admin.supervisor, usage)
    return Rooms(door, account, api, AdminSite(door, admin, maintenance, feed, shares))


def client_secret(config: Config) -> str:
    """Of the identity provider; "" for a public client.

    Raises:
        ConfigError: ``oidc_secret_missing``.
    """
    reference = config.oidc.client_secret
    if not reference:
        return ""
    path = Path(reference.removeprefix("file:"))
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        secret = ""
    if not secret:
        raise ConfigError("oidc_secret_missing", f"There is no client secret in {path}.", "See [oidc] in choir.toml.")
    return secret
