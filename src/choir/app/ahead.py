"""What ``choir run`` starts when no ``choir up`` runs: a process that does for this one run what a hypervisor does for
all (``choir.app.alone``), and a template of keepers, which is ready before it is needed.

Both wait for their first message and end when this process does. They get a clean environment: the gateway asks for
the keys over a channel of its own.
"""

from __future__ import annotations

import os
import sys

from choir.channel import Channel, ChannelClosed, connect
from choir.isolation.template import Template
from choir.places import clean_environment, gateway_sockets

_BOOT = "import gc; gc.disable(); from choir.app.alone import main; main()"  # imports make no garbage


def start(root: str) -> Channel | None:
    """The channel to ask on, as to a hypervisor; None when there is a gateway already, which shall be used.

    Args:
        root: the state folder.
    """
    for path in gateway_sockets(root):
        try:
            connect(path).close()
        except ChannelClosed:
            continue
        return None
    ours, theirs = Channel.pair()
    template, its_own = Channel.pair()
    descriptors = theirs.fileno(), template.fileno()
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
    words = [sys.executable, "-I", "-c", _BOOT, *map(str, descriptors), root]
    null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    out = (os.POSIX_SPAWN_DUP2, 2, 1)
    os.posix_spawn(words[0], words, clean_environment(os.environ), file_actions=[null, out], setsid=True)
    for channel in (theirs, template):
        channel.close()
    Template().spawn(its_own)
    its_own.close()
    return ours
