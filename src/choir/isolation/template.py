"""The template: one process that has imported what a keeper needs, and forks one keeper per sandbox in a millisecond.

It is started with an empty environment, before it has been told anything, and is never told more than a descriptor per
keeper: what a fork inherits is Choir's own code and nothing else. It ends with whoever started it; the keepers go on by
themselves.
"""

from __future__ import annotations

import atexit
import os
import sys

from choir.channel import Channel, ChannelClosed

CHANNEL = 3
BOOT = (
    "import gc, sys; gc.disable(); sys.path.append(sys.argv[1]); "  # imports make no garbage
    "from choir.isolation.template_main import main; main(int(sys.argv[2]))"
)


_own: list[Template] = []


def own_template() -> Template:
    """The one of this process."""
    if not _own:
        _own.append(Template())
        atexit.register(_own[0].close)
    return _own[0]


class Template:
    """The parent's side. The process is started on first use, and again when it has died.

    Args:
        channel: of one that runs.
        boot: the program, given the folder of the package ``choir`` and the number of its channel.
    """

    def __init__(self, channel: Channel | None = None, boot: str = BOOT) -> None:
        source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._command = [os.path.realpath(sys.executable), "-I", "-S", "-c", boot, source, str(CHANNEL)]
        self._channel = channel
        self._ordered: Channel | None = None

    def start(self) -> Channel:
        """Start the process, unless it has been. Returns at once."""
        if self._channel is None:
            ours, theirs = Channel.pair()
            try:
                self.spawn(theirs)
            finally:
                theirs.close()
            self._channel = ours
        return self._channel

    def spawn(self, theirs: Channel) -> None:
        """Start the process with that end of a channel, the other of which may be anybody's."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_spawn(
                self._command[0],
                self._command,
                {},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL),
                    (os.POSIX_SPAWN_DUP2, null, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                ],
                setsid=True,
            )
        finally:
            os.close(null)

    def order(self) -> None:
        """Have a keeper forked that ``keeper`` will be asked for.

        Raises:
            ChannelClosed: the template cannot be started.
        """
        self._ordered = self._fork()

    def keeper(self) -> Channel:
        """A new keeper's channel, open before there is a keeper: what is sent waits for it.

        Raises:
            ChannelClosed: the template cannot be started.
        """
        ordered, self._ordered = self._ordered, None
        return ordered or self._fork()

    def _fork(self) -> Channel:
        ours, theirs = Channel.pair()
        try:
            try:
                self.start().send({}, [theirs.fileno()])
            except ChannelClosed:  # it was killed
                self.close()
                self.start().send({}, [theirs.fileno()])
        finally:
            theirs.close()
        return ours

    def close(self) -> None:
        """End the process; its keepers go on."""
        if self._ordered is not None:
            self._ordered.close()
            self._ordered = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
