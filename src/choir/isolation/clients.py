"""Whom a keeper tells what happens: the one who started it, and whoever connects to its control socket."""

from __future__ import annotations

import os
import socket

from choir.channel import Channel, ChannelClosed, listen, peer_credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Clients:
    """Every client hears everything from the beginning, descriptors included.

    Args:
        parent: the first client.
        watch, unwatch: the keeper's event loop.
        hear: called with each message of a client, and its descriptors, which are closed afterwards.
        orphaned: called once, when the parent is gone.
    """

    def __init__(
        self,
        parent: Channel,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
        hear: Callable[[dict[str, Any], list[int]], None],
        orphaned: Callable[[], None],
    ) -> None:
        self._parent = parent
        self._watch, self._unwatch = watch, unwatch
        self._hear, self._orphaned = hear, orphaned
        self._connected: list[Channel] = []
        self._history: list[tuple[dict[str, Any], list[int]]] = []
        self._socket: socket.socket | None = None
        self._folder = -1
        self._name = ""
        self._join(parent)

    def __bool__(self) -> bool:
        return bool(self._connected)

    @property
    def may_return(self) -> bool:
        """Whether others can connect."""
        return self._socket is not None

    def listen(self, path: str) -> None:
        """Open the control socket, by a descriptor of its folder: a socket's own path is at most 107 bytes, and staging
        may hide the folder later."""
        folder, name = os.path.split(path)
        self.listen_in(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name)

    def listen_in(self, folder: int, name: str) -> None:
        """As ``listen``, in a folder by its descriptor, which is owned here from now on."""
        self._folder, self._name = folder, name
        self._socket = listen(f"/proc/self/fd/{self._folder}/{self._name}")
        self._watch(self._socket.fileno(), self._accept)

    def publish(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Tell everybody, now and later; the descriptors stay owned here."""
        self._history.append((message, descriptors))
        for client in list(self._connected):
            self._tell(client, message, descriptors)

    def conclude(self, message: dict[str, Any]) -> None:
        """The last message; later clients hear who this is and how it ended. Closes every descriptor: the passed ones
        would keep the sandbox's network namespace alive."""
        for _, descriptors in self._history:
            for descriptor in descriptors:
                os.close(descriptor)
        self._history = [(past, []) for past, _ in self._history if past["event"] == "hello"]
        self.publish(message, [])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            try:
                os.unlink(self._name, dir_fd=self._folder)
            except OSError:  # swept away already
                return

    def _join(self, client: Channel) -> None:
        self._connected.append(client)
        self._watch(client.fileno(), lambda: self._listen_to(client))
        for message, descriptors in self._history:
            self._tell(client, message, descriptors)

    def _accept(self) -> None:
        assert self._socket is not None
        sock, _ = self._socket.accept()
        if peer_credentials(sock)[1] in (0, os.geteuid()):
            self._join(Channel(sock))
        else:
            sock.close()

    def _listen_to(self, client: Channel) -> None:
        try:
            message, descriptors = client.receive()
        except ChannelClosed:
            self._drop(client)
            return
        try:
            self._hear(message, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _tell(self, client: Channel, message: dict[str, Any], descriptors: list[int]) -> None:
        if client in self._connected:
            try:
                client.send(message, descriptors)
            except (ChannelClosed, OSError):
                self._drop(client)

    def _drop(self, client: Channel) -> None:
        self._unwatch(client.fileno())
        self._connected.remove(client)
        client.close()
        if client is self._parent:
            self._orphaned()
