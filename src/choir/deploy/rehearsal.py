"""``python -I -m choir.deploy.rehearsal``: another version of Choir, asked by the one in force whether it fits.

Standard input, JSON, every part optional: ``{"config": FILE, "registry": COPY, "usage": COPY}``; the copies are opened
as a start would, and so migrated. Standard output: ``{"choir": version, "registry": its newest format, "memory": its
newest format}`` or ``{"error": {"reason", "message", "hint"}}``. What is here stays so in later versions; more may be
added.
"""

from __future__ import annotations

import importlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from choir import __version__, config
from choir.deploy.journal import Schema
from choir.errors import ChoirError
from choir.sandbox.memory import schema as memory
from choir.storage import registry
from choir.storage.ledger import Ledger

SECONDS = 600.0
SERVICES = (
    *("choir.app.supervise", "choir.app.hypervisor", "choir.gateway.main", "choir.gateway.worker"),
    *("choir.local_model.main", "choir.isolation.template_main", "choir.sandbox.desktop", "choir.cli.client"),
)
"""What is started later must at least be complete."""


def own_schema() -> Schema:
    """Of this version."""
    return Schema(registry=len(registry.MIGRATIONS), memory=memory.VERSION)


def ask(environment: Path, question: dict[str, str]) -> Schema:
    """
    Raises:
        ChoirError: ``version_unusable``, or the other version's own reason.
    """
    command = [str(environment / "bin" / "python"), "-I", "-m", "choir.deploy.rehearsal"]
    try:
        done = subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
        if done.returncode:
            raise ValueError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
        answer: dict[str, Any] = json.loads(done.stdout)
        if "error" in answer:
            error = answer["error"]
            raise ChoirError(str(error["reason"]), str(error["message"]), str(error["hint"]))
        if answer["choir"] != environment.name:
            raise ValueError(f"it says it is {answer['choir']}")
        return Schema(registry=int(answer["registry"]), memory=int(answer["memory"]))
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise ChoirError("version_unusable", f"The version in {environment} does not run: {error}.") from error


def answer(question: dict[str, str]) -> dict[str, Any]:
    """
    Raises:
        ChoirError: this version does not take the configuration, or a database.
    """
    for name in SERVICES:
        importlib.import_module(name)
    config.load(Path(question["config"]) if "config" in question else None)
    if "registry" in question:
        registry.Registry(Path(question["registry"])).close()
    if "usage" in question:
        ledger = Ledger(Path(question["usage"]))
        try:
            ledger.append([])
        except sqlite3.Error as error:
            raise ChoirError("ledger_unusable", f"The usage ledger cannot be taken over: {error}.") from error
        finally:
            ledger.close()
    schema = own_schema()
    return {"choir": __version__, "registry": schema.registry, "memory": schema.memory}


def main() -> None:
    try:
        said = answer(json.load(sys.stdin))
    except ChoirError as error:
        said = {"error": error.as_dict()}
    print(json.dumps(said))


if __name__ == "__main__":
    main()
