"""The part of the configuration that a ``choir run`` needs, without the libraries that read and check it: those read it
once, and it is kept (``choir.kept``) until a file of it changes.
"""

from __future__ import annotations

import os
import sys

from choir.kept import kept
from choir.places import data_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any

    from choir.config import Config, Provider


class RunConfig:
    """As ``choir.config.Config``, with the attributes that are here.

    Args:
        found: ``path``, ``sandbox`` and ``providers`` of one, in JSON.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        from pathlib import Path

        self.path = Path(found["path"]) if found["path"] else None
        self.sandbox = _Entry(found["sandbox"])
        self.providers = {name: _Entry(fields) for name, fields in found["providers"].items()}

    @property
    def key_variables(self) -> list[str]:
        return key_variables(self.providers.values())  # type: ignore[arg-type]

    @property
    def env_file(self) -> Path:
        return env_file(self.path)


class _Entry:
    """A ``Provider`` or a ``SandboxEntry``."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.__dict__.update({name: tuple(each) if isinstance(each, list) else each for name, each in fields.items()})


def load(path: str | None = None) -> Config:
    """``choir.config.load``, of which a run, and its gateway's first answer, may use what a ``RunConfig`` has.

    Raises:
        ConfigError: as ``choir.config.load``.
    """
    found = path or next(filter(os.path.isfile, places()), "")
    package = os.path.dirname(os.path.abspath(__file__))
    code = (__file__, f"{package}/config.py", data_file("providers.toml"), sys.executable)
    return RunConfig(kept("config", (found, *code), lambda: _read(found)))  # type: ignore[return-value]


def _read(path: str) -> Any:
    from pathlib import Path

    import msgspec

    from choir import config

    found = config.load(Path(path) if path else None)
    return msgspec.to_builtins(
        {
            "path": str(found.path) if found.path else "",
            "sandbox": found.sandbox,
            "providers": found.providers,
        }
    )


def config_home() -> str:
    """``$XDG_CONFIG_HOME/choir``, by default ``~/.config/choir``."""
    return os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "choir")


def places() -> tuple[str, str]:
    """Where a choir.toml is looked for when none is named; the first there is is in force."""
    return os.path.join(config_home(), "choir.toml"), "/etc/choir/choir.toml"


def key_variables(providers: Iterable[Provider]) -> list[str]:
    """The variables that providers' references name (``env:``)."""
    references = [key for provider in providers for key in provider.keys]
    return sorted({key.removeprefix("env:") for key in references if key.startswith("env:")})


def env_file(path: Path | None) -> Path:
    """Lines KEY=VALUE with provider keys; only the gateway reads it. ``$CHOIR_ENV_FILE``, else what systemd gives the
    gateway's unit as ``providers.env``, the newest first, else ``.env`` beside the choir.toml at ``path``."""
    from pathlib import Path

    named = os.environ.get("CHOIR_ENV_FILE")
    if named:
        return Path(named)
    for folder in (os.environ.get("RUNTIME_DIRECTORY"), os.environ.get("CREDENTIALS_DIRECTORY")):
        if folder and os.path.exists(os.path.join(folder, "providers.env")):
            return Path(folder, "providers.env")
    return (path.parent if path else Path(config_home())) / ".env"
