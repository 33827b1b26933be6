"""The sandbox of a ``choir run`` without ``choir up``: see ``choir.app.alone``."""

from __future__ import annotations

import contextlib
import gc
import os
import select
from typing import TYPE_CHECKING

from choir import git_traps, ids, inside, tokens
from choir.app.caller import Asked, Caller, close, wanted
from choir.app.run_spec import Ground, build_spec, no_provider, survey, warn_of_traps
from choir.app.secrets import stored_key
from choir.channel import Channel, ChannelClosed, Message, connect
from choir.errors import ChoirError, StartError
from choir.isolation import host, seccomp
from choir.isolation.begin import begin, listener_of
from choir.isolation.contract import SandboxSpec
from choir.isolation.template import Template
from choir.paths import State

if TYPE_CHECKING:
    import _socket
    import asyncio

    from choir.app.alone import Gateway
    from choir.config import Config


_UNDISTURBED = 0.02
"""Seconds that a command has before its gateway does the rest of its start beside it, unless it calls it before."""


class Run:
    """One client's run.

    Args:
        client: where it asked.
        state: with a run folder of this process's own.
    """

    def __init__(self, client: Channel, gateway: Gateway, template: Template, state: State) -> None:
        self._client = client
        self._gateway = gateway
        self._template = template
        self._state = state
        self._control: Channel | None = None

    def converse(self, asked: Asked, descriptors: list[int], config: Config) -> None:
        """To the end of the command. The gateway has been told to start.

        Raises:
            ChannelClosed: the client is gone; so is its sandbox.
            Elsewhere, ChoirError: it cannot be done.
        """
        self._template.order()
        folder = asked.check(self._client)
        self._client.send({"want": wanted(config)})
        answer, surplus = self._client.receive()
        close(surplus)
        caller = Caller.of(folder, answer, self._say)
        # While the gateway looks for keys.
        ground = survey(self._state, asked.options, caller)
        before = git_traps.git_places(folder)
        host.inspect()
        seccomp.build()
        spec = self._spec(config, asked, caller, ground)
        keeper, _ = begin(spec, asked.stdio, self._template)
        close(descriptors)  # a reader of the command's output waits for the last writer
        with contextlib.closing(listener_of(keeper, spec.start_timeout)) as listener:
            theirs = [keeper.fileno(), os.dup(listener.fileno())]
            self._client.send({"started": spec.sandbox_id, "user": spec.user_id}, theirs)
            os.close(theirs[1])
            keeper.close()
            self._hold(spec, listener)
        warn_of_traps(folder, before, self._say)
        if self._gateway.ready:
            self._gateway.stop()
        self._client.send({"done": True})

    def _say(self, sentence: str) -> None:
        self._client.send({"say": sentence})

    def _spec(self, config: Config, asked: Asked, caller: Caller, ground: Ground) -> SandboxSpec:
        enabled = {item["name"] for item in self._gateway.hear()["providers"] if item["enabled"]}
        providers = [provider for name, provider in config.providers.items() if name in enabled]
        if not providers:
            raise no_provider(config)
        sandbox_id = ids.new_id()
        authority = ""
        if inside.wants_tls(providers):
            self._gateway.serve()
            self._gateway.hear()
            authority = self._ask({"op": "authority", "sandbox_id": sandbox_id})["certificate"]
        token = tokens.sign(stored_key(self._state.token_key), sandbox_id)
        return build_spec(config, providers, asked.options, sandbox_id, token, authority, caller, ground)

    def _ask(self, message: Message, descriptors: list[int] | None = None) -> Message:
        """The answer of the gateway, which is ready.

        Raises:
            ChoirError: its reason.
        """
        try:
            if self._control is None:
                self._control = connect(str(self._state.gateway_socket))
            self._control.send(message, descriptors or [])
            answer, _ = self._control.receive()
        except ChannelClosed:
            raise ChoirError("gateway_unreachable", "The gateway ended; see its log.") from None
        if not answer.get("ok"):
            raise ChoirError(*(str(answer.get(name, "")) for name in ("reason", "message", "hint")))
        return answer

    def _hold(self, spec: SandboxSpec, listener: _socket.socket) -> None:
        """Until the command has ended."""
        try:
            first = [self._client.fileno(), listener.fileno()]
            if first[0] not in select.select(first, [], [], _UNDISTURBED)[0]:
                self._gateway.serve()
            while not self._gateway.ready:
                if self._client in select.select([self._client, self._gateway.channel], [], [])[0]:
                    self._until_ended()
                    return
                self._gateway.hear()
            attach = {"op": "attach", "sandbox_id": spec.sandbox_id, "user_id": spec.user_id, "role": spec.role}
            self._ask({**attach, "lease_s": inside.LEASE_SECONDS}, [listener.fileno()])
        except ChoirError as error:
            self._fail(error)
            self._until_ended()
            return
        import asyncio

        gc.enable()
        asyncio.run(self._serve(spec, listener))

    def _until_ended(self) -> None:
        while self._client.receive()[0].get("op") != "ended":
            pass

    def _gateway_speaks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing is expected but its end."""
        loop.remove_reader(self._gateway.channel.fileno())
        with contextlib.suppress(ChannelClosed):  # the client is gone, too
            self._fail(StartError("gateway_died", "The gateway of this run died; see its log."))

    def _fail(self, error: ChoirError) -> None:
        self._client.send({"failed": error.as_dict(), "exit_code": error.exit_code})

    async def _serve(self, spec: SandboxSpec, listener: _socket.socket) -> None:
        """``_hold`` from when the gateway answers the sandbox's calls."""
        import asyncio

        from choir.app.lease import keep_lease
        from choir.app.local import LocalModel
        from choir.control_client import GatewayControl

        control = GatewayControl(self._state.gateway_socket)
        local = LocalModel(self._state)
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(local.serve(control)),
            loop.create_task(keep_lease(control, spec.sandbox_id, spec.user_id, listener)),
        ]
        try:
            assert self._control is not None
            with contextlib.suppress(ChoirError):  # it died at once, which is said below
                await control.status()  # from now on `local` hears of what is wanted; what was before is here
            self._control.sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ChannelClosed):
                while self._control.receive()[0].get("event") != "wanted":
                    pass
                local.want()
            loop.add_reader(self._gateway.channel.fileno(), self._gateway_speaks, loop)
            while (await self._client.receive_async(loop))[0].get("op") != "ended":
                pass
        finally:
            loop.remove_reader(self._gateway.channel.fileno())
            self._client.sock.setblocking(True)
            for task in tasks:
                task.cancel()
            with contextlib.suppress(ChoirError):
                await control.detach(spec.sandbox_id)
            await control.close()
            await local.stop()
