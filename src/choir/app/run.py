"""``choir run``: one command in this folder, isolated and keyless, with the gateway on its loopback.

A running ``choir up`` of the same person lends its gateway; otherwise one is started for as long as the command runs.
For the runs that the fast way (``choir.app.alone``, ``choir.app.starter``) leaves out: another backend, another
configuration, a plan to be shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from choir import config as configuration
from choir import git_traps, ids, inside, tokens
from choir.app.caller import Caller, RunOptions
from choir.app.lease import keep_lease
from choir.app.local import LocalModel
from choir.app.notice import notice
from choir.app.run_spec import build_spec, no_provider, survey, warn_of_traps
from choir.app.secrets import environment_secrets, stored_key
from choir.app.terminal import Terminal
from choir.app.up import start_gateway
from choir.channel import ChannelClosed, connect
from choir.config import Config, Provider
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.isolation import backends
from choir.isolation.contract import Backend, Exited, SandboxSpec
from choir.paths import State


@dataclass(frozen=True)
class Gateway:
    """A gateway to attach sandboxes to, and what it offers."""

    control: GatewayControl
    providers: list[Provider]
    own: bool
    """Whether it was started for this call."""


@contextlib.asynccontextmanager
async def gateway_for(config: Config, state: State) -> AsyncIterator[Gateway]:
    """The running gateway of this state folder, or one of our own that ends with the block.

    Raises:
        ChoirError: the gateway's own reason for not starting.
    """
    service = None
    listening = None
    if not runs(state):
        state = state.alone().prepare()
        secrets = environment_secrets(config, os.environ)
        service = await start_gateway(config, state, secrets, log=state.logs / "gateway.log")
    control = GatewayControl(state.gateway_socket)
    local = LocalModel(state)
    try:
        if service is not None:
            listening = asyncio.create_task(local.serve(control))
        status = await control.status()
        enabled = {item["name"] for item in status["providers"] if item["enabled"]}
        providers = [provider for name, provider in config.providers.items() if name in enabled]
        yield Gateway(control, providers, own=service is not None)
    finally:
        if listening is not None:
            listening.cancel()
        await control.close()
        if service is not None:
            await asyncio.to_thread(service.stop)
            await local.stop()
            shutil.rmtree(state.run, ignore_errors=True)


def runs(state: State) -> bool:
    """Whether a gateway of this state folder is running now."""
    try:
        connect(str(state.gateway_socket)).close()
    except ChannelClosed:
        return False
    return True


async def run(config_path: Path | None, state: State, options: RunOptions) -> int:
    """Run the command to its end; its exit code, or 128 + signal.

    Raises:
        ChoirError: it was not run; nothing is left behind.
    """
    config = configuration.load(config_path)
    state.prepare()
    backend = backends.choose(config.sandbox.backend)
    async with gateway_for(config, state) as gateway:
        if not gateway.providers:
            raise no_provider(config)
        sandbox_id = ids.new_id()
        token = tokens.sign(stored_key(state.token_key), sandbox_id)
        authority = await gateway.control.authority(sandbox_id) if inside.wants_tls(gateway.providers) else ""
        caller = Caller.here()
        ground = survey(state, options, caller)
        spec = build_spec(config, gateway.providers, options, sandbox_id, token, authority, caller, ground)
        if options.explain:
            print("\n".join(backend.explain(spec)))
            return 0
        return await run_watched(backend, gateway, spec)


async def run_watched(backend: Backend, gateway: Gateway, spec: SandboxSpec) -> int:
    """``run_spec``, and afterwards a word on what the command left for the person's own git."""
    folder = spec.workspace
    before = git_traps.git_places(folder) if folder else {}
    if backend.name == "process":
        notice(await backend.probe())
    code = await run_spec(backend, gateway, spec)
    if folder:
        warn_of_traps(folder, before, notice)
    return code


async def run_spec(backend: Backend, gateway: Gateway, spec: SandboxSpec) -> int:
    """Start ``spec``, attach it, relay the terminal, wait for its end."""
    with Terminal.for_standard_streams() as terminal:
        running = await backend.start(spec, terminal.stdio)
        renewing: asyncio.Task[None] | None = None
        try:
            await gateway.control.attach(spec.sandbox_id, spec.user_id, spec.role, running.listener)
            renewing = asyncio.create_task(keep_lease(gateway.control, spec.sandbox_id, spec.user_id, running.listener))
            loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, stop.set)
            await running.wait_ready()
            terminal.relay(loop, running.resize)
            waiting = asyncio.create_task(running.wait())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            exited = waiting.result() if waiting.done() else await running.stop()
            stopped.cancel()
            await terminal.drain()
        finally:
            if renewing is not None:
                renewing.cancel()
            with contextlib.suppress(ChoirError, ChannelClosed):
                await gateway.control.detach(spec.sandbox_id)
            running.close()
    return exit_code(exited)


def exit_code(exited: Exited) -> int:
    """As a shell gives it. A reason of Choir's own is said on stderr."""
    if exited.reason:
        notice(f"{exited.message} {exited.hint}")
    if exited.signal is not None:
        return 128 + exited.signal
    return exited.code or 0
