"""``choir config check``: what is wrong, with the line; or what is in force."""

from __future__ import annotations

import argparse
import json

from choir import config as configuration


def config(arguments: argparse.Namespace) -> int:
    """Print the file in force and its providers.

    Raises:
        ConfigError: something is wrong with it.
    """
    loaded = configuration.load(arguments.config)
    providers = {name: provider.base_url for name, provider in loaded.providers.items()}
    if arguments.json:
        print(json.dumps({"path": str(loaded.path) if loaded.path else None, "providers": providers}))
        return 0
    print(f"{loaded.path or 'no choir.toml, defaults'}: fine")
    for name, url in providers.items():
        key = loaded.providers[name].key
        print(f"  {name:12} {url}  {f'key {key}' if key else 'no key needed'}")
    return 0
