"""The hypervisor's ASGI application: which origin, is it allowed, and on to the hub or a sandbox's desk."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from choir.contract import UsageRecord
from choir.hypervisor import answers
from choir.hypervisor.desk import OWN, Desk
from choir.hypervisor.headers import hub_headers
from choir.hypervisor.hub import Hub
from choir.hypervisor.login import Tickets
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import HUB, Origins, judge
from choir.hypervisor.people.rooms import API, Rooms
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed


class App:
    """One deployment's web side."""

    def __init__(
        self,
        *,
        origins: Origins,
        sessions: Sessions,
        rooms: Rooms,
        supervisor: Supervisor,
        maintenance: Maintenance,
        feed: UsageFeed,
        usage: Callable[[str, int], list[UsageRecord]],
    ) -> None:
        tickets = Tickets(sessions)
        self._origins = origins
        self._desk = Desk(origins, sessions, tickets, supervisor, feed, usage)
        self._hub: ASGIApp = Hub(origins, rooms, tickets, supervisor, maintenance).app()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""  # two are refused (RFC 9112, section 3.2)
        place = self._origins.place(host)
        if place is None:
            await self._elsewhere(scope, receive, _hardened(send), host)
            return
        websocket = scope["type"] == "websocket"
        method = "GET" if websocket else scope["method"]
        verdict = judge(method, headers, self._origins.origin(place), websocket)
        if verdict == "no_origin" and place == HUB and not websocket and scope["path"].startswith(API):
            verdict = ""  # a script's request; it has no cookie's power there
        if verdict:
            static = "/static" if place == HUB else f"{OWN}static"
            await answers.refusal(verdict, scope, static)(scope, receive, _hardened(send))
        elif place != HUB:
            await self._desk(scope, receive, _hardened(send), place)
        elif websocket:
            await answers.refusal("not_found", scope)(scope, receive, _hardened(send))
        else:
            await self._hub(scope, receive, _hardened(send))

    async def _elsewhere(self, scope: Scope, receive: Receive, send: Send, host: str) -> None:
        """Refuse; but somebody who typed 127.0.0.1 is sent to ``localhost``, where cookies and passkeys work."""
        if scope["type"] == "http" and scope["method"] == "GET" and self._origins.is_loopback_address(host):
            query = scope["query_string"].decode("latin-1")
            where = self._origins.origin(HUB) + scope["path"] + (f"?{query}" if query else "")
            await RedirectResponse(where, 307)(scope, receive, send)
        else:
            await answers.refusal("unknown_host", scope)(scope, receive, send)


def _hardened(send: Send) -> Send:
    """Adds our security headers to every answer that has none yet: all but those of a sandbox, which has its own. And
    the time (RFC 9110, section 6.6.1)."""

    async def hardened(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            for name, value in hub_headers():
                headers.setdefault(name.decode(), value.decode())
            headers.setdefault("date", formatdate(usegmt=True))
        await send(message)

    return hardened
