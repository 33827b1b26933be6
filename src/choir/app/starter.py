"""Starts the sandbox of a ``choir run`` for a client that has imported next to nothing (``choir.cli.client``).

One conversation per run, over the hypervisor's control socket, own-uid peers only::

    client   {"op": "run", "command", "agent", "model", "strict", "folder"}
             with descriptors: the folder, and 0, 1 and 2 of the command
    starter  {"want": [names of variables]}
    client   {"environment": {name: value}}             only those: what else is there may be keys
    starter  {"say": sentence}                          any number of times, also later
    starter  {"started": sandbox id, "user"}            with descriptors: the keeper's channel, the listener
      or     {"failed": {"reason", "message", "hint"}, "exit_code"}
      or     {"elsewhere": why}                         this starter cannot; the client does it all itself
    client   {"op": "ended"}
    starter  {"done": true}

Without a hypervisor the starter is ``choir.app.alone``. With the question it also gets a channel on which its gateway
asks the client for its keys, as it asks for variables here; and after ``started`` it may say ``failed``: the gateway
did not start, and the client ends the sandbox.

With the keeper's channel the sandbox is the client's: it tells it to proceed, hears how it ends, and when the client is
gone the sandbox ends. The starter keeps the lease while the conversation lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from choir import config as configuration
from choir import git_traps, ids, inside, tokens
from choir.app.caller import Asked, Caller, Elsewhere, close, wanted
from choir.app.lease import keep_lease
from choir.app.run_spec import build_spec, no_provider, survey, warn_of_traps
from choir.channel import Channel, ChannelClosed, Message
from choir.config import Config, Provider
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec
from choir.isolation.running import KeptSandbox
from choir.paths import State

Say = Callable[[str], None]


class Starter:
    """
    Args:
        state, config: of the running deployment.
        gateway: where sandboxes are attached.
        token_key: signs their tokens.
    """

    def __init__(self, state: State, config: Config, gateway: GatewayControl, token_key: bytes) -> None:
        self._state = state
        self._path = config.path
        self._config = config
        self._seen = _stamp(config.path)
        self._gateway = gateway
        self._token_key = token_key
        self._backend = BubblewrapBackend()

    async def converse(self, channel: Channel, message: Message, descriptors: list[int]) -> None:
        """One run, from the question to its end. Closes the descriptors.

        Raises:
            ChannelClosed: the client is gone; so is its sandbox.
        """
        try:
            asked = Asked.take(message, descriptors)
            self._look_at_configuration()
            if self._config.sandbox.backend != self._backend.name:
                raise Elsewhere("another backend is configured")
            caller = await self._meet(channel, asked)
            spec, before = await self._prepare(caller, asked)
            running = await self._backend.start(spec, asked.stdio)
            close(descriptors)  # a reader of the command's output waits for the last writer
            await self._hold(channel, spec, running, before, caller.say)
        except Elsewhere as why:
            channel.send({"elsewhere": str(why)})
        except ChoirError as error:
            channel.send({"failed": error.as_dict(), "exit_code": error.exit_code})
        finally:
            close(descriptors)

    def _look_at_configuration(self) -> None:
        """A run has the limits that stand in the file now, as it would have by itself.

        Raises:
            ConfigError: they are wrong.
        """
        path = self._path or configuration.find()
        seen = _stamp(path)
        if seen != self._seen:
            self._config, self._seen = configuration.load(path), seen

    async def _meet(self, channel: Channel, asked: Asked) -> Caller:
        folder = asked.check(channel)
        channel.send({"want": wanted(self._config)})
        answer, surplus = await channel.receive_async(asyncio.get_running_loop())
        close(surplus)
        loop = asyncio.get_running_loop()

        def say(sentence: str) -> None:
            loop.call_soon_threadsafe(_tell, channel, {"say": sentence})

        return Caller.of(folder, answer, say)

    async def _prepare(self, caller: Caller, asked: Asked) -> tuple[SandboxSpec, git_traps.Places]:
        status = await self._gateway.status()
        enabled = {item["name"] for item in status["providers"] if item["enabled"]}
        providers = [provider for name, provider in self._config.providers.items() if name in enabled]
        if not providers:
            raise no_provider(self._config)
        sandbox_id = ids.new_id()
        authority = await self._gateway.authority(sandbox_id) if inside.wants_tls(providers) else ""
        # It reads a project's files, and may take its time: not on the loop that serves everybody.
        return await asyncio.to_thread(self._build, caller, asked, providers, sandbox_id, authority)

    def _build(
        self, caller: Caller, asked: Asked, providers: list[Provider], sandbox_id: str, authority: str
    ) -> tuple[SandboxSpec, git_traps.Places]:
        token = tokens.sign(self._token_key, sandbox_id)
        ground = survey(self._state, asked.options, caller)
        spec = build_spec(self._config, providers, asked.options, sandbox_id, token, authority, caller, ground)
        return spec, git_traps.git_places(caller.folder)

    async def _hold(
        self, channel: Channel, spec: SandboxSpec, running: KeptSandbox, before: git_traps.Places, say: Say
    ) -> None:
        listener = running.listener.dup()
        try:
            await self._gateway.attach(spec.sandbox_id, spec.user_id, spec.role, listener)
            theirs = running.hand_over()
            try:
                channel.send({"started": spec.sandbox_id, "user": spec.user_id}, theirs)
            finally:
                close(theirs)
            running.close()
            await self._until_ended(channel, spec, listener)
        finally:
            running.close()
            listener.close()
            with contextlib.suppress(ChoirError, ChannelClosed):
                await self._gateway.detach(spec.sandbox_id)
        if spec.workspace is not None:
            await asyncio.to_thread(warn_of_traps, spec.workspace, before, say)
        channel.send({"done": True})

    async def _until_ended(self, channel: Channel, spec: SandboxSpec, listener: socket.socket) -> None:
        renewing = asyncio.create_task(keep_lease(self._gateway, spec.sandbox_id, spec.user_id, listener))
        try:
            while (await channel.receive_async(asyncio.get_running_loop()))[0].get("op") != "ended":
                pass
        finally:
            renewing.cancel()


def _stamp(path: Path | None) -> tuple[int, ...]:
    try:
        info = os.stat(path) if path is not None else None
    except OSError:
        info = None
    return (info.st_mtime_ns, info.st_size, info.st_ino) if info is not None else ()


def _tell(channel: Channel, message: dict[str, Any]) -> None:
    with contextlib.suppress(ChannelClosed, BlockingIOError):  # its end is met where it is read
        channel.send(message)
