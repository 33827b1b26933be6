"""Routes of the hypervisor's own origin: sign in, start, watch, stop, and the way into a sandbox's origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from choir.contract import Role
from choir.errors import ChoirError
from choir.hypervisor import answers, pages
from choir.hypervisor.admission import RETRY_AFTER_SECONDS
from choir.hypervisor.lifecycle import Failure
from choir.hypervisor.login import Tickets
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import Origins, is_navigation
from choir.hypervisor.people.rooms import Rooms
from choir.hypervisor.progress import SIGNED_OUT, stream
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.storage.registry import SessionRow

STATIC = Path(__file__).parent / "static"
DESK_ROLES: tuple[Role, ...] = ("live", "dev")
"""Roles with a desktop that a person can open."""

PROMPT_SECONDS = 0.25
"""A start that takes no longer needs no page to watch it on."""

_NO_STORE = {"cache-control": "no-store"}
_STREAM = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
assert set(DESK_ROLES) <= set(get_args(Role))


@dataclass(frozen=True)
class Hub:
    """Handlers, and what they work with."""

    origins: Origins
    rooms: Rooms
    tickets: Tickets
    supervisor: Supervisor
    maintenance: Maintenance

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                *self.rooms.routes(),
                Route("/", self.front),
                Route("/desk/{role}", self.desk),
                Route("/desk/{role}/open", self.open),
                Route("/desk/{role}/enter", self.enter),
                Route("/desk/{role}/events", self.events),
                Route("/desk/{role}/start", self.start, methods=["POST"]),
                Route("/desk/{role}/stop", self.stop, methods=["POST"]),
                Route("/desk/{role}/restart", self.restart, methods=["POST"]),
                Route("/desk/{role}/set-aside", self.set_aside, methods=["POST"]),
                Route("/swap", self.swap, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            exception_handlers={404: _not_found, 405: _not_a_page, 413: _too_large},
        )

    def session(self, request: Request) -> SessionRow | None:
        return self.rooms.door.session(request)

    def _seat(self, request: Request, session: SessionRow) -> Sandbox | None:
        for role in DESK_ROLES:
            if role == request.path_params["role"]:
                return self.supervisor.seat(session.user, role)
        return None

    async def front(self, request: Request) -> Response:
        """The person's desktop."""
        session = self.session(request)
        if session is None:
            return self.rooms.door.ask(request)
        return await self._opened(session, self.supervisor.seat(session.user, "live"))

    async def open(self, request: Request) -> Response:
        """A visit to one role's desktop."""
        session = self.session(request)
        if session is None:
            return self.rooms.door.ask(request)
        sandbox = self._seat(request, session)
        return await self._opened(session, sandbox) if sandbox else answers.refusal("not_found", request.scope)

    async def _opened(self, session: SessionRow, sandbox: Sandbox) -> Response:
        """On to it; begins a start unless the last one failed."""
        if sandbox.status.state in ("absent", "stopped"):
            try:
                self.supervisor.start(sandbox)
            except ChoirError as error:
                return _not_now(error)
        if sandbox.status.state == "starting":
            await sandbox.settled(PROMPT_SECONDS)
        return self._entered(session, sandbox)

    def _entered(self, session: SessionRow, sandbox: Sandbox) -> Response:
        """On to the sandbox's own origin when it is ready, else to its state."""
        if sandbox.status.state != "ready":
            return _see(f"/desk/{sandbox.role}?opening")
        ticket = self.tickets.issue(session, sandbox.label)
        return _see(f"{self.origins.origin(sandbox.label)}/.choir/enter?ticket={ticket}")

    async def desk(self, request: Request) -> Response:
        """The sandbox's state, or with ``?opening`` on to it once it is ready. Reading it never starts anything.

        The page itself goes on, not a redirect: where a form led here, the content policy's ``form-action`` ends a
        chain of redirects at another origin.
        """
        session = self.session(request)
        if session is None:
            return self.rooms.door.ask(request)
        sandbox = self._seat(request, session)
        if sandbox is None:
            return answers.refusal("not_found", request.scope)
        on: dict[str, str] = {}
        if sandbox.status.state == "ready" and "opening" in request.query_params:
            on = {"refresh": f"0; url=/desk/{sandbox.role}/enter"}
        return HTMLResponse(pages.sandbox_page(sandbox.role, sandbox.status), headers={**_NO_STORE, **on})

    async def enter(self, request: Request) -> Response:
        session = self.session(request)
        if session is None:
            return self.rooms.door.ask(request)
        sandbox = self._seat(request, session)
        return self._entered(session, sandbox) if sandbox else answers.refusal("not_found", request.scope)

    async def events(self, request: Request) -> Response:
        """Server-sent events, always 200: an EventSource gives up for good on anything else."""
        session = self.session(request)
        sandbox = self._seat(request, session) if session else None
        if sandbox is None:
            return StreamingResponse(_once(SIGNED_OUT.encode()), media_type="text/event-stream", headers=_STREAM)
        assert session is not None
        told = self._tell(session, sandbox, request.headers.get("last-event-id", ""))
        return StreamingResponse(told, media_type="text/event-stream", headers=_STREAM)

    async def _tell(self, session: SessionRow, sandbox: Sandbox, last_id: str) -> AsyncIterator[bytes]:
        """Its start, until its end or the session's."""
        signed_out = False

        def end() -> None:
            nonlocal signed_out
            signed_out = True
            sandbox.watch.changed()

        def closing() -> bool:
            return signed_out or self.supervisor.closing

        with self.rooms.door.sessions.holding(session, end):
            async for piece in stream(lambda: sandbox.status, sandbox.watch, last_id, closing):
                yield piece
            if signed_out:
                yield SIGNED_OUT.encode()

    async def start(self, request: Request) -> Response:
        return await self._act(request, self._start, "?opening")

    async def stop(self, request: Request) -> Response:
        return await self._act(request, self._stop)

    async def restart(self, request: Request) -> Response:
        return await self._act(request, self.maintenance.restart, "?opening")

    async def set_aside(self, request: Request) -> Response:
        """Takes the named file out of the sandbox's reach and starts it again."""
        return await self._act(request, self.maintenance.set_aside, "?opening")

    async def swap(self, request: Request) -> Response:
        """Makes dev live, and live dev."""
        session = self.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        try:
            await self.maintenance.swap(session.user)
        except ChoirError as error:
            return _not_now(error)
        return _see("/desk/live")

    async def _start(self, sandbox: Sandbox) -> None:
        self.supervisor.start(sandbox)

    async def _stop(self, sandbox: Sandbox) -> None:
        self.supervisor.stop(sandbox)

    async def _act(self, request: Request, act: Callable[[Sandbox], Awaitable[object]], then: str = "") -> Response:
        session = self.session(request)
        sandbox = self._seat(request, session) if session else None
        if sandbox is None:
            return answers.refusal("signed_out", request.scope)
        try:
            await act(sandbox)
        except ChoirError as error:
            return _not_now(error)
        return _see(f"/desk/{sandbox.role}{then}")


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _see(where: str) -> RedirectResponse:
    return RedirectResponse(where, 303, _NO_STORE)


def _not_now(error: ChoirError) -> Response:
    failure = Failure(reason=error.reason, message=error.message, hint=error.hint)
    status = 429 if error.reason == "too_many_starting" else 409
    body = f"<h1>Not now</h1>{pages.reason_block(failure)}"
    headers = {**_NO_STORE, "retry-after": str(RETRY_AFTER_SECONDS)}
    return HTMLResponse(pages.page("Not now", body, signed_in=True), status, headers)


async def _too_large(request: Request, _error: Exception) -> Response:
    return answers.refusal("too_large", request.scope)


async def _not_a_page(request: Request, error: Exception) -> Response:
    """A page that a form led to is asked for again, e.g. by a telephone that had put it away: the page of the form."""
    if request.method in ("GET", "HEAD") and is_navigation(request.headers):
        first = request.url.path.split("/")[1]
        return _see(f"/{first}" if first in ("account", "admin") else "/")
    headers = getattr(error, "headers", None) or {}
    return answers.error(405, "method_not_allowed", "That cannot be done here.", headers=headers)


async def _not_found(request: Request, _error: Exception) -> Response:
    return answers.refusal("not_found", request.scope)
