"""A sandbox's own origin: ``/.choir/`` is answered here, everything else by the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from choir.contract import UsageRecord
from choir.hypervisor import answers, pages
from choir.hypervisor.hub import STATIC
from choir.hypervisor.lifecycle import Status
from choir.hypervisor.login import Tickets
from choir.hypervisor.origins import HUB, Origins, is_navigation
from choir.hypervisor.people.words import whole_number
from choir.hypervisor.progress import KEEPALIVE, OPENING
from choir.hypervisor.proxy_http import DesktopUnreachable, Upstream, forward
from choir.hypervisor.proxy_ws import forward_websocket
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed
from choir.storage.registry import SessionRow

OWN = "/.choir/"
RETRY_AFTER = {"retry-after": "5"}
USAGE_LIMIT = 200
KEEPALIVE_SECONDS = 25.0

_NO_STORE = {"cache-control": "no-store"}
_STREAM = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
_AWAY = {
    "absent": "It has not been started yet.",
    "starting": "It is starting.",
    "stopping": "It is stopping.",
    "stopped": "It was stopped.",
}


@dataclass
class Desk:
    """Every sandbox's origin; ``usage`` gives a sandbox id's newest records."""

    origins: Origins
    sessions: Sessions
    tickets: Tickets
    supervisor: Supervisor
    feed: UsageFeed
    usage: Callable[[str, int], list[UsageRecord]]
    _upstreams: dict[str, Upstream] = field(default_factory=dict)
    """By sandbox id."""

    def __post_init__(self) -> None:
        self._own = Starlette(
            routes=[
                Route("/.choir/enter", self.enter),
                Route("/.choir/state", self.state),
                Route("/.choir/usage", self.list_usage),
                Route("/.choir/events", self.events),
                Mount("/.choir/static", StaticFiles(directory=STATIC)),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send, label: str) -> None:
        headers = Headers(scope=scope)
        if scope["path"].startswith(OWN):
            if scope["type"] == "websocket":
                await answers.refusal("not_found", scope)(scope, receive, send)
                return
            await self._own({**scope, "choir_label": label}, receive, send)
            return
        session = self.sessions.find(headers.get("cookie", ""), label)
        sandbox = self.supervisor.sandboxes.get(label)
        if session is None or sandbox is None:
            await self._signed_out(scope, sandbox)(scope, receive, send)
        elif "service-worker" in headers:  # it would answer in our place even when the sandbox is gone
            await answers.refusal("service_worker", scope)(scope, receive, send)
        elif sandbox.status.state != "ready":
            await self._not_there(scope, sandbox)(scope, receive, send)
        else:
            await self._relay(scope, receive, send, sandbox, session)

    async def _relay(self, scope: Scope, receive: Receive, send: Send, sandbox: Sandbox, session: SessionRow) -> None:
        task = asyncio.current_task()
        assert task is not None
        revoked = False

        def revoke() -> None:
            nonlocal revoked
            revoked = True
            task.cancel()

        upstream = self._upstream(sandbox)
        with self.sessions.holding(session, revoke), upstream.relaying():
            try:
                if scope["type"] == "websocket":
                    await forward_websocket(upstream, scope, receive)
                else:
                    await forward(upstream, scope, receive, send, self.origins.origin(sandbox.label))
            except DesktopUnreachable:
                await self._not_there(scope, sandbox)(scope, receive, send)
            except asyncio.CancelledError:
                if not (revoked or upstream.ended) or task.uncancel() > 0:
                    raise

    def _upstream(self, sandbox: Sandbox) -> Upstream:
        sandbox_id = sandbox.status.sandbox_id
        if sandbox_id not in self._upstreams:
            assert sandbox.running is not None
            assert sandbox.running.desktop is not None
            upstream = self._upstreams[sandbox_id] = Upstream(sandbox.running.desktop, sandbox.touch)

            async def close() -> None:
                self._upstreams.pop(sandbox_id, None)
                await upstream.close()

            sandbox.at_end.append(close)
        return self._upstreams[sandbox_id]

    def _signed_out(self, scope: Scope, sandbox: Sandbox | None) -> Response:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and is_navigation(Headers(scope=scope)):
            where = f"/desk/{sandbox.role}/enter" if sandbox else "/"
            return RedirectResponse(self.origins.origin(HUB) + where, 303, _NO_STORE)
        return answers.refusal("signed_out", scope)

    def _not_there(self, scope: Scope, sandbox: Sandbox) -> Response:
        """503 that says why. Never starts anything: a page left open must not bring a sandbox back."""
        status = sandbox.status
        reason, message, hint = explain(status)
        control = self._control_url(sandbox)
        if scope["type"] == "http" and is_navigation(Headers(scope=scope)):
            if status.state == "starting":
                return RedirectResponse(control, 303, _NO_STORE)
            if status.state == "stopped" and status.note:  # nobody asked for it: this visit brings it back
                return RedirectResponse(f"{control}/open", 303, _NO_STORE)
            return HTMLResponse(pages.away(message, hint, control), 503, {**_NO_STORE, **RETRY_AFTER})
        return answers.error(503, reason, message, hint, RETRY_AFTER, state=status.state, control=control)

    def _control_url(self, sandbox: Sandbox) -> str:
        return f"{self.origins.origin(HUB)}/desk/{sandbox.role}"

    # /.choir/

    async def enter(self, request: Request) -> Response:
        """Trades a ticket for this origin's own cookie."""
        label = request.scope["choir_label"]
        cookie = self.tickets.redeem(request.query_params.get("ticket", ""), label)
        if cookie is None:
            if self.sessions.find(request.headers.get("cookie", ""), label) is not None:
                return RedirectResponse("/", 303, _NO_STORE)
            return HTMLResponse(
                pages.refused("This way in is closed", "It opens once, within seconds.", "/.choir/static"),
                403,
                _NO_STORE,
            )
        response = RedirectResponse("/", 303, {**_NO_STORE, "referrer-policy": "no-referrer"})
        response.headers["set-cookie"] = self.sessions.set_cookie(cookie)
        return response

    def _entitled(self, request: Request) -> Sandbox | None:
        label = request.scope["choir_label"]
        session = self.sessions.find(request.headers.get("cookie", ""), label)
        return self.supervisor.sandboxes.get(label) if session else None

    async def state(self, request: Request) -> Response:
        sandbox = self._entitled(request)
        if sandbox is None:
            return answers.refusal("signed_out", request.scope)
        status = sandbox.status
        reason, message, hint = explain(status) if status.state != "ready" else ("", "", "")
        return _json(
            {
                "sandbox_id": status.sandbox_id,
                "user": sandbox.user,
                "role": sandbox.role,
                "state": status.state,
                "since": status.since,
                "reason": reason,
                "message": message,
                "hint": hint,
                "control": self._control_url(sandbox),
            }
        )

    async def list_usage(self, request: Request) -> Response:
        """``{"records": [UsageRecord]}`` of this sandbox, newest first; as the gateway wrote them."""
        sandbox = self._entitled(request)
        if sandbox is None:
            return answers.refusal("signed_out", request.scope)
        limit = min(whole_number(request.query_params.get("limit", ""), 20), USAGE_LIMIT)
        records = await run_in_threadpool(self.usage, sandbox.status.sandbox_id, limit)
        return _json({"records": records})

    async def events(self, request: Request) -> Response:
        """Server-sent events: ``usage`` with each UsageRecord as the gateway writes it, and ``state`` when the
        sandbox's changes, which ends the stream. Ends with the session too."""
        label = request.scope["choir_label"]
        session = self.sessions.find(request.headers.get("cookie", ""), label)
        sandbox = self.supervisor.sandboxes.get(label) if session else None
        if session is None or sandbox is None:
            return answers.refusal("signed_out", request.scope)
        return StreamingResponse(self._tell(sandbox, session), media_type="text/event-stream", headers=_STREAM)

    async def _tell(self, sandbox: Sandbox, session: SessionRow) -> AsyncIterator[bytes]:
        before, over = sandbox.status, asyncio.Event()
        with self.feed.reading(before.sandbox_id) as records, self.sessions.holding(session, over.set):
            yield OPENING
            while sandbox.status == before and not over.is_set():
                if self.supervisor.closing:
                    return
                record = asyncio.create_task(records.get())
                changed = asyncio.create_task(sandbox.watch.after(sandbox.watch.version, KEEPALIVE_SECONDS))
                tasks: list[asyncio.Task[Any]] = [record, changed, asyncio.create_task(over.wait())]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    if record.done():
                        yield b"event: usage\ndata: " + msgspec.json.encode(record.result()) + b"\n\n"
                    elif changed.done() and not changed.result():
                        yield KEEPALIVE
                finally:
                    for task in tasks:
                        task.cancel()
            yield b"event: state\ndata: " + msgspec.json.encode({"state": sandbox.status.state}) + b"\n\n"


def explain(status: Status) -> tuple[str, str, str]:
    """(reason, message, hint) of a sandbox that does not answer."""
    if status.failure is not None and status.state == "failed":
        return status.failure.reason, status.failure.message, status.failure.hint
    if status.state in _AWAY:
        return f"sandbox_{status.state}", _AWAY[status.state], ""
    return "desktop_unreachable", "The desktop in the sandbox does not answer.", "If it stays so, stop and start it."


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers=_NO_STORE)
