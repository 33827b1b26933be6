"""Where Choir keeps things: one state folder, private to its owner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from choir.errors import StartError, is_full
from choir.places import default_root

LOCK = "gateway.lock"
"""In a run folder; held by its gateway as long as it lives."""
HELD = "restore-held"
"""In a state folder: what the next start puts back (``choir.hypervisor.putback``)."""


class State(NamedTuple):
    """The state folder and the names in it.

    Args:
        root: what is kept.
        run_name: where below it the sockets of what runs now are; ``choir up`` has ``run``, a gateway that lives for
            one command a folder of its own in it.
    """

    root: Path
    run_name: str = "run"

    @property
    def run(self) -> Path:
        """Sockets of what is running now."""
        return self.root / self.run_name

    def alone(self) -> State:
        """The same state with sockets of this process's own."""
        return State(self.root, f"run/{os.getpid()}")

    @property
    def gateway(self) -> State:
        """Where the gateway keeps what is its own: below ``gateway`` when it runs as a service under another account
        (``choir install systemd``), else here."""
        own = self.root / "gateway"
        return State(own, self.run_name) if own.is_dir() else self

    @property
    def gateway_socket(self) -> Path:
        return self.gateway.run / "gateway.sock"

    @property
    def metrics_socket(self) -> Path:
        """The gateway's, in Prometheus' format."""
        return self.gateway.run / "metrics.sock"

    @property
    def hypervisor_socket(self) -> Path:
        return self.run / "hypervisor.sock"

    @property
    def local_socket(self) -> Path:
        return self.run / "local.sock"

    @property
    def journal(self) -> Path:
        """Records of this run folder's gateway that are not in the ledger yet."""
        return self.gateway.run / "usage.journal"

    @property
    def ledger(self) -> Path:
        return self.gateway.root / "usage.db"

    @property
    def limits(self) -> Path:
        """What admins set for people (``choir.user_limits``), where the gateway reads it."""
        return self.gateway.root / "limits.json"

    @property
    def registry(self) -> Path:
        return self.root / "registry.db"

    @property
    def token_key(self) -> Path:
        return self.root / "token.key"

    @property
    def local_key(self) -> Path:
        return self.root / "local.key"

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
                "no_space" if is_full(error) else "state_unwritable",
                f"Cannot make the state folder {self.root}: {error.strerror}.",
                "Choose another with --state DIR or CHOIR_STATE.",
            ) from error
        return self


def default_state() -> State:
    """Where ``choir.places`` says."""
    return State(Path(default_root(os.environ)))
