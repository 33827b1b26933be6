"""The hypervisor process: ``python -I -m choir.hypervisor.main --channel-fd N``.

Start message: ``{"state", "config", "token_key" (base64), "user", "port" (null: as configured), "environment" (host
variables for sandboxes), "keep_sandboxes"}``. Answer: ``{"ready": true, "login_url", "url", "isolation",
"providers"}``. Ends when the channel closes, and stops its sandboxes unless they are to be kept for the next one. Holds
no provider key.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
import uvicorn
import uvloop

from choir import config as configuration
from choir import logs
from choir.channel import Channel, ChannelClosed, Message, listen
from choir.config import Config
from choir.control_client import GatewayControl
from choir.errors import ChoirError, StartError
from choir.hypervisor.app import App
from choir.hypervisor.backup import apply_staged
from choir.hypervisor.control import Control, Runs
from choir.hypervisor.idle import IdleStop
from choir.hypervisor.login import Login
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import Origins
from choir.hypervisor.people.admin import Admin
from choir.hypervisor.people.limits import PersonalLimits
from choir.hypervisor.people.rooms import furnish
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.upgrade import Upgrade
from choir.hypervisor.usage_feed import UsageFeed
from choir.hypervisor.workspace import Workspaces
from choir.isolation import backends
from choir.isolation.contract import Backend
from choir.paths import State
from choir.service import serve
from choir.storage.ledger import Ledger
from choir.storage.people import People
from choir.storage.registry import Registry

GATEWAY_PATIENCE_SECONDS = 10.0
BACKLOG = 512

MakeRuns = Callable[[State, Config, GatewayControl, bytes], Runs]
"""Told the token signing key, too."""


def main() -> None:
    serve(lambda channel, message, descriptors: uvloop.run(run(channel, message, descriptors)))


async def run(
    channel: Channel,
    message: Message,
    descriptors: Sequence[int] = (),
    *,
    backend: Backend | None = None,
    make_runs: MakeRuns | None = None,
) -> None:
    """Serve until ``channel`` closes.

    Args:
        backend: how sandboxes are isolated; None: as configured.
        descriptors: the listener to serve on, when somebody else made it.
        make_runs: makes what starts the sandboxes of ``choir run``; None: nothing does.

    Raises:
        StartError: ``port_in_use``, ``address_unusable``, or the registry's.
        ConfigError, IsolationError: as they say.
    """
    configure_logs()
    config = configuration.load(Path(message["config"]) if message["config"] else None)
    state = State(Path(message["state"])).prepare()
    port = message.get("port")
    if descriptors:
        listener = socket.socket(fileno=descriptors[0])
    else:
        listener = listen_tcp(config.hypervisor.host, config.hypervisor.port if port is None else port)
    origins = Origins(public_url(config, listener))
    backend = backend or backends.choose(config.sandbox.backend, state.run)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(listener.close)
        replaced = apply_staged(state)
        if replaced is not None:
            structlog.get_logger("choir.hypervisor").info("backup_restored", replaced=str(replaced))
        registry = Registry(state.registry)
        stack.callback(registry.close)
        registry.ensure_user(message["user"], admin=True, now=time.time())
        isolation = await backend.probe()
        gateway = GatewayControl(state.gateway_socket)
        stack.push_async_callback(gateway.close)
        providers = (await _patient_status(gateway))["providers"]
        supervisor = Supervisor(
            state=state,
            config=config,
            registry=registry,
            backend=backend,
            gateway=gateway,
            token_key=base64.b64decode(message["token_key"]),
            environment=message.get("environment") or {},
        )
        workspaces = Workspaces(state, config.sandbox.keep_snapshots)
        workspaces.tidy()
        stack.push_async_callback(supervisor.close)
        await supervisor.begin()
        maintenance = Maintenance(supervisor, workspaces)
        feed = UsageFeed(gateway)
        idle = IdleStop(supervisor, feed, config.sandbox.idle_stop)
        for background in (feed.run(), idle.run()):
            stack.callback(asyncio.create_task(background).cancel)
        sessions = Sessions(registry, origins.public_url)
        sessions.begun = supervisor.standby.wake
        login = Login(registry)
        known = People(registry.database)
        limits = PersonalLimits(known, gateway, state.limits, lambda: configuration.load(config.path))
        await limits.begin()
        people = Admin(known, sessions, supervisor, origins, limits, config.oidc)
        ledger = Ledger(state.ledger)
        rooms = furnish(
            config=config,
            origins=origins,
            login=login,
            admin=people,
            maintenance=maintenance,
            feed=feed,
            usage=lambda user, limit: ledger.query(user_id=user, limit=limit),
            shares=ledger.shares,
            owner=message["user"],
        )
        app = App(
            origins=origins,
            sessions=sessions,
            rooms=rooms,
            supervisor=supervisor,
            maintenance=maintenance,
            feed=feed,
            usage=lambda sandbox_id, limit: ledger.query(sandbox_id=sandbox_id, limit=limit),
        )
        control = Control(
            supervisor=supervisor,
            maintenance=maintenance,
            sessions=sessions,
            login=login,
            people=people,
            origins=origins,
            admin=message["user"],
            isolation=isolation,
            address=listener.getsockname()[:2],
            runs=make_runs(state, config, gateway, base64.b64decode(message["token_key"])) if make_runs else None,
        )
        questions = listen(str(state.hypervisor_socket))
        stack.callback(questions.close)
        answering = asyncio.create_task(control.serve(questions))
        stack.callback(answering.cancel)
        web = WebServer(web_config(app))
        serving = asyncio.create_task(web.serve([listener]))
        channel.send(
            {
                "ready": True,
                "login_url": login.new_link(message["user"], origins.public_url),
                "url": origins.public_url,
                "isolation": isolation,
                "providers": providers,
            }
        )
        ended = asyncio.create_task(_until_closed(channel))
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, ended.cancel)
        await asyncio.wait({ended, serving, answering}, return_when=asyncio.FIRST_COMPLETED)
        for task in (serving, answering):
            if task.done():
                task.result()
        supervisor.begin_to_close()
        web.should_exit = True
        await serving
        if message.get("keep_sandboxes") and not ended.cancelled():
            os._exit(0)  # as after a crash: their keepers go on, and the next hypervisor adopts them


class WebServer(uvicorn.Server):
    """One that leaves the signals alone: this process ends in its own order. And that sleeps while nobody asks for
    anything: uvicorn's looks at the clock ten times a second, for the sake of ``should_exit`` and the Date header."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._end = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._end.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._end.set()

    async def main_loop(self) -> None:
        await self._end.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def web_config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws=Upgrade,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,  # the application's
        timeout_graceful_shutdown=1,
    )


