"""``python -I -m choir.gateway.main --channel-fd N``: the gateway's process. See ``choir.service`` for its start.

Start message: ``{"state": DIR, "run": name of its folder for sockets, "config": PATH or null, "token_key": base64,
"secrets": {NAME: value}, "services": {"local": key}, "drain_seconds"}``. Answer: ``{"ready": true, "pid",
"worker_pid", "providers"}``. With a descriptor, a channel to whoever has the secrets, it asks there: ``{"want":
[NAME]}``, ``{"secrets": {NAME: value}}``; and it answers twice, as soon as it has looked for keys with
``{"providers"}`` alone. It then waits for ``{"op": "serve"}``: what else it has to do is in the way of a sandbox that
starts at the same time.

This process keeps the secrets and the control socket and does nothing else (``choir.gateway.master``); a forked worker
takes the calls. A worker that dies is forked again; control clients then find their connection closed, connect again
and attach again. What serves is imported once the providers are known: somebody may be waiting for those.
"""

from __future__ import annotations

import _socket
import binascii
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from choir import run_config
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import StartError
from choir.gateway.credentials import Credentials
from choir.gateway.hardening import harden
from choir.paths import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from choir.config import Config
    from choir.contract import ProviderStatus
    from choir.gateway.admission import Settings
    from choir.gateway.worker import LoadSettings


class Start(NamedTuple):
    """The start message. Never printed."""

    state: str
    token_key: str
    run: str = "run"
    config: str | None = None
    secrets: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    services: dict[str, str] = {}  # noqa: RUF012
    drain_seconds: float = 3.0
    """How long open calls may go on when the gateway is stopped."""

    def __repr__(self) -> str:
        return "<Start>"

    @classmethod
    def take(cls, message: Message) -> Start:
        """
        Raises:
            StartError: ``start_message_invalid``.
        """
        try:
            start = cls(**message)
            binascii.a2b_base64(start.token_key, strict_mode=True)
        except (TypeError, ValueError) as error:
            raise StartError("start_message_invalid", "The gateway's start message is not understood.") from error
        kinds = (str, str, str, str | None, dict, dict, int | float)
        if not all(map(isinstance, start, kinds)):
            raise StartError("start_message_invalid", "The gateway's start message is not understood.")
        return start


class Found(NamedTuple):
    """What was configured, and what keys there are. Never printed."""

    config: Config
    keys: dict[str, dict[str, str]]
    """By provider and reference, of those that are enabled."""
    disabled: dict[str, str]
    """Why not, by provider."""

    def __repr__(self) -> str:
        return "<Found>"

    def status(self) -> list[dict[str, object]]:
        """``choir.contract.ProviderStatus`` of each, in JSON."""
        return [
            {"name": name, "enabled": name not in self.disabled, "reason": self.disabled.get(name, "")}
            for name in self.config.providers
        ]


def find(start: Start, config: Config) -> Found:
    """The keys of what is configured.

    Raises:
        ConfigError: one of them, or their file, is wrong.
    """
    keys, disabled = Credentials(config, start.secrets, start.services).all(config.providers.values())
    return Found(config, keys, disabled)


def tell_providers(start: Start, channel: Channel, holder: Channel) -> Start:
    """Ask ``holder`` for the variables that are configured, say on ``channel`` which providers that gives, and wait
    until the rest is wanted. ``start`` with the variables.

    Raises:
        ChannelClosed: whoever started this is gone.
        ConfigError: as ``find``, or the configuration is wrong.
    """
    config = run_config.load(start.config)
    try:
        holder.send({"want": config.key_variables})
        secrets = holder.receive()[0].get("secrets", {})
    finally:
        holder.close()
    start = start._replace(secrets=secrets)
    channel.send({"providers": find(start, config).status()})
    channel.receive()
    return start


def settings_loader(start: Start) -> LoadSettings:
    """Reads configuration and keys anew each time it is called, e.g. for a reload."""
    import msgspec

    from choir import config as configuration
    from choir import user_limits
    from choir.contract import ProviderStatus
    from choir.gateway.admission import Settings
    from choir.gateway.prices import PriceTable
    from choir.gateway.routing import Table
    from choir.gateway.worker import build_upstreams

    state = State(Path(start.state), start.run)

    def load(wanted: Callable[[str], None]) -> tuple[Settings, list[ProviderStatus]]:
        config = configuration.load(Path(start.config) if start.config else None)
        config = user_limits.merged(config, user_limits.read(state.limits))
        found = find(start, config)
        table = Table(config.providers.values(), found.disabled)
        upstreams = build_upstreams(config, found.keys, state.run, wanted)
        providers = msgspec.convert(found.status(), list[ProviderStatus])
        return Settings(config, table, upstreams, PriceTable(config.prices)), providers

    return load


def run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    """The whole life of the process."""
    start = Start.take(message)
    message.clear()
    harden()
    if descriptors:
        try:
            start = tell_providers(start, channel, Channel(_socket.socket(fileno=descriptors.pop())))
        except ChannelClosed:  # nobody is there any more
            return
    from choir.gateway import master

    state = State(Path(start.state), start.run)
    token_key = binascii.a2b_base64(start.token_key)
    master.serve(channel, state, token_key, settings_loader(start), start.drain_seconds)


def main() -> None:
    from choir.service import serve

    serve(run)


if __name__ == "__main__":
    main()
