"""The template's own side: see ``choir.isolation.template``. Standard library only; runs under ``python -I -S``."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # ``signal`` without the enums
import _socket
import contextlib
import gc
import importlib
import os
import sys

from choir.channel import Channel, ChannelClosed
from choir.isolation import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_LATER = ("ctypes", "choir.keyless", "choir.isolation.disk", "choir.isolation.tree", "re", "select", "termios")
"""What a keeper imports in the course of its life; staging may hide where from."""


def main(descriptor: int) -> None:
    """Fork keepers until the channel closes."""
    os.closerange(descriptor + 1, 1 << 20)
    os.set_inheritable(descriptor, False)
    channel = Channel(_socket.socket(fileno=descriptor))
    for name in (*_LATER, *(["choir.isolation.staging"] if os.geteuid() == 0 else [])):
        importlib.import_module(name)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # nobody waits for a keeper: its channel says how it went
    gc.freeze()
    gc.enable()
    with contextlib.suppress(ChannelClosed):
        while True:
            _, descriptors = channel.receive()
            if os.fork() == 0:
                channel.close()
                _become_keeper(descriptors[0])
            os.close(descriptors[0])


def _become_keeper(descriptor: int) -> NoReturn:
    code = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        os.setsid()
        keeper.serve(Channel(_socket.socket(fileno=descriptor)))
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)
