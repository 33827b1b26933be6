"""What systemd hands a service and wants to hear of it: sd_notify(3), sd_listen_fds(3), credentials (systemd.exec(5)).

Everything here is nothing on a machine without systemd: no socket, no descriptors, no folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from choir.errors import StartError

LISTEN_FDS_START = 3
VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC")
"""What a ``Notifier`` reads."""


class Notifier:
    """Tells systemd how the service is. Messages that cannot be delivered are lost, as sd_notify's are."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        try:
            microseconds = int(environment.get("WATCHDOG_USEC", "0"))
        except ValueError:
            microseconds = 0
        self.watchdog_seconds = microseconds / 1e6
        """0: no watchdog."""

    def send(self, **fields: str | int) -> None:
        """E.g. ``send(READY=1, STATUS="serving")``."""
        if not self._address:
            return
        import socket  # here and below: who only looks for a credential is on the clock

        message = "\n".join(f"{name}={value}" for name, value in fields.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)
            except OSError:
                return


def listeners(environment: Mapping[str, str], pid: int) -> list[int]:
    """The descriptors of socket activation, for the process ``pid`` alone; [] when there are none.

    Raises:
        StartError: ``listener_unusable``: what is announced is not a listening stream socket.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return []
    try:
        count = int(environment.get("LISTEN_FDS", "0"))
    except ValueError:
        count = 0
    import socket

    descriptors = list(range(LISTEN_FDS_START, LISTEN_FDS_START + count))
    for descriptor in descriptors:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and sock.type == socket.SOCK_STREAM
        except OSError:
            listening = 0
        if not listening:
            raise StartError(
                "listener_unusable",
                f"Descriptor {descriptor}, which systemd passed, is not a listening stream socket.",
                "Look at choir.socket: it needs ListenStream=.",
            )
        os.set_inheritable(descriptor, False)
    return descriptors


def credential(environment: Mapping[str, str], name: str) -> Path | None:
    """The file of a credential that systemd loaded for this unit, or None."""
    folder = environment.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / name
    return path if folder and path.is_file() else None
