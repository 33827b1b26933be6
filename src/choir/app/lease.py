"""The lease of a ``choir run``: the gateway takes its sandbox's calls as long as somebody renews it."""

from __future__ import annotations

import _socket
import asyncio
import contextlib

from choir import inside
from choir.channel import ChannelClosed
from choir.control_client import GatewayControl
from choir.errors import ChoirError


async def keep_lease(
    control: GatewayControl, sandbox_id: str, user: str, listener: _socket.socket, at_once: bool = False
) -> None:
    """Keep the lease of a run; attach again when the gateway came back without knowing it. Never returns.

    Args:
        at_once: begin with renewing it, not with waiting.
    """
    while True:
        if not at_once:
            await asyncio.sleep(inside.RENEW_SECONDS)
        at_once = False
        with contextlib.suppress(ChoirError, ChannelClosed):
            if await control.renew([sandbox_id]):
                await control.attach(sandbox_id, user, "run", listener)
