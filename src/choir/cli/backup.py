"""``choir backup`` and ``choir restore``: a deployment as one file, and back."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec

from choir.cli.sandbox import Hypervisor
from choir.errors import ChoirError, StartError
from choir.hypervisor.backup import Manifest, name_for, stage, write
from choir.paths import State


def backup(state: State, arguments: argparse.Namespace) -> int:
    path = Path(arguments.output or name_for(time.time()))
    manifest = write(state, path)
    homes = sum(name.startswith("homes/") for name in manifest.sha256)
    left = f"; {manifest.left_out} sockets and the like were left out" if manifest.left_out else ""
    words = f"{path}: people, usage and {homes} homes, {path.stat().st_size / 1e6:,.1f} MB{left}."
    print(
        msgspec.json.encode(manifest).decode()
        if arguments.json
        else f"{words}\nIt holds everything people keep here: look after it."
    )
    return 0


def restore(state: State, arguments: argparse.Namespace) -> int:
    state.prepare()
    try:
        file = open(arguments.file, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ChoirError("backup_broken", f"Cannot read {arguments.file}: {error.strerror}.") from error
    with file:
        manifest = stage(state, file)
    where = _apply(state)
    print(msgspec.json.encode(manifest).decode() if arguments.json else _said(manifest, where))
    return 0


def _apply(state: State) -> str:
    """Have a running hypervisor take it over now: it ends in order, and its supervisor starts it again."""
    with contextlib.suppress(StartError), Hypervisor(state) as hypervisor:
        os.kill(int(hypervisor.ask("status")["pid"]), signal.SIGTERM)
        return "Sandboxes are stopped and the hypervisor starts again with it now."
    return "It is taken over at the next `choir up`."


def _said(manifest: Manifest, where: str) -> str:
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.created))
    return f"The backup of {made} is checked. {where}\nWhat was there is kept in the state folder as replaced-*."
