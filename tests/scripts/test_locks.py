"""The lock files pin every file by hash and name no package index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENT = re.compile(r"(?m)^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)(?: ;[^\\]*)? ?\\$")


def pinned(name: str) -> dict[tuple[str, str], int]:
    """(package, version) → how many hashes."""
    text = (ROOT / name).read_text()
    parts = REQUIREMENT.split(text)
    assert parts[0] == ""
    return {(parts[at], parts[at + 1]): parts[at + 2].count("--hash=sha256:") for at in range(1, len(parts), 3)}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-uv.lock"])
def test_hashes_and_no_index(name: str) -> None:
    assert "://" not in (ROOT / name).read_text()
    found = pinned(name)
    assert found
    assert all(found.values()), [each for each, hashes in found.items() if not hashes]


def test_development_adds_to_what_runs() -> None:
    assert pinned("requirements.lock").keys() < pinned("requirements-dev.lock").keys()


def test_what_an_editable_install_needs_is_pinned() -> None:
    assert {"hatchling", "editables"} <= {name for name, _ in pinned("requirements.lock")}


@pytest.mark.parametrize("folder", ["tests/double", "tests/agents"])
def test_npm(folder: str) -> None:
    packages = json.loads((ROOT / folder / "package-lock.json").read_text())["packages"]
    assert len(packages) > 1
    for name, package in packages.items():
        assert "resolved" not in package
        assert name == "" or package["integrity"].startswith("sha512-")
