"""``choir config check``: what is wrong, with the line; or what is in force. ``apply``: put it in force where Choir
runs, without ending a call."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

import msgspec

from choir import config as configuration
from choir.channel import Message
from choir.config import Config
from choir.control_client import GatewayControl, running_gateways
from choir.errors import ChoirError, ConfigError, StartError
from choir.gateway.changes import Change, sentence
from choir.paths import State


def config(state: State, arguments: argparse.Namespace) -> int:
    """
    Raises:
        ConfigError: something is wrong with it; nothing was changed.
        StartError, ChoirError: apply: no gateway runs, or it uses another file.
    """
    loaded = configuration.load(arguments.config)
    if arguments.action == "apply":
        return asyncio.run(_apply(loaded, state, arguments.json))
    providers = {name: provider.base_url for name, provider in loaded.providers.items()}
    if arguments.json:
        print(json.dumps({"path": str(loaded.path) if loaded.path else None, "providers": providers}))
        return 0
    print(f"{_named(loaded)}: fine")
    widest, longest = (max(map(len, column), default=0) for column in (providers, providers.values()))
    for name, url in providers.items():
        keys = ", ".join(loaded.providers[name].keys)
        print(f"  {name:{widest}}  {url:{longest}}  {f'key {keys}' if keys else 'no key needed'}")
    print("  Which of these keys there are: choir secrets check")
    return 0


async def _apply(loaded: Config, state: State, as_json: bool) -> int:
    running = list(running_gateways(state))
    if not running:
        raise StartError(
            "gateway_unreachable",
            f"{_named(loaded)} is fine, but no gateway runs on {state.root}: it takes effect at the next start.",
            "Start Choir, or say where it runs with --state DIR.",
        )
    told = [await _reload(loaded, socket) for socket in running]
    if as_json:
        print(json.dumps({"path": str(loaded.path) if loaded.path else None, "gateways": told}))
        return 0
    print(f"{_named(loaded)}: in force")
    for answer in told:
        if len(told) > 1:
            print(f"gateway {answer['pid']}:")
        changes = msgspec.convert(answer["changes"], list[Change])
        for change in changes:
            print(f"  {sentence(change)}")
        if len(changes) < answer["change_count"]:
            print(f"  … and {answer['change_count'] - len(changes)} more")
        if not changes:
            print("  nothing changed")
    return 0


async def _reload(loaded: Config, socket: Path) -> Message:
    control = GatewayControl(socket)
    try:
        status = await control.status()
        named = str(loaded.path) if loaded.path else None
        # One that was started without a file looks again where one may be.
        looks = status["config"] is None and loaded.path == configuration.find()
        if status["config"] != named and not looks:
            raise _differs(status, loaded)
        try:
            answer = await control.reload()
        except ChoirError as error:
            # Of what only the gateway can see, such as a key's file.
            raise ConfigError(error.reason, f"{error.message} The gateway keeps what it had.", error.hint) from None
        if looks and (now := await control.status())["config"] != named:  # another account's places
            raise _differs(now, loaded)
        return {"pid": status["pid"], "changes": answer["changes"], "change_count": answer["change_count"]}
    finally:
        await control.close()


def _differs(status: Message, loaded: Config) -> ChoirError:
    return ChoirError(
        "config_differs",
        f"The gateway (pid {status['pid']}) uses {status['config'] or 'no choir.toml'}, not {_named(loaded)}.",
        "Name its file with --config, or stop Choir and start it again: the file is chosen at the start.",
    )


def _named(loaded: Config) -> str:
    return str(loaded.path) if loaded.path else "no choir.toml, defaults"
