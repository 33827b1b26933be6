"""``choir install systemd``: the files of a server, as a list that can be shown before it is written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from choir import installation, tokens
from choir.deploy.units import SYSUSERS, Deployment, render
from choir.errors import StartError

CONFIGURATION = """\
# Choir's configuration; `choir config check` judges it. Never a key in here: keys are in keys/providers.env.
# Every key: docs/configuration.md.

[hypervisor]
# public_url = "https://choir.example.org"   # behind a TLS proxy

[limits]
# usd_per_day = 5.0                          # of one person

[providers.local]
base_url = "unix:{state}/model/local.sock"   # the service choir-model
"""
PROVIDERS = """\
# Provider keys, KEY=VALUE, for the gateway's unit only. After a change: systemctl reload choir-gateway
# OPENAI_API_KEY=
# ANTHROPIC_API_KEY=
"""


@dataclass(frozen=True)
class File:
    """One file to be written."""

    path: Path
    mode: int
    content: bytes
    keep: bool = False
    """One that is there stays as it is: it holds what an operator or an earlier install put there."""
    secret: bool = False

    def describe(self) -> str:
        size = "a new random key" if self.secret else f"{len(self.content)} bytes"
        kept = ", kept when it is there" if self.keep else ""
        return f"{self.path} (mode {self.mode:04o}, {size}{kept})"


def files(deployment: Deployment, etc: Path = Path("/etc")) -> list[File]:
    """Everything ``install systemd`` writes, in order.

    Raises:
        ConfigError: ``unit_value_invalid``.
    """
    keys = deployment.keys
    out = [
        File(etc / "sysusers.d/choir.conf", 0o644, SYSUSERS.encode()),
        File(deployment.config, 0o644, CONFIGURATION.replace("{state}", str(deployment.state)).encode(), keep=True),
        File(keys / "providers.env", 0o600, PROVIDERS.encode(), keep=True),
    ]
    units = render(deployment)
    return out + [File(etc / "systemd/system" / name, 0o644, text.encode()) for name, text in units.items()]


def keys(state: Path) -> list[File]:
    """What ``install keys`` writes: the keys that Choir's own services share. Made anew at each call."""
    return [File(state / name, 0o600, tokens.new_key(), keep=True, secret=True) for name in ("token.key", "local.key")]


def command() -> str:
    """The ``choir`` that runs now, as units name it: one of several versions by the link to the one in force.

    Raises:
        StartError: ``install_in_home``: the units see no home folder.
    """
    found = installation.find()
    path = found.command if found else Path(sys.executable).with_name("choir")
    for part in (path, path.resolve()):
        if part.is_relative_to("/home") or part.is_relative_to("/root") or part.is_relative_to("/tmp"):  # noqa: S108
            raise StartError(
                "install_in_home",
                f"{path} is in a folder that the services cannot see.",
                "Install Choir where everyone can read it, as /opt/choir/versions/VERSION: see docs/operate.md.",
            )
    return str(path)


def write(file: File) -> bool:
    """Put it in place, whole or not at all. Returns False when it was kept as it is.

    Raises:
        StartError: ``install_failed``.
    """
    if file.keep and os.path.lexists(file.path):
        return False
    draft = file.path.with_name(f".{file.path.name}.{os.getpid()}")
    try:
        # A folder that holds keys is its owner's alone; but through the state folder each service finds its own.
        mode = 0o711 if file.secret else 0o700 if file.mode == 0o600 else 0o755
        _make_folder(file.path.parent, mode)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, file.mode)
        with os.fdopen(descriptor, "wb") as out:
            os.fchmod(descriptor, file.mode)
            out.write(file.content)
            out.flush()
            os.fsync(descriptor)
        os.replace(draft, file.path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        hint = "Run it as root, or look first with --dry-run." if error.errno in (1, 13) else ""
        raise StartError("install_failed", f"Cannot write {file.path}: {error.strerror}.", hint) from error
    return True


def _make_folder(folder: Path, mode: int) -> None:
    """With ``mode``, whatever the umask is; what is missing above it is readable by all. One that is there stays."""
    if folder.is_dir():
        return
    if not folder.parent.is_dir():
        _make_folder(folder.parent, 0o755)
    folder.mkdir(mode=0o700)
    folder.chmod(mode)


def activate() -> None:
    """Make the accounts and have systemd read the units. Nothing is started.

    Raises:
        StartError: ``install_failed``.
    """
    for command in (["systemd-sysusers", "choir.conf"], ["systemctl", "daemon-reload"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except OSError as error:
            raise StartError(
                "install_failed", f"{command[0]}: {error.strerror}.", "Is this a systemd machine?"
            ) from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise StartError("install_failed", f"{' '.join(command)}: {last}")
