"""``choir run``: asks the hypervisor of ``choir up`` to start the sandbox, or without one a process that it starts for
this (``choir.app.ahead``), and then holds it.

It imports next to nothing, since what a person waits for is mostly imports: no json, no socket, no asyncio. What is
said is in ``choir.app.starter``. The keeper's channel makes the sandbox this process's own: it ends with it, and goes
on when the hypervisor goes away.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # ``signal`` without the enums
import _socket
import os
import select

from choir.app.notice import notice
from choir.channel import Channel, ChannelClosed, connect
from choir.errors import EXIT_FAILED, ChoirError
from choir.places import hypervisor_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from choir.cli.tty import Tty

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
LAST_WORDS = 10.0  # seconds that the hypervisor may take for them


def run(root: str, asked: dict[str, Any]) -> int | None:
    """The command's exit code, or 128 + signal; None when it cannot be done this way.

    Args:
        root: the state folder.
        asked: ``command``, ``agent``, ``model``, ``strict``.

    Raises:
        ChoirError: it was not run; nothing is left behind.
    """
    try:
        return _converse(connect(hypervisor_socket(root)), root, asked)
    except ChannelClosed:
        from choir.app import ahead

        channel = ahead.start(root)
        return None if channel is None else _converse(channel, root, asked, keys=Channel.pair())


def _converse(
    channel: Channel, root: str, asked: dict[str, Any], keys: tuple[Channel, Channel] | None = None
) -> int | None:
    """
    Args:
        keys: a channel for the gateway of this run alone, to ask for them on.
    """
    tty = None
    stdio = (0, 1, 2)
    if os.isatty(0) and os.isatty(1):
        from choir.cli.tty import Tty

        tty = Tty()
        stdio = tty.stdio
    try:
        try:
            folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            passed = [folder, *stdio, *([keys[1].fileno()] if keys else [])]
            channel.send({"op": "run", "folder": os.getcwd(), **asked}, passed)
        except (ChannelClosed, ValueError, OSError):  # too long a command for it; a stream that is closed
            return None
        os.close(folder)
        if keys:
            keys[1].close()
        started = _start(channel, keys[0] if keys else None)
        if started is None:
            return None
        return _Run(channel, root, *started, tty, alone=keys is not None).to_its_end()
    finally:
        if tty is not None:
            tty.restore()


def _start(channel: Channel, keys: Channel | None) -> tuple[dict[str, Any], list[int]] | None:
    while True:
        if keys is not None and keys in select.select([channel, keys], [], [])[0]:
            _hand_over(keys)
            keys = None
            continue
        try:
            message, descriptors = channel.receive()
        except ChannelClosed:  # nothing has run yet
            return None
        if "want" in message:
            channel.send({"environment": _variables(message["want"])})
        elif "say" in message:
            notice(message["say"])
        elif "failed" in message:
            raise _refusal(message)
        elif "started" in message:
            return message, descriptors
        else:  # elsewhere, or a hypervisor that does not know how
            return None


def _hand_over(keys: Channel) -> None:
    """To the gateway, which says by which names it has been told of them."""
    try:
        keys.send({"secrets": _variables(keys.receive()[0]["want"])})
    except ChannelClosed:
        return  # why it ended is heard elsewhere
    finally:
        keys.close()


def _variables(names: list[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


def _refusal(message: dict[str, Any]) -> ChoirError:
    error = ChoirError(**message["failed"])
    error.exit_code = message["exit_code"]
    return error


class _Run:
    """A started sandbox, from being told to proceed to its end."""

    def __init__(
        self,
        channel: Channel,
        root: str,
        started: dict[str, Any],
        descriptors: list[int],
        tty: Tty | None,
        alone: bool,
    ) -> None:
        self._channel = channel
        self._root = root
        self._started = started
        self._keeper = Channel(_socket.socket(fileno=descriptors[0]))
        self._listener = descriptors[1]
        self._tty = tty
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._ready = False
        self._stopped = False
        self._alone = alone  # the gateway is this run's own
        self._deserted = False
        self._refused: ChoirError | None = None
        self._exited: dict[str, Any] | None = None

    def to_its_end(self) -> int:
        bell = self._hear_signals()
        self._watch(bell, lambda: self._signalled(os.read(bell, 64)))
        self._watch(self._keeper.fileno(), self._keeper_speaks)
        self._watch(self._channel.fileno(), self._hypervisor_speaks)
        self._tell({"op": "proceed"})
        while self._exited is None:
            for descriptor, _ in self._poll.poll():
                handler = self._handlers.get(descriptor)
                if handler is not None:
                    handler()
        if self._tty is not None:
            self._tty.drain()
            self._tty.restore()
        self._say_goodbye()
        return self._code(self._exited)

    def _watch(self, descriptor: int, handler: Callable[[], None]) -> None:
        self._handlers[descriptor] = handler
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def _hear_signals(self) -> int:
        bell, ring = os.pipe()
        os.set_blocking(ring, False)
        _signal.set_wakeup_fd(ring)
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGWINCH):
            _signal.signal(number, lambda number, frame: None)
        return bell

    def _signalled(self, numbers: bytes) -> None:
        if _signal.SIGWINCH in numbers and self._tty is not None and self._ready:
            rows, columns = self._tty.resized()
            self._tell({"op": "resize", "rows": rows, "columns": columns})
        if {_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP} & set(numbers):
            self._stopped = True
            self._tell({"op": "stop", "grace": GRACE})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._keeper.send(message)
        except ChannelClosed:
            return  # the loop meets its end

    def _keeper_speaks(self) -> None:
        try:
            message, descriptors = self._keeper.receive()
        except ChannelClosed:
            died = "The sandbox's keeper died, and the sandbox with it."
            self._exited = {"code": None, "signal": None, "reason": "keeper_died", "message": died, "hint": ""}
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if message["event"] == "exited":
            self._exited = message
        elif message.get("phase") == "ready":
            self._ready = True
            if self._tty is not None:
                self._tty.relay(self._watch, self._unwatch)

    def _hypervisor_speaks(self) -> None:
        try:
            message, _ = self._channel.receive()
        except ChannelClosed:
            self._unwatch(self._channel.fileno())
            self._deserted = True
            if self._alone:
                self._refuse(ChoirError("gateway_died", "The gateway of this run died."))
                return
            from choir.cli.lease import keep

            keep(self._root, self._started, self._listener)
            return
        if "say" in message:
            notice(message["say"])
        elif "failed" in message:
            self._refuse(_refusal(message))

    def _refuse(self, error: ChoirError) -> None:
        """There is no gateway for the command's calls."""
        self._refused = error
        self._tell({"op": "stop", "grace": GRACE, "reason": error.reason, "message": error.message})

    def _say_goodbye(self) -> None:
        """The lease ends now, and the hypervisor says what it has seen in the folder."""
        if self._deserted and not self._alone:
            from choir.cli.lease import end

            end(self._root, self._started)
            notice("the hypervisor went away meanwhile: nobody has looked at what the command left for your git")
            return
        try:
            self._channel.sock.settimeout(LAST_WORDS)
            self._channel.send({"op": "ended"})
            while "done" not in (message := self._channel.receive()[0]):
                notice(message.get("say", ""))
        except (ChannelClosed, OSError):
            notice("the hypervisor went away before it had looked at what the command left for your git")

    def _code(self, exited: dict[str, Any]) -> int:
        """As a shell gives it. A reason of Choir's own is said on stderr.

        Raises:
            ChoirError: it ended by itself before the command ran.
        """
        if self._refused is not None:
            raise self._refused
        if not self._ready and not self._stopped:
            from choir.isolation.contract import Exited
            from choir.isolation.history import start_error

            known = ("code", "signal", "reason", "message", "hint")
            raise start_error(Exited(**{name: exited[name] for name in known}, log_tail=""))
        if exited["reason"]:
            notice(f"{exited['message']} {exited['hint']}")
        if exited["signal"] is not None:
            return 128 + int(exited["signal"])
        code = exited["code"]
        return EXIT_FAILED if code is None else int(code)
