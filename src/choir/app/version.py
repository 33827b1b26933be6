"""``choir version --full``: everything a bug report needs, and nothing that is secret."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
from pathlib import Path

from choir import __version__

LIBRARIES = ("aiohttp", "httptools", "msgspec", "numpy", "starlette", "uvicorn", "uvloop", "webauthn", "xllamacpp")


async def facts() -> dict[str, str]:
    """Name and value, in the order to show them."""
    return {
        "choir": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "installed in": sys.prefix,
        "system": distribution(),
        "kernel": f"{platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        "sqlite": sqlite3.sqlite_version,
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "run as": "root" if os.geteuid() == 0 else "an ordinary user",
        "isolation": await _isolation(),
    }


def distribution(path: Path = Path("/etc/os-release")) -> str:
    """PRETTY_NAME of os-release(5), or what Python knows."""
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition("=")
            if name == "PRETTY_NAME":
                return value.strip("\"'")
    except OSError:
        pass
    return platform.system()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


async def _isolation() -> str:
    import tempfile

    from choir.errors import ChoirError
    from choir.isolation import backends

    with tempfile.TemporaryDirectory() as folder:
        try:
            return await backends.choose("bubblewrap", Path(folder)).probe()
        except ChoirError as error:
            return f"not usable: {error.reason}: {error.message}"
