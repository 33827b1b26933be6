"""``choir install systemd``: write the units and accounts of a server, or show them; ``choir install keys``."""

from __future__ import annotations

import argparse
from pathlib import Path

from choir.deploy import install as deploy
from choir.deploy.units import Deployment

NEXT = """
Next:
  1. put provider keys into {keys}/providers.env
  2. {choir} config check --config {config}
  3. systemctl enable --now choir-gateway choir-model choir.socket choir choir-verify.timer
  4. {choir} verify --state {state}
"""


def install(arguments: argparse.Namespace) -> int:
    """
    Raises:
        StartError, ConfigError: nothing of the file it names was written.
    """
    state = arguments.state.absolute() if arguments.state else Deployment.state
    if arguments.kind == "keys":
        return _put(deploy.keys(state), arguments.dry_run)
    deployment = Deployment(
        choir=Deployment.choir if arguments.dry_run else deploy.command(),
        config=arguments.config.absolute() if arguments.config else Deployment.config,
        state=state,
        listen=arguments.listen,
    )
    _put(deploy.files(deployment, Path("/etc")), arguments.dry_run)
    if arguments.dry_run:
        return 0
    deploy.activate()
    print(NEXT.format(keys=deployment.keys, choir=deployment.choir, config=deployment.config, state=state), end="")
    return 0


def _put(files: list[deploy.File], dry_run: bool) -> int:
    for file in files:
        if not dry_run:
            print(f"{'wrote' if deploy.write(file) else 'kept '} {file.path}")
            continue
        print(f"# {file.describe()}")
        if not file.secret:
            print(file.content.decode())
    return 0
