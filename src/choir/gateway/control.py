"""The control socket: see ``choir.contract`` for the messages. Only this user and root may speak on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from choir.channel import Channel, ChannelClosed, Message, peer_credentials
from choir.contract import ProviderStatus, UsageRecord
from choir.errors import ChoirError
from choir.gateway.changes import Change
from choir.gateway.sandboxes import Registry

_MAX_LISTED = 200
"""Sandboxes in a ``status`` answer, changes in one to ``reload``; a message is 64 KB at most."""

Reloaded = tuple[list[ProviderStatus], list[Change]]


class Attach(msgspec.Struct, frozen=True):
    sandbox_id: str
    user_id: str
    role: str
    lease_s: float


class Renew(msgspec.Struct, frozen=True):
    sandbox_ids: list[str]
    lease_s: float
    warm: int = 0


class Detach(msgspec.Struct, frozen=True):
    sandbox_id: str


class Client:
    """One connected control client."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.subscribed = False


class Control:
    """Accepts control clients and answers them in order."""

    def __init__(
        self,
        listener: socket.socket,
        registry: Registry,
        reload: Callable[[], Reloaded],
        providers: list[ProviderStatus],
        facts: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """
        Args:
            facts: what else ``status`` tells.
        """
        self._listener = listener
        self._registry = registry
        self._reload = reload
        self._facts = facts
        self._providers = providers
        self._loop = asyncio.get_running_loop()
        self._clients: set[Client] = set()
        self._subscribers: set[Client] = set()

    def start(self) -> None:
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Let all clients go. The listening socket is the master's."""
        self._loop.remove_reader(self._listener.fileno())
        for client in list(self._clients):
            self._drop(client)

    def reload(self) -> list[Change]:
        """Read the configuration again; what it changes.

        Raises:
            ConfigError: it is wrong; the old one stays in force.
        """
        self._providers, found = self._reload()
        return found

    def want(self, service: str) -> None:
        """Ask whoever supervises ``service`` to start it."""
        for client in list(self._clients):
            self._send(client, {"event": "wanted", "service": service})

    def usage(self, record: UsageRecord) -> None:
        """Tell subscribers of a record; one that does not keep up misses it."""
        if self._subscribers:
            event = {"event": "usage", "record": msgspec.to_builtins(record)}
            for client in list(self._subscribers):
                with contextlib.suppress(BlockingIOError):
                    try:
                        client.channel.send(event)
                    except (ChannelClosed, OSError) as error:
                        if isinstance(error, BlockingIOError):
                            raise
                        self._drop(client)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        _, uid, _ = peer_credentials(sock)
        if uid not in (0, os.geteuid()):
            sock.close()
            return
        sock.setblocking(False)
        client = Client(Channel(sock))
        self._clients.add(client)
        self._loop.add_reader(sock.fileno(), self._readable, client)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._subscribers.discard(client)
            self._loop.remove_reader(client.channel.fileno())
            client.channel.close()

    def _send(self, client: Client, message: Message) -> None:
        try:
            client.channel.send(message)
        except (ChannelClosed, OSError):
            # One that does not read its answers is dropped: it connects again and attaches again.
            self._drop(client)

    def _readable(self, client: Client) -> None:
        for _ in range(32):
            try:
                message, descriptors = client.channel.receive()
            except BlockingIOError:
                return
            except (ChannelClosed, OSError):
                self._drop(client)
                return
            self._send(client, self._answer(client, message, descriptors))
            if client not in self._clients:
                return

    def _answer(self, client: Client, message: Message, descriptors: list[int]) -> Message:
        try:
            return {"ok": True, **self._do(client, message, descriptors)}
        except msgspec.ValidationError as error:
            return {"ok": False, "reason": "message_invalid", "message": str(error)}
        except ChoirError as error:
            return {"ok": False, **error.as_dict()}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _do(self, client: Client, message: Message, descriptors: list[int]) -> dict[str, Any]:
        now = time.perf_counter()
        op = message.get("op")
        if op == "attach":
            attach = msgspec.convert(message, Attach)
            if len(descriptors) != 1:
                raise ChoirError("listener_invalid", "`attach` comes with one descriptor, the listener.")
            if not attach.sandbox_id or "." in attach.sandbox_id:
                raise ChoirError("message_invalid", "`sandbox_id` must not be empty or have a dot.")
            self._registry.attach(
                attach.sandbox_id, attach.user_id, attach.role, now + attach.lease_s, descriptors.pop()
            )
            return {}
        if op == "authority":
            return {"certificate": self._registry.authority(msgspec.convert(message, Detach).sandbox_id)}
        if op == "renew":
            renew = msgspec.convert(message, Renew)
            if "warm" in message:
                self._registry.tell_warm(renew.warm, now + renew.lease_s)
            return {"unknown": self._registry.renew(renew.sandbox_ids, now + renew.lease_s)}
        if op == "detach":
            self._registry.detach(msgspec.convert(message, Detach).sandbox_id)
            return {}
        if op == "status":
            return self._status(now)
        if op == "reload":
            found = self.reload()
            return {
                "providers": msgspec.to_builtins(self._providers),
                "changes": msgspec.to_builtins(found[:_MAX_LISTED]),
                "change_count": len(found),
            }
        if op == "subscribe":
            self._subscribers.add(client)
            return {}
        raise ChoirError("op_unknown", "This operation is not known.")

    def _status(self, now: float) -> dict[str, Any]:
        sandboxes = list(self._registry.sandboxes.values())
        return {
            "pid": os.getpid(),
            **self._facts(),
            "providers": msgspec.to_builtins(self._providers),
            "sandbox_count": len(sandboxes),
            "sandboxes": [
                {
                    "sandbox_id": sandbox.sandbox_id,
                    "user_id": sandbox.user_id,
                    "role": sandbox.role,
                    "lease_s": round(sandbox.lease_until - now, 1),
                    "listening": sandbox.listener is not None,
                    "connections": len(sandbox.connections),
                    "calls": sandbox.budget.active,
                }
                for sandbox in sandboxes[:_MAX_LISTED]
            ],
        }
