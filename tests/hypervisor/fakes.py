"""Fakes of the neighbours (backend, gateway) and a real web server around the real application."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from choir.config import Config, SandboxEntry
from choir.contract import UsageRecord
from choir.errors import ChoirError, StartError
from choir.hypervisor.app import App
from choir.hypervisor.login import Login
from choir.hypervisor.main import WebServer, listen_tcp, web_config
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import Origins
from choir.hypervisor.people.admin import Admin
from choir.hypervisor.people.limits import PersonalLimits
from choir.hypervisor.people.rooms import furnish
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed
from choir.hypervisor.workspace import Workspaces
from choir.isolation.contract import Event, Exited, Phase, PhaseReached, SandboxSpec
from choir.paths import State
from choir.storage.ledger import Ledger
from choir.storage.people import People
from choir.storage.registry import Registry

PHASES: tuple[Phase, ...] = ("keeper", "namespace", "keyless", "listener", "desktop", "ready")
USER = "ada"
LABEL = "ada-live"


def exited(
    code: int | None = 0,
    signal: int | None = None,
    reason: str = "",
    message: str = "",
    hint: str = "",
    log_tail: str = "",
) -> Exited:
    return Exited(code, signal, reason, message, hint, log_tail)


class FakeRunning:
    """Implements ``choir.isolation.contract.Running``."""

    keeper_pid = 0
    pid = 0

    def __init__(self, backend: FakeBackend, spec: SandboxSpec) -> None:
        self.sandbox_id = spec.sandbox_id
        self.backend = backend
        self.history: list[Event] = [PhaseReached(phase, 0.01 * number) for number, phase in enumerate(PHASES[:4])]
        self.news = asyncio.Event()
        self.end: Exited | None = None
        self.closed = False
        self.listener = socket.socket()
        self.desktop: str | None = backend.desktop

    def publish(self, event: Event) -> None:
        self.history.append(event)
        if isinstance(event, Exited):
            self.end = event
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def events(self) -> AsyncIterator[Event]:
        index = 0
        while True:
            while index < len(self.history):
                yield self.history[index]
                index += 1
            if self.end is not None:
                return
            await self.news.wait()

    def poll(self) -> Exited | None:
        return self.end

    async def wait_ready(self) -> None:
        await self.backend.becomes_ready(self)
        async for event in self.events():
            if isinstance(event, Exited):
                raise StartError(event.reason, event.message, event.hint)
            if event.phase == "ready":
                return

    async def wait(self) -> Exited:
        async for event in self.events():
            if isinstance(event, Exited):
                return event
        raise AssertionError("no end")

    async def stop(self, grace: float = 5.0) -> Exited:
        self.backend.stops.append(grace)
        if self.end is None:
            await self.backend.stopping(self)
        return self.end or exited()

    def resize(self, rows: int, columns: int) -> None: ...

    def close(self) -> None:
        self.closed = True
        self.listener.close()


class FakePrepared:
    """Implements ``choir.isolation.contract.Prepared``."""

    pid = 0

    def __init__(self, backend: FakeBackend, spec: SandboxSpec) -> None:
        self.sandbox_id = spec.sandbox_id
        self.spec = spec
        self.backend = backend
        self.end: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        self.fails: ChoirError | None = None
        """How ``start`` does."""
        self.left = False
        self.started = False
        self.running: FakeRunning | None = None

    async def wait(self) -> Exited:
        return await asyncio.shield(self.end)

    async def start(self, spec: SandboxSpec, stdio: Any = None) -> FakeRunning:
        assert not self.left
        if self.fails is not None:
            raise self.fails
        self.started = True
        self.running = await FakeBackend.start(self.backend, spec)
        return self.running

    async def discard(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        self.left = True
        if self.running is not None:
            self.running.close()
        if not self.end.done():
            self.end.set_result(exited(reason="stopped"))


@dataclass
class FakeBackend:
    """Everything goes well. Its kinds below behave badly in one way each."""

    name = "fake"
    desktop: str | None = None
    spawned: list[FakeRunning] = field(default_factory=list)
    specs: list[SandboxSpec] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    adoptable: dict[str, FakeRunning] = field(default_factory=dict)
    prepared: list[FakePrepared] = field(default_factory=list)

    def __post_init__(self) -> None: ...

    async def probe(self) -> str:
        return "fake isolation"

    async def start(self, spec: SandboxSpec, stdio: Any = None) -> FakeRunning:
        self.specs.append(spec)
        running = FakeRunning(self, spec)
        self.spawned.append(running)
        return running

    async def prepare(self, spec: SandboxSpec) -> FakePrepared:
        self.prepared.append(FakePrepared(self, spec))
        return self.prepared[-1]

    async def adopt(self, keeper_socket: Path) -> FakeRunning:
        try:
            return self.adoptable[keeper_socket.stem]
        except KeyError:
            raise StartError("keeper_gone", "No keeper.") from None

    def explain(self, spec: SandboxSpec) -> list[str]:
        return []

    async def becomes_ready(self, running: FakeRunning) -> None:
        if len(running.history) == 4:
            running.publish(PhaseReached("desktop", 0.05))
            running.publish(PhaseReached("ready", 0.06))

    async def stopping(self, running: FakeRunning) -> None:
        running.publish(exited(signal=15, code=None))


class SlowSpawn(FakeBackend):
    """``start`` hangs until ``go`` is set; ends as cancelled when it is cancelled."""

    def __post_init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = False

    async def start(self, spec: SandboxSpec, stdio: Any = None) -> FakeRunning:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return await super().start(spec, stdio)


class NeverReady(FakeBackend):
    async def becomes_ready(self, running: FakeRunning) -> None:
        await running.wait()


class BadExit(FakeBackend):
    """The sandbox finds a credential and ends instead of becoming ready."""

    async def becomes_ready(self, running: FakeRunning) -> None:
        running.publish(
            exited(
                77,
                reason="credential_in_environment",
                message="The variable MY_API_KEY holds a credential.",
                hint="Do not forward it.",
                log_tail="first line\nlast line\n",
            )
        )


class RefusesToSpawn(FakeBackend):
    async def start(self, spec: SandboxSpec, stdio: Any = None) -> FakeRunning:
        raise StartError("user_namespaces_unavailable", "This machine allows no user namespaces.", "Allow them.")


class SlowStop(FakeBackend):
    """Ends only when ``killed``."""

    def __post_init__(self) -> None:
        self.killed = asyncio.Event()

    async def stopping(self, running: FakeRunning) -> None:
        await self.killed.wait()
        running.publish(exited(signal=9, code=None))


class FakeGateway:
    """What the supervisor sees of a gateway."""

    def __init__(self) -> None:
        self.attached: dict[str, tuple[str, str]] = {}
        self.log: list[tuple[str, str]] = []
        self.listeners: list[asyncio.Queue[dict[str, Any]]] = []
        self.calls: dict[str, int] = {}
        self.warm: int | None = None
        self.away = 0

    def restart(self) -> None:
        """Forgets everybody, as a new process does, and is connected to again."""
        self.attached.clear()
        self.say({"event": "connected"})

    async def attach(
        self, sandbox_id: str, user_id: str, role: str, listener: socket.socket, lease_s: float = 0
    ) -> None:
        if self.away > 0:
            self.away -= 1
            raise ChoirError("gateway_unreachable", "")
        assert listener.fileno() >= 0
        self.log.append(("attach", sandbox_id))
        self.attached[sandbox_id] = (user_id, role)

    async def renew(self, sandbox_ids: Iterable[str], lease_s: float = 0, warm: int | None = None) -> list[str]:
        ids = list(sandbox_ids)
        self.warm = warm
        self.log.extend(("renew", each) for each in ids)
        return [each for each in ids if each not in self.attached]

    async def detach(self, sandbox_id: str) -> None:
        self.log.append(("detach", sandbox_id))
        self.attached.pop(sandbox_id, None)

    async def status(self) -> dict[str, Any]:
        sandboxes = [{"sandbox_id": each, "calls": self.calls.get(each, 0)} for each in self.attached]
        return {"providers": [{"name": "openai", "enabled": True, "reason": ""}], "sandboxes": sandboxes}

    async def reload(self) -> dict[str, Any]:
        self.log.append(("reload", ""))
        return {}

    async def subscribe(self) -> None:
        self.log.append(("subscribe", ""))

    def say(self, event: dict[str, Any]) -> None:
        for queue in self.listeners:
            queue.put_nowait(event)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.listeners.append(queue)
        yield {"event": "connected"}
        while True:
            yield await queue.get()


def make_supervisor(
    state: State, registry: Registry, backend: Any, gateway: Any = None, start_timeout: float = 20.0, warm: int = 0
) -> Supervisor:
    from choir import config as configuration

    config = configuration._resolve(configuration.File(), None, "")
    config = Config(path=None, sandbox=SandboxEntry(start_timeout=start_timeout, warm=warm), providers=config.providers)
    return Supervisor(
        state=state,
        config=config,
        registry=registry,
        backend=backend,
        gateway=gateway or FakeGateway(),
        token_key=b"k" * 32,
        environment={"LANG": "C.UTF-8"},
    )


@dataclass
class Deployment:
    """The application behind a real server, and a client of it."""

    url: str
    supervisor: Supervisor
    maintenance: Maintenance
    sessions: Sessions
    login: Login
    people: People
    backend: Any
    client: aiohttp.ClientSession
    usage: list[UsageRecord]
    port: int
    admin: Admin

    @property
    def desk_host(self) -> str:
        return f"{LABEL}.localhost:{self.port}"

    @property
    def desk_origin(self) -> str:
        return f"http://{self.desk_host}"

    @property
    def sandbox(self) -> Sandbox:
        return self.supervisor.seat(USER, "live")

    def ask(self, method: str, path: str, *, host: str = "", cookie: str = "", **more: Any) -> Any:
        """A request as a program makes it; ``host`` is a Host header, ``cookie`` a session's value."""
        headers = {"Host": host or f"localhost:{self.port}", **more.pop("headers", {})}
        if cookie:
            headers["Cookie"] = self.cookie(cookie)
        return self.client.request(
            method, f"http://127.0.0.1:{self.port}{path}", headers=headers, allow_redirects=False, **more
        )

    def connect(self, path: str, *, cookie: str = "", origin: str | None = None, **more: Any) -> Any:
        headers = {"Host": self.desk_host, "Cookie": self.cookie(cookie)}
        origin = self.desk_origin if origin is None else origin
        return self.client.ws_connect(
            f"http://127.0.0.1:{self.port}{path}", headers=headers, origin=origin or None, **more
        )

    def cookie(self, value: str) -> str:
        return f"{self.sessions.cookie_name}={value}"

    def hub_cookie(self) -> str:
        return self.sessions.begin(USER)

    def desk_cookie(self, parent: str | None = None) -> str:
        parent_row = self.sessions.find(self.cookie(parent or self.hub_cookie()), "")
        return self.sessions.begin(USER, LABEL, parent_row)

    async def ready(self) -> Sandbox:
        self.supervisor.start(self.sandbox)
        assert (await self.sandbox.settled(10)).state == "ready"
        return self.sandbox


