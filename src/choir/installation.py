"""Versions of Choir side by side, each a virtual environment of its own, and the link that says which is in force.

::

    PREFIX/versions/0.1.0/bin/choir
    PREFIX/versions/0.2.0/bin/choir
    PREFIX/current -> versions/0.2.0      what services name: PREFIX/current/bin/choir
    PREFIX/upgrade.json                   ``choir.deploy.journal``

A process goes on with the version it was started from, whatever the link says meanwhile: an environment's scripts and
``sys.prefix`` name the version's own folder.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from choir.errors import StartError

VERSION = re.compile(r"[0-9][0-9A-Za-z.+!_-]{0,63}\Z")
"""What a folder below ``versions`` may be called."""


@dataclass(frozen=True)
class Installation:
    """A folder of versions; ``find`` makes it."""

    prefix: Path

    @property
    def versions(self) -> Path:
        return self.prefix / "versions"

    @property
    def link(self) -> Path:
        return self.prefix / "current"

    @property
    def command(self) -> Path:
        """The ``choir`` in force."""
        return self.link / "bin" / "choir"

    @property
    def journal(self) -> Path:
        return self.prefix / "upgrade.json"

    @property
    def lock(self) -> Path:
        """Held by whoever changes something here."""
        return self.prefix / "upgrade.lock"

    def environment(self, version: str) -> Path:
        """Where ``version`` is or would be."""
        if not VERSION.match(version):
            raise StartError("version_invalid", f"`{version}` is no version.")
        return self.versions / version

    def in_force(self) -> str:
        """The version that the link names.

        Raises:
            StartError: ``no_version_in_force``: it names none that is here.
        """
        try:
            target = Path(os.readlink(self.link))
        except OSError as error:
            raise self._none(error.strerror or "not readable") from error
        path = self.prefix / target
        if path.parent != self.versions or not VERSION.match(path.name) or not (path / "bin" / "python").exists():
            raise self._none(f"it leads to {target}")
        return path.name

    def _none(self, why: str) -> StartError:
        return StartError(
            "no_version_in_force",
            f"{self.link} does not name one of the versions in {self.versions}: {why}.",
            f"Make it: ln -sfn versions/VERSION {self.link}",
        )

    def switch(self, version: str) -> None:
        """Have the link name ``version``: the old one or the new one at every moment, also after a power cut.

        Raises:
            StartError: ``switch_failed``; the link is as it was.
        """
        draft = self.prefix / f".current.{os.getpid()}"
        try:
            draft.unlink(missing_ok=True)
            os.symlink(f"versions/{version}", draft)
            os.rename(draft, self.link)
            sync_folder(self.prefix)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StartError("switch_failed", f"Cannot change {self.link}: {error.strerror}.") from error


def find(prefix: str | None = None) -> Installation | None:
    """The installation that an environment is one version of; None when it stands alone.

    Args:
        prefix: the environment's folder; None: that of this process.
    """
    path = Path(sys.prefix if prefix is None else prefix)
    installation = Installation(path.parent.parent)
    named = path.parent.name == "versions" and bool(VERSION.match(path.name))
    return installation if named and installation.link.is_symlink() else None


def sync_folder(folder: Path) -> None:
    """What was renamed in it is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
