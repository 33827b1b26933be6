"""What stands behind the small wrappers that version managers put on PATH. Reads their files, runs none of them."""

from __future__ import annotations

import re
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def behind(found: Path, workspace: Path, environment: Mapping[str, str]) -> Path | None:
    """The executable that ``found`` stands for: itself when it is no wrapper; None when the manager has none in use."""
    if found.parent.name == "shims" and (found.parent.parent / "versions").is_dir():
        return _pyenv(found, workspace, environment)
    if found.parent.name == "bin" and found.resolve().name.startswith("volta"):
        return _volta(found, workspace)
    if found.resolve().name == "rustup" and found.name != "rustup":
        return _rustup(found, environment)
    return found


def versions(shim: Path) -> list[str]:
    """The pyenv versions that have the command of ``shim``, or [] when it is no shim of pyenv."""
    if shim.parent.name != "shims" or not shim.is_file():
        return []
    return sorted(
        (path.parent.parent.name for path in shim.parent.parent.glob(f"versions/*/bin/{shim.name}")), key=_natural
    )


def _pyenv(shim: Path, workspace: Path, environment: Mapping[str, str]) -> Path | None:
    """As pyenv decides: PYENV_VERSION, else .python-version of the folder or one above, else the global file."""
    root = shim.parent.parent
    for name in _pyenv_names(root, workspace, environment):
        if name == "system":
            continue
        for folder in _matching(root / "versions", name.removeprefix("python-")):
            candidate = folder / "bin" / shim.name
            if candidate.is_file():
                return candidate
    return None


def _pyenv_names(root: Path, workspace: Path, environment: Mapping[str, str]) -> list[str]:
    if environment.get("PYENV_VERSION"):
        return environment["PYENV_VERSION"].split(":")
    for file in (*(folder / ".python-version" for folder in (workspace, *workspace.parents)), root / "version"):
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        names = [word for line in text.splitlines() for word in line.partition("#")[0].split()]
        # A workspace's file is the agent's to write: a name, never a path.
        return [name for name in names if "/" not in name and name not in (".", "..")]
    return []


def _matching(folder: Path, name: str) -> list[Path]:
    """The version called ``name``, else the newest that begins with it ("3.11" → 3.11.9)."""
    if (folder / name).is_dir():
        return [folder / name]
    if not folder.is_dir():
        return []
    return sorted(
        (each for each in folder.iterdir() if each.name.startswith(name + ".")), key=lambda each: _natural(each.name)
    )[-1:]


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def _volta(shim: Path, workspace: Path) -> Path | None:
    """Volta's layout: ``tools/user/platform.json`` and ``bins/NAME.json`` name the versions in ``tools/image``."""
    tools = shim.parent.parent / "tools"
    user = tools / "user"
    if shim.name in ("node", "npm", "npx"):
        version = _project_node(workspace) or _get(_read(user / "platform.json"), "node", "runtime")
        return _existing(tools / "image" / "node" / version / "bin" / shim.name) if version else None
    package = _get(_read(user / "bins" / f"{shim.name}.json"), "package")
    if package is None:
        return None
    return _existing(tools / "image" / "packages" / package / "bin" / shim.name)


def _project_node(workspace: Path) -> str | None:
    version = _get(_read(workspace / "package.json"), "volta", "node")
    return version if version and re.fullmatch(r"[0-9A-Za-z.-]+", version) and ".." not in version else None


def _rustup(found: Path, environment: Mapping[str, str]) -> Path | None:
    """rustup's layout: ``settings.toml`` names the toolchain in ``toolchains``."""
    import tomllib

    root = Path(environment.get("RUSTUP_HOME") or found.parent.parent.parent / ".rustup")
    try:
        settings = tomllib.loads((root / "settings.toml").read_text())
    except (OSError, ValueError):
        return None
    toolchain = environment.get("RUSTUP_TOOLCHAIN") or _get(settings, "default_toolchain")
    return _existing(root / "toolchains" / toolchain / "bin" / found.name) if toolchain else None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def _read(path: Path) -> Any:
    import json

    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _get(value: Any, *keys: str) -> str | None:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None
