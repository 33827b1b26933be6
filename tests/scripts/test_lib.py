"""scripts/lib.sh on machines that lack something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A PATH of its own, with what every machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "id", "cat", "rm", "mkdir"):
        (folder / name).symlink_to(next(path for path in (f"/usr/bin/{name}", f"/bin/{name}") if os.path.exists(path)))
    return folder


def put(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def lib(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    places = f"CACHE={folder.parent}/cache\nSYSTEM_PYTHON={folder}/system"
    script = f'set -euo pipefail\n. "{ROOT}/scripts/lib.sh"\n{places}\n{commands}\n'
    environment = {"PATH": str(folder), "HOME": str(folder.parent)}
    return subprocess.run(["/bin/bash", "-c", script], env=environment, capture_output=True, text=True)


OLD = "exit 1  # what the question for the version answers"
NEW = f'exec "{sys.executable}" "$@"'


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"python3": NEW}, True),
        ({"python3.12": "exit 127  # a version manager's wrapper without a version", "python3": NEW}, True),
        ({"python3": OLD, "python3.11": NEW}, True),
        ({"python3": OLD}, False),
        ({}, False),
    ],
)
def test_python(bin_folder: Path, there: dict[str, str], taken: bool) -> None:
    for name, script in there.items():
        put(bin_folder, name, script)
    done = lib(bin_folder, 'find_python; echo "$PYTHON"')
    if taken:
        assert done.stdout.strip() == sys.executable
    else:
        assert done.returncode == 69
        assert "Python 3.11" in done.stderr


def test_the_systems_python_goes_first(bin_folder: Path) -> None:
    put(bin_folder, "python3", "echo anothers")
    put(bin_folder, "system", NEW)
    assert lib(bin_folder, 'find_python; echo "$PYTHON"').stdout.strip() == sys.executable
    put(bin_folder, "system", f'case "$*" in *sqlite3*) exit 1;; *) {NEW};; esac  # without all of its library')
    assert lib(bin_folder, 'find_python; echo "$PYTHON"').stdout.strip() == "anothers"


def test_uv_on_the_path_is_used(bin_folder: Path) -> None:
    put(bin_folder, "uv", "echo uv 1")
    assert lib(bin_folder, 'find_uv; echo "$UV"').stdout.strip() == "uv"


def test_without_uv_and_pip_it_says_what_to_install(bin_folder: Path) -> None:
    put(bin_folder, "uv", "exit 127")
    put(bin_folder, "python3", f'case "$*" in *pip*|*venv*) exit 1;; *) {NEW};; esac')
    done = lib(bin_folder, f"PYTHON={bin_folder}/python3; find_uv")
    assert done.returncode == 69
    assert "python3-pip" in done.stderr


def test_a_home_that_cannot_be_written_is_not_needed(bin_folder: Path) -> None:
    done = lib(bin_folder, f'HOME=/nonexistent; . "{ROOT}/scripts/lib.sh"; echo "$UV_CACHE_DIR $npm_config_cache"')
    assert done.stdout.split() == [f"{ROOT}/.cache/uv-cache", f"{ROOT}/.cache/npm"]
