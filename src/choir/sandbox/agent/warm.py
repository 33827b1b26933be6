"""The process that runs are forked from: it has the heavy libraries loaded, and nothing else.

Runs as ``python -I -S``, in the sandbox, a child of the desktop. On its channel: ``{"op": "warm", "family"}`` loads;
``{"op": "run", "family"}`` with a socket (``link``) forks a run and says its ``{"pid"}``; ``{"op": "stop"}`` kills it.
Whenever a run's process has ended it kills what the run left behind, then says ``{"ended": true}``. One run at a time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from choir.channel import Channel, ChannelClosed
from choir.sandbox.agent.tree import become_subreaper, kill_below


def main(descriptor: int) -> None:
    """Until the channel closes."""
    become_subreaper()
    channel = Channel(socket.socket(fileno=descriptor))
    os.set_inheritable(descriptor, False)
    try:
        _serve(channel)
    except ChannelClosed:
        pass
    finally:
        kill_below(os.getpid())


def _serve(channel: Channel) -> None:
    run = -1  # a pidfd
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == run:
                poll.unregister(run)
                os.close(run)
                run = -1
                kill_below(os.getpid())
                channel.send({"ended": True})
                continue
            message, descriptors = channel.receive()
            if message["op"] == "stop":
                kill_below(os.getpid())
            else:
                _load(message["family"])
            for descriptor in descriptors:
                if run < 0:
                    run = _fork(channel, descriptor)
                    poll.register(run, select.POLLIN)
                os.close(descriptor)


def _load(family: str) -> None:
    import pydantic_ai

    from choir.sandbox.agent import models, run, toolbox  # noqa: F401

    assert pydantic_ai
    models.load(family)


def _fork(channel: Channel, descriptor: int) -> int:
    """Start a run; its pidfd."""
    gc.freeze()
    pid = os.fork()
    if pid:
        channel.send({"pid": pid})
        return os.pidfd_open(pid)
    code = 1
    try:
        channel.close()
        become_subreaper()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from choir.sandbox.agent.run import serve

        with socket.socket(fileno=os.dup(descriptor)) as sock:
            os.close(descriptor)
            serve(sock)
        code = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            print(f"a run failed ({type(error).__name__})", file=sys.stderr, flush=True)
    os._exit(code)
