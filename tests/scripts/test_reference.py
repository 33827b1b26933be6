"""docs/reference/ says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts/reference.py"))


@pytest.mark.parametrize("name", ["command-line.md", "configuration.md"])
def test_is_current(reference: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # however wide the terminal is
    assert (ROOT / "docs/reference" / name).read_text() == reference["pages"]()[name], "python scripts/reference.py"


def test_every_key_is_there(reference: dict[str, Any]) -> None:
    text = reference["pages"]()["configuration.md"]
    for name in ("[providers.NAME]", "[limits]", "`requests_per_minute`", "`idle_stop`", "`carrier`"):
        assert name in text