@contextlib.asynccontextmanager
async def deployed(
    state: State,
    backend: Any,
    *,
    gateway: Any = None,
    start_timeout: float = 20.0,
    warm: int = 0,
    configured: Mapping[str, Any] | None = None,
) -> AsyncIterator[Deployment]:
    """
    Args:
        configured: sections of ``choir.config.Config`` that are not as by default.
    """
    registry = Registry(state.registry)
    listener = listen_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    origins = Origins(f"http://localhost:{port}")
    supervisor = make_supervisor(state, registry, backend, gateway, start_timeout, warm)
    await supervisor.begin()
    sessions = Sessions(registry, origins.public_url)
    login = Login(registry)
    people = People(registry.database)
    registry.ensure_user(USER, admin=True, now=0.0)
    usage: list[UsageRecord] = []
    config = msgspec.structs.replace(supervisor.config, **configured or {})
    limits = PersonalLimits(people, supervisor.leases.gateway, state.limits, lambda: config)
    admin = Admin(people, sessions, supervisor, origins, limits, config.oidc)
    maintenance = Maintenance(supervisor, Workspaces(state, keep=3))
    feed = UsageFeed(supervisor.leases.gateway)
    feeding = asyncio.create_task(feed.run())
    rooms = furnish(
        config=config,
        origins=origins,
        login=login,
        admin=admin,
        maintenance=maintenance,
        feed=feed,
        usage=lambda user, limit: [each for each in usage if each.user_id == user][:limit],
        shares=Ledger(state.ledger).shares,
        owner=USER,
    )
    app = App(
        origins=origins,
        sessions=sessions,
        rooms=rooms,
        supervisor=supervisor,
        maintenance=maintenance,
        feed=feed,
        usage=lambda sandbox_id, limit: [each for each in usage if each.sandbox_id == sandbox_id][:limit],
    )
    server = WebServer(web_config(app))
    serving = asyncio.create_task(server.serve([listener]))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client:
        try:
            yield Deployment(
                *(origins.public_url, supervisor, maintenance, sessions, login, people, backend, client, usage, port),
                admin,
            )
        finally:
            server.should_exit = True
            await serving
            feeding.cancel()
            await supervisor.close()
            registry.close()


@contextlib.asynccontextmanager
async def desktop_server(
    state: State, routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]]
) -> AsyncIterator[str]:
    """A real server on a unix socket, standing in for a sandbox's desktop. The socket's path."""
    app = web.Application(client_max_size=0)
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, auto_decompress=False)
    await runner.setup()
    path = os.path.join(state.run, "d.sock")
    await web.UnixSite(runner, path, shutdown_timeout=0.5).start()
    try:
        yield path
    finally:
        await runner.cleanup()
