"""Whether a version holds on this machine: its own ``choir verify`` and ``choir doctor``, as an operator runs them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from choir.deploy.journal import Deployment

SECONDS = 600.0


def failing(choir: Path, deployment: Deployment) -> frozenset[str]:
    """The names of the checks that failed; of an audit that could not be tried its reason.

    Args:
        choir: the command of the version to be judged.
    """
    found = set()
    for words in (("doctor", "--json"), ("verify", "--json")):
        config = ("--config", deployment.config) if deployment.config else ()
        try:
            done = subprocess.run(
                [str(choir), *words, "--state", deployment.state, *config],
                capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL, cwd="/",
            )  # fmt: skip
            found |= _failed(words[0], json.loads(done.stdout or "null"), done.returncode)
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            found.add(f"{words[0]}: {type(error).__name__}")
    return frozenset(found)


def _failed(command: str, said: Any, code: int) -> set[str]:
    if isinstance(said, dict) and "error" in said:
        return {f"{command}: {said['error']['reason']}"}
    checks = said.get("checks") if isinstance(said, dict) else said
    names = {str(check["name"]) for check in checks or () if not check["ok"]}
    return names or ({f"{command}: exit code {code}"} if code else set())
