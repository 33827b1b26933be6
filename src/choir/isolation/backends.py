"""The backends by name, as ``sandbox.backend`` in choir.toml chooses one."""

from __future__ import annotations

from pathlib import Path

from choir.isolation.contract import Backend


def choose(name: str, run: Path | None = None) -> Backend:
    """The backend called ``name``: "bubblewrap" or "process".

    Args:
        run: folder for keepers' control sockets, for sandboxes that outlive this process where the backend can.
    """
    if name == "process":
        from choir.isolation.process import ProcessBackend

        return ProcessBackend()
    from choir.isolation.bubblewrap import BubblewrapBackend

    return BubblewrapBackend(run)
