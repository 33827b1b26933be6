"""``choir secrets check``: which providers have a usable key; never the key."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any

from choir import config as configuration
from choir.app.local import LocalModel
from choir.app.secrets import LOCAL_SERVICE, environment_secrets
from choir.cli.usage import table
from choir.deploy.units import Deployment
from choir.errors import EXIT_FAILED, UsageError
from choir.places import clean_environment
from choir.service import Service

HEADINGS = ("provider", "key", "", "")


def secrets(arguments: argparse.Namespace) -> int:
    """Exit code 1 when a provider that choir.toml names has no usable key, or a key is open to others.

    Raises:
        UsageError: ``no_env_file``.
        ConfigError: the configuration, or the file of variables as a whole, is wrong.
    """
    if arguments.env_file and not os.path.isfile(arguments.env_file):
        raise UsageError("no_env_file", f"There is no file {arguments.env_file}.", "Give --env-file one of keys.")
    found = asyncio.run(_ask(arguments))
    if arguments.json:
        print(json.dumps(found))
    else:
        print(table(HEADINGS, [_row(each) for each in found]))
    return EXIT_FAILED if any(_bad(each) for each in found) else 0


async def _ask(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    config = configuration.load(arguments.config)
    environment = clean_environment(os.environ)
    units = Deployment.keys / "providers.env"
    if arguments.env_file:
        environment["CHOIR_ENV_FILE"] = str(arguments.env_file.absolute())
    elif "CHOIR_ENV_FILE" not in environment and not config.env_file.exists() and os.access(units, os.R_OK):
        environment["CHOIR_ENV_FILE"] = str(units)
    checker = Service.spawn("key check", "choir.gateway.key_check", environment=environment)
    try:
        answer = await checker.start(
            {
                "config": str(config.path) if config.path else None,
                "secrets": environment_secrets(config, os.environ),
                "services": {LOCAL_SERVICE: "there"} if LocalModel.available() else {},
            }
        )
    finally:
        await asyncio.to_thread(checker.stop)
    keys: list[dict[str, Any]] = answer["keys"]
    return keys


def _bad(one: dict[str, Any]) -> bool:
    return not one["ok"] and (one["named"] or one["reason"] != "no_key")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    words = "usable" if one["ok"] else "none" if one["reason"] == "no_key" else "not usable"
    return one["provider"], one["reference"] or "needs none", words, f"{one['message']} {one['hint']}".strip()
