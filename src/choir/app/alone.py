"""``choir run`` without ``choir up``: the sandbox of one run and a gateway for it, in a process of their own.

Started by the client (``choir.app.ahead``) and spoken to as a hypervisor is (``choir.app.starter``). What a person
waits for is mostly imports, so nothing here needs asyncio before the command runs. The gateway is forked before this
process was told anything, asks the client itself for the keys, and says which providers it has before it imports what
serves them: the sandbox starts meanwhile. A call that the command makes before the gateway serves waits in the
sandbox's own listener; when the gateway cannot serve, the client ends the run with the gateway's reason.
"""

from __future__ import annotations

import _socket
import contextlib
import gc
import os
import select
import sys
from pathlib import Path

from choir import run_config
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import ChoirError, StartError
from choir.paths import State

_STOP_SECONDS = 5.0
_SIGKILL = 9  # the module signal brings enums, and is not needed otherwise


class Gateway:
    """One that was forked from this process, which must know nothing secret yet.

    Args:
        log: where it writes.
        strange: channels that are not its own.
    """

    def __init__(self, log: Path, *strange: Channel) -> None:
        self.channel, theirs = Channel.pair()
        self.pid = os.fork()
        if self.pid == 0:
            _become_gateway(theirs, log, self.channel, *strange)
        theirs.close()
        self.ready = False
        self._waits = True

    def hear(self) -> Message:
        """What it says next of its start.

        Raises:
            StartError: its reason for not starting.
        """
        try:
            message, _ = self.channel.receive()
        except ChannelClosed:
            raise StartError("gateway_exited", "The gateway ended at its start; see its log.") from None
        if "reason" in message:
            raise StartError(*(str(message.get(name, "")) for name in ("reason", "message", "hint")))
        self.ready = bool(message.get("ready"))
        return message

    def serve(self) -> None:
        """Let it go on, now that it has said which providers it has. Idempotent."""
        if self._waits:
            self._waits = False
            with contextlib.suppress(ChannelClosed):  # why is heard where its answer is waited for
                self.channel.send({"op": "serve"})

    def stop(self) -> None:
        """End it: by itself when it has served, so that it writes down what it knows. Idempotent."""
        if self.pid < 0:
            return
        if self.ready:
            self.channel.sock.shutdown(_socket.SHUT_WR)  # that is how it is told
            pidfd = os.pidfd_open(self.pid)
            select.select([pidfd], [], [], _STOP_SECONDS)
            os.close(pidfd)
        # Not waited for yet: the number is still its own. Just forked, it leads no group yet.
        for kill in (os.kill, os.killpg):
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, _SIGKILL)
        with contextlib.suppress(ChannelClosed):
            while True:  # its worker holds the other end, too
                self.channel.receive()
        os.waitpid(self.pid, 0)
        self.channel.close()
        self.pid = -1


def _become_gateway(channel: Channel, log: Path, *strange: Channel) -> None:
    """In the fork; does not return."""
    code = 1
    try:
        os.setsid()
        for each in strange:
            each.close()
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        from choir import service
        from choir.gateway import main

        gc.enable()
        service.serve(main.run, channel)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def main() -> None:
    """``python -I -c … CHANNEL TEMPLATE ROOT``: descriptors of the client's channel and of a template's, the state
    folder."""
    client, ready_template = (Channel(_socket.socket(fileno=int(number))) for number in sys.argv[1:3])
    for channel in (client, ready_template):
        os.set_inheritable(channel.fileno(), False)
    state = State(Path(sys.argv[3]))
    with contextlib.suppress(OSError):  # said when it is prepared
        state.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    gateway = Gateway(state.logs / "gateway.log", client, ready_template)
    state = state.alone()
    try:
        with contextlib.suppress(ChannelClosed):
            _converse(client, gateway, ready_template, state)
    finally:
        client.close()
        ready_template.close()
        gateway.stop()
        import shutil

        shutil.rmtree(state.run, ignore_errors=True)
        os._exit(0)


def _converse(client: Channel, gateway: Gateway, template: Channel, state: State) -> None:
    """
    Raises:
        ChannelClosed: the client is gone; so is its sandbox.
    """
    from choir.app.caller import Asked, Elsewhere, close  # here and below: the gateway's own imports have begun
    from choir.app.secrets import gateway_start_message
    from choir.isolation.template import Template
    from choir.local_model import weights

    message, descriptors = client.receive()
    try:
        config = run_config.load()
        if config.sandbox.backend != "bubblewrap":
            raise Elsewhere("another backend is configured")
        state.prepare()
        start = gateway_start_message(config, state, {}, weights.available())
        with contextlib.suppress(ChannelClosed):  # why is heard where its answer is waited for
            gateway.channel.send(start, descriptors[-1:])
        os.close(descriptors.pop())
        from choir.app.alone_run import Run

        Run(client, gateway, Template(template), state).converse(Asked.take(message, descriptors), descriptors, config)
    except Elsewhere as why:
        client.send({"elsewhere": str(why)})
    except ChoirError as error:
        client.send({"failed": error.as_dict(), "exit_code": error.exit_code})
    finally:
        close(descriptors)
