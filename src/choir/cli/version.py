"""``choir version``."""

from __future__ import annotations

import argparse
import asyncio
import json

from choir import __version__


def version(arguments: argparse.Namespace) -> int:
    if not arguments.full:
        print(json.dumps({"choir": __version__}) if arguments.json else __version__)
        return 0
    from choir.app.version import facts

    found = asyncio.run(facts())
    if arguments.json:
        print(json.dumps(found))
    else:
        width = max(map(len, found))
        print("\n".join(f"{name:{width}}  {value}" for name, value in found.items()))
    return 0
