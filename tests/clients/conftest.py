"""Every program of ``programs/`` in one sandbox, once; the tests look at what it said, did and left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .vendors import Vendors, running_vendors

CHOIR = Path(sys.executable).parent / "choir"
PROGRAMS = Path(__file__).with_name("programs")

CONFIG = """
[providers.openai]
base_url = "{openai}/v1"
key = "env:K_OPENAI"
[providers.anthropic]
base_url = "{anthropic}"
key = "env:K_ANTHROPIC"
[providers.google]
base_url = "{google}"
key = "env:K_GOOGLE"
[providers.mistral]
base_url = "{mistral}"
key = "env:K_MISTRAL"
[providers.aws-bedrock]
base_url = "{bedrock}"
key = "env:K_BEDROCK"
[providers.azure]
base_url = "{azure}"
key = "env:K_AZURE"
[providers.tavily]
base_url = "{tavily}"
key = "env:K_TAVILY"
[providers.exa]
base_url = "{exa}"
key = "env:K_EXA"
[providers.brave]
base_url = "{brave}"
key = "env:K_BRAVE"
"""


@dataclass
class Person:
    """Somebody with a home, a state folder and a project."""

    root: Path
    vendors: Vendors

    @property
    def project(self) -> Path:
        return self.root / "project"

    def configure(self, template: str) -> None:
        urls = {vendor: self.vendors.url(vendor) for vendor in self.vendors.keys}
        config = self.root / "home" / ".config" / "choir" / "choir.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(template.format(**urls))

    def choir(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        keys = {f"K_{vendor.upper()}": key for vendor, key in self.vendors.keys.items()}
        return subprocess.run(
            [CHOIR, *arguments],
            cwd=self.project,
            env={
                "HOME": str(self.root / "home"),
                "PATH": f"{CHOIR.parent}:/usr/bin:/bin",
                "CHOIR_STATE": str(self.root / "s"),
                "LANG": "C.UTF-8",
                **keys,
            },
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )

    def records(self) -> list[dict[str, Any]]:
        done = self.choir("usage", "--json", "--limit", "200")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    with running_vendors() as running:
        yield running


@pytest.fixture(scope="module")
def person(vendors: Vendors) -> Iterator[Person]:
    # Not tmp_path: a unix socket's path has 107 bytes, and the sandbox's uid must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    for name in ("home", "project"):
        (root / name).mkdir()
    yield Person(root, vendors)
    shutil.rmtree(root)


@dataclass
class Ran:
    """What the programs did."""

    said: dict[str, Any]
    """By program: its JSON, or its last words."""
    environment: dict[str, str]
    records: list[dict[str, Any]]
    stderr: str

    def records_of(self, provider: str, route: str) -> list[dict[str, Any]]:
        """Oldest first."""
        found = [each for each in self.records if each["provider"] == provider and each["route"] == route]
        return sorted(found, key=lambda each: each["ts"])


@pytest.fixture(scope="module")
def ran(person: Person) -> Ran:
    person.configure(CONFIG)
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, person.project)
    script = "env -0 > env.out; for p in *.py; do python3 $p > $p.out 2> $p.err; done"
    done = person.choir("run", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    said = {}
    for program in PROGRAMS.glob("*.py"):
        out = (person.project / f"{program.name}.out").read_text()
        err = (person.project / f"{program.name}.err").read_text()
        said[program.stem] = json.loads(out) if out else err[-3000:]
        said[program.stem + ".err"] = err
    pairs = (person.project / "env.out").read_text().split("\0")
    environment = dict(pair.split("=", 1) for pair in pairs if pair)
    return Ran(said, environment, person.records(), done.stderr)
