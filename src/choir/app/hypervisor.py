"""The hypervisor's process under ``choir up``: ``choir.hypervisor.main``, and the starter of ``choir run`` in it."""

from __future__ import annotations

import uvloop

from choir.app.starter import Starter
from choir.channel import Channel, Message
from choir.config import Config
from choir.control_client import GatewayControl
from choir.hypervisor import main as hypervisor
from choir.hypervisor.control import Runs
from choir.paths import State
from choir.service import serve


def main() -> None:
    serve(lambda channel, message, descriptors: uvloop.run(_run(channel, message, descriptors)))


async def _run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    await hypervisor.run(channel, message, descriptors, make_runs=_starter)


def _starter(state: State, config: Config, gateway: GatewayControl, token_key: bytes) -> Runs:
    return Starter(state, config, gateway, token_key).converse


if __name__ == "__main__":
    main()
