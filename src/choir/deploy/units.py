"""The systemd units as text, from ``data/units.toml``. Nothing here touches the machine."""

from __future__ import annotations

import importlib.resources
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choir.errors import ConfigError

STATES = Path("/var/lib")
"""Where systemd keeps state folders (``StateDirectory=``)."""
SYSUSERS = """\
# Choir's accounts (sysusers.d(5)); no shell, no home.
u choir-gateway - "Choir provider gateway"
u choir-model - "Choir local model"
"""


@dataclass(frozen=True)
class Deployment:
    """What differs between servers."""

    choir: str = "/opt/choir/current/bin/choir"
    """The command, absolute: through the link that `choir upgrade` switches."""
    config: Path = Path("/etc/choir/choir.toml")
    """Readable by every unit; holds no secret."""
    keys: Path = Path("/etc/choir/keys")
    """Folder of root's alone, mode 0700, with providers.env, which systemd hands to the gateway."""
    state: Path = Path("/var/lib/choir")
    """Below /var/lib, where systemd makes it and lets the services write."""
    listen: str = "127.0.0.1:7000"
    bin: Path = Path("/usr/bin")
    """Where install(1) and kill(1) are."""


def render(deployment: Deployment) -> dict[str, str]:
    """The text of every unit, by file name.

    Raises:
        ConfigError: ``unit_value_invalid``: a path or command that a unit file cannot carry as it is;
            ``state_elsewhere``: the services could not write there.
    """
    if STATES not in deployment.state.parents or ".." in deployment.state.parts:
        raise ConfigError(
            "state_elsewhere",
            f"The state folder of services is below {STATES}; {deployment.state} is not.",
            f"Mount the disk at {Deployment.state}, or choose another name there with --state.",
        )
    values = {
        "choir": deployment.choir,
        "config": str(deployment.config),
        "keys": str(deployment.keys),
        "state": str(deployment.state),
        "folder": str(deployment.state.relative_to(STATES)),
        "listen": deployment.listen,
        "bin": str(deployment.bin),
    }
    for name, value in values.items():
        # systemd would expand %, split at blanks and continue lines; none of it is needed in a path.
        if not value or any(character.isspace() or character in "%$\\\"';" for character in value):
            raise ConfigError("unit_value_invalid", f"The {name} `{value}` has characters that a unit cannot carry.")
    return {name: _unit(sections, values) for name, sections in _table().items()}


def _table() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads(importlib.resources.files("choir").joinpath("data/units.toml").read_text())


def _unit(sections: dict[str, dict[str, Any]], values: dict[str, str]) -> str:
    blocks = []
    for section, directives in sections.items():
        lines = [f"[{section}]"]
        for name, value in directives.items():
            lines += [f"{name}={_value(one, values)}" for one in (value if isinstance(value, list) else [value])]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _value(value: object, values: dict[str, str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    for name, replacement in values.items():
        text = text.replace("{" + name + "}", replacement)
    return text
