"""``python -I -m choir.gateway.key_check --channel-fd N``: which providers have a usable key, in a process that ends.

Start message: ``{"config", "secrets", "services"}``, as the gateway's. Answer: ``{"ready": true, "keys": [{"provider",
"reference", "named", "ok", "reason", "message", "hint"}]}``. No key, nor a part or a hash of one, leaves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from choir import config as configuration
from choir.channel import Channel, Message
from choir.config import Config
from choir.errors import ConfigError
from choir.gateway.credentials import Credentials, Unresolved
from choir.service import serve


def check(config: Config, secrets: dict[str, str], services: dict[str, str]) -> list[dict[str, Any]]:
    """One finding for each reference of each provider; a provider that needs no key has one with an empty reference.

    Raises:
        ConfigError: the file of variables is no good as a whole.
    """
    credentials = Credentials(config, secrets, services)
    found = []
    for provider in config.providers.values():
        for reference in provider.keys or ("",):
            finding = {"provider": provider.name, "reference": reference, "named": provider.named}
            try:
                if reference:
                    credentials.key(provider, reference)
            except Unresolved as unresolved:
                said = {"ok": False, "reason": unresolved.reason, "message": str(unresolved), "hint": ""}
            except ConfigError as error:
                said = {"ok": False, **error.as_dict()}
            else:
                said = {"ok": True, "reason": "", "message": "", "hint": ""}
            found.append({**finding, **said})
    return found


def run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    from choir.gateway.hardening import harden

    harden()
    path = message.get("config")
    config = configuration.load(Path(path) if path else None)
    channel.send({"ready": True, "keys": check(config, message["secrets"], message["services"])})


def main() -> None:
    serve(run)


if __name__ == "__main__":
    main()
