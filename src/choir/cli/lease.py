"""The lease of a ``choir run`` whose hypervisor went away: this process keeps it itself from now on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

from choir.app.lease import keep_lease
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.paths import State


def keep(root: str, started: dict[str, Any], listener: int) -> None:
    """In a thread, until this process ends; the descriptor is its own now."""

    async def run() -> None:
        control = GatewayControl(State(Path(root)).gateway_socket)
        with socket.socket(fileno=listener) as sock:
            await keep_lease(control, started["started"], started["user"], sock, at_once=True)

    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()


def end(root: str, started: dict[str, Any]) -> None:
    """The sandbox has ended: so does its token."""

    async def run() -> None:
        control = GatewayControl(State(Path(root)).gateway_socket)
        with contextlib.suppress(ChoirError):
            await control.detach(started["started"])
        await control.close()

    asyncio.run(run())
