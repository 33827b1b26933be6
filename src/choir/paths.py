"""Where Choir keeps things: one state folder, private to its owner."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from choir.errors import StartError


@dataclass(frozen=True)
class State:
    """The state folder and the names in it."""

    root: Path

    @property
    def run(self) -> Path:
        """Sockets and pid files of what is running now."""
        return self.root / "run"

    @property
    def gateway_socket(self) -> Path:
        return self.run / "gateway.sock"

    @property
    def hypervisor_socket(self) -> Path:
        return self.run / "hypervisor.sock"

    @property
    def local_socket(self) -> Path:
        return self.run / "local.sock"

    @property
    def ledger(self) -> Path:
        return self.root / "usage.db"

    @property
    def registry(self) -> Path:
        return self.root / "registry.db"

    @property
    def token_key(self) -> Path:
        return self.root / "token.key"

    @property
    def homes(self) -> Path:
        return self.root / "homes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def prepare(self) -> State:
        """Make the folders, mode 0700.

        Raises:
            StartError: ``state_unwritable`` or ``no_space``.
        """
        try:
            for folder in (self.root, self.run, self.homes, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartError(
                "no_space" if error.errno in (28, 122) else "state_unwritable",
                f"Cannot make the state folder {self.root}: {error.strerror}.",
                "Choose another with --state DIR or CHOIR_STATE.",
            ) from error
        return self


def default_state() -> State:
    """``$CHOIR_STATE``, else ``$XDG_STATE_HOME/choir``, else ``~/.local/state/choir``."""
    explicit = os.environ.get("CHOIR_STATE")
    if explicit:
        return State(Path(explicit).absolute())
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return State(Path(base) / "choir")
