"""What an upgrade does to the machine, one method each; ``choir.deploy.upgrade`` says when."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from choir.deploy import environment, proof, rehearsal, services
from choir.deploy.journal import Deployment, Schema
from choir.deploy.wheel import Wheel, fits
from choir.errors import ChoirError, StartError
from choir.hypervisor.backup import copy_database, kept_homes, name_for, write
from choir.installation import Installation
from choir.paths import State

SPARE = 256 * 1024 * 1024
"""Bytes that are to stay free."""


class Machine:
    """
    Args:
        find_links: see ``environment.make``.
    """

    def __init__(self, installation: Installation, deployment: Deployment, find_links: Path | None = None) -> None:
        self.installation = installation
        self.deployment = deployment
        self.state = State(Path(deployment.state))
        self._find_links = find_links

    def check(self, wheel: Wheel) -> list[str]:
        """Whether it can be done, as far as that can be told without doing anything; what was looked at.

        Raises:
            ChoirError: ``already_in_force``, ``python_too_old``, ``prefix_unwritable``, ``wrong_account`` or
                ``no_space``.
        """
        current = self.installation.in_force()
        if wheel.version == current:
            raise ChoirError("already_in_force", f"{current} is the version in force.", "Nothing was changed.")
        if not fits(wheel.requires_python, sys.version_info[:3]):
            raise ChoirError(
                "python_too_old",
                f"Choir {wheel.version} needs Python {wheel.requires_python}; this is {sys.version.split()[0]}.",
                "Install that Python, then make an environment of it by hand: see docs/operate.md.",
            )
        for folder in (self.installation.prefix, self.installation.versions):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ChoirError("prefix_unwritable", f"{folder} is not yours to write.", "Run this as its owner.")
        self._check_account()
        environment_bytes = _size(self.installation.environment(current))
        backup_bytes = self._backup_bytes()
        free = self._check_space({self.installation.versions: environment_bytes, self.state.root: backup_bytes})
        pins = "requirements.lock" if wheel.lock else "the newest packages that fit"
        return [f"Python {sys.version.split()[0]}", pins, f"{free / 1e9:,.1f} GB free"]

    def _check_account(self) -> None:
        try:
            owner = self.state.root.stat().st_uid
        except FileNotFoundError:
            return
        if owner != os.geteuid():
            raise ChoirError(
                "wrong_account",
                f"{self.state.root} belongs to uid {owner}; what this writes there would not be its own.",
                "Run this as that account.",
            )

    def _check_space(self, wanted: dict[Path, int]) -> int:
        """The bytes that stay free on the fullest of the file systems."""
        left = []
        needed: dict[int, int] = {}
        for folder, size in wanted.items():
            if not folder.exists():
                continue
            device = folder.stat().st_dev
            needed[device] = needed.get(device, SPARE) + size
            info = os.statvfs(folder)
            left.append(info.f_bavail * info.f_frsize - needed[device])
            if left[-1] < 0:
                raise ChoirError(
                    "no_space",
                    f"{folder} needs {needed[device] / 1e9:,.1f} GB free for this and has "
                    f"{(left[-1] + needed[device]) / 1e9:,.1f}.",
                    "Nothing was changed. Free some, e.g. old snapshots or versions.",
                )
        return min(left, default=0)

    def _backup_bytes(self) -> int:
        if not self.state.registry.exists():
            return 0
        databases = [path.stat().st_size for path in (self.state.registry, self.state.ledger) if path.exists()]
        homes = [_size(self.state.homes / name) for name in kept_homes(self.state)]
        return sum(databases) + sum(homes) + max([*databases, *homes])

    def make(self, wheel: Wheel) -> None:
        """
        Raises:
            StartError, ChoirError: as ``environment.make``.
        """
        environment.make(wheel, self.installation.environment(wheel.version), self._find_links)

    def rehearse(self, version: str, deeply: bool = True) -> Schema:
        """What ``version`` reads and writes.

        Args:
            deeply: have it judge the configuration and take over copies of the databases, too.

        Raises:
            ChoirError: ``version_unusable``, or its own reason.
        """
        path = self.installation.environment(version)
        if not deeply:
            return rehearsal.ask(path, {})
        config = {"config": self.deployment.config} if self.deployment.config else {}
        if not self.state.root.is_dir():
            return rehearsal.ask(path, config)
        try:
            with tempfile.TemporaryDirectory(dir=self.state.root, prefix=".rehearsal-") as folder:
                copies = {}
                for name, database, rows in (
                    ("registry", self.state.registry, True),
                    ("usage", self.state.ledger, False),  # its tables are enough; its rows can be many
                ):
                    if database.exists():
                        copies[name] = str(Path(folder) / database.name)
                        copy = copy_database if rows else _copy_tables
                        copy(database, Path(copies[name]))
                return rehearsal.ask(path, {**config, **copies})
        except (OSError, sqlite3.Error) as error:
            raise ChoirError("rehearsal_failed", f"Cannot copy the databases of {self.state.root}: {error}.") from error

    def backup(self) -> Path | None:
        """A new one in STATE/backups; None: there is nothing to keep yet.

        Raises:
            ChoirError: ``backup_failed``, ``no_space``.
        """
        if not self.state.registry.exists():
            return None
        folder = self.state.root / "backups"
        path = folder / name_for(time.time())
        number = 1
        while path.exists():
            number += 1
            path = path.with_name(f"{path.stem}-{number}.tar")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for left in folder.glob(".choir-*.tar*"):  # of one that was killed
                left.unlink()
        except OSError as error:
            raise ChoirError("backup_failed", f"Cannot write {path}: {error.strerror}.") from error
        write(self.state, path)
        return path

    def restart(self, version: str) -> None:
        """
        Raises:
            StartError: as ``services.restart``.
        """
        services.restart(self.deployment, version)

    def runs(self) -> bool:
        """Whether something of the deployment is there to be restarted."""
        return bool(self.deployment.units) or (self.deployment.up and services.up_of(self.state) is not None)

    def failing(self) -> frozenset[str]:
        """What does not hold with the version in force."""
        return proof.failing(self.installation.command, self.deployment)

    def tidy(self, keep: set[str], versions: set[str], backup: str | None) -> list[str]:
        """Remove ``versions`` and others that an upgrade made, but not ``keep`` or what processes run from, and the
        ``backup`` of an upgrade that cannot be taken back any more; what went."""
        gone = []
        for path in sorted(self.installation.versions.iterdir()):
            made = path.name in versions or (path / environment.MARK).exists()
            if not made or path.name in keep or not path.is_dir() or environment.used_by(path):
                continue
            with contextlib.suppress(StartError):
                environment.remove(path)
                gone.append(str(path))
        if backup is not None:
            with contextlib.suppress(OSError):
                Path(backup).unlink()
                gone.append(backup)
        return gone


def _copy_tables(database: Path, copy: Path) -> None:
    """Without their rows."""
    with (
        contextlib.closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)
        ) as source,
        contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as target,
    ):
        for (sql,) in source.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        ):
            target.execute(sql)


def _size(folder: Path) -> int:
    """Bytes on the disk of what is below, links not followed."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total