async def _until_closed(channel: Channel) -> None:
    with contextlib.suppress(ChannelClosed):
        while True:
            await channel.receive_async(asyncio.get_running_loop())


async def _patient_status(gateway: GatewayControl) -> Message:
    """The gateway may just be starting again."""
    deadline = time.monotonic() + GATEWAY_PATIENCE_SECONDS
    while True:
        try:
            return await gateway.status()
        except ChoirError as error:
            if error.reason != "gateway_unreachable" or time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.1)


def listen_tcp(host: str, port: int) -> socket.socket:
    """
    Raises:
        StartError: ``port_in_use`` or ``address_unusable``.
    """
    sock = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                "port_in_use",
                f"Port {port} of {host} is in use by another program.",
                "Choose another with --port, or `port` in the [hypervisor] section of choir.toml.",
            ) from error
        raise StartError(
            "address_unusable",
            f"Cannot listen on {host} port {port}: {error.strerror or error}.",
            "Check `host` and `port` in the [hypervisor] section of choir.toml.",
        ) from error
    return sock


def public_url(config: Config, listener: socket.socket) -> str:
    """The configured one, else ``http://localhost`` with the port that is really listened on."""
    return config.hypervisor.public_url or f"http://localhost:{listener.getsockname()[1]}"


def configure_logs() -> None:
    """JSON lines on stderr (``choir.logs``). uvicorn's request lines stay off: a query may hold a ticket."""
    logs.take_standard_logging("hypervisor")
    structlog.configure(
        processors=[logs.renderer("hypervisor")],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


if __name__ == "__main__":
    main()
