"""The wheel as somebody who has nothing else meets it."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    for needed in ("choir/data/units.toml", "choir/sandbox/static/desktop.html", "choir/hypervisor/static/choir.css"):
        assert needed in names
    assert not [name for name in names if not name.startswith("choir")]
    assert not [name for name in names if re.search(r"__pycache__|\.env|node_modules|\.ts$", name)]
    assert str(ROOT) not in metadata


def test_the_bill_of_materials() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/sbom.py", "sbom"], capture_output=True, text=True, timeout=60, check=True
    )
    document = json.loads(done.stdout)
    components = {each["name"]: each for each in document["components"]}
    assert {"aiohttp", "uvloop", "starlette"} <= set(components)
    assert "hatchling" not in components
    for each in components.values():
        assert each["version"], each["name"]
        assert each["hashes"], each["name"]
        assert each["licenses"][0]["license"]["name"] != "not stated", each["name"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Installed by pip from the index or its cache; needs one of them."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    subprocess.run([venv / "bin/pip", "install", "--quiet", wheel], check=True, timeout=600)
    project = tmp_path / "project"
    project.mkdir()
    home = tmp_path / "home"
    home.mkdir()
    key = f"sk-{secrets.token_hex(24)}"  # of nobody: without a provider there is nothing to run for
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "CHOIR_STATE": str(tmp_path / "s"),
        "OPENAI_API_KEY": key,
    }
    choir = venv / "bin/choir"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [choir, *arguments], cwd=project, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("version").strip()
    assert run("run", "--", "sh", "-c", "echo in here").strip() == "in here"
    up = subprocess.Popen([choir, "up", "--port", "0"], cwd=home, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        said = ""
        while "isolation  " not in said:
            line = up.stdout.readline()
            assert line, said
            said += line
        assert json.loads(run("sandbox", "start", "--json"))["sandbox"]["state"] == "ready"
    finally:
        up.terminate()
        up.communicate(timeout=30)
    assert os.listdir(project) == []
