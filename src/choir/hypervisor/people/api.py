"""``/api``: what a script may do with an API token. JSON. Cookies are not looked at: no page can make a browser do it.

==========================================  =======  ==========================================================
request                                     scope    answer
==========================================  =======  ==========================================================
GET /api/me                                 read     {"user", "admin", "scope", "expires"}
GET /api/sandboxes                          read     {"sandboxes": [{"role", "state", "since", "reason"}]}
GET /api/usage?limit=N                      read     {"calls": [usage record]} of the live and dev sandbox
POST /api/sandboxes/ROLE/start|stop         control  202, the sandbox
==========================================  =======  ==========================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from choir.contract import Role, UsageRecord
from choir.errors import ChoirError
from choir.hypervisor import answers
from choir.hypervisor.people.api_tokens import ApiTokens
from choir.hypervisor.people.words import whole_number
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.storage.people import ApiToken, People

_ROLES: dict[str, Role] = {"live": "live", "dev": "dev"}
_NO_STORE = {"cache-control": "no-store"}
_MAX_CALLS = 1000


@dataclass(frozen=True)
class Api:
    """Handlers; ``usage`` gives a user's newest records."""

    people: People
    tokens: ApiTokens
    supervisor: Supervisor
    usage: Callable[[str, int], list[UsageRecord]]

    def routes(self) -> list[Route]:
        return [
            Route("/api/me", self.me),
            Route("/api/sandboxes", self.sandboxes),
            Route("/api/usage", self.calls),
            Route("/api/sandboxes/{role}/{act}", self.act, methods=["POST"]),
        ]

    def _token(self, request: Request, scope: str) -> ApiToken | None:
        return self.tokens.find(request.headers.get("authorization", ""), scope)

    async def me(self, request: Request) -> Response:
        token = self._token(request, "read")
        if token is None:
            return _refused()
        user = self.people.user(token.user)
        return _answer(
            {
                "user": token.user,
                "admin": bool(user and user.admin),
                "scope": token.scope,
                "expires": token.expires,
            }
        )

    async def sandboxes(self, request: Request) -> Response:
        token = self._token(request, "read")
        if token is None:
            return _refused()
        mine = [each for each in self.supervisor.sandboxes.values() if each.user == token.user]
        return _answer({"sandboxes": [describe(each) for each in mine]})

    async def calls(self, request: Request) -> Response:
        token = self._token(request, "read")
        if token is None:
            return _refused()
        count = min(whole_number(request.query_params.get("limit", ""), 100), _MAX_CALLS)
        records = await run_in_threadpool(self.usage, token.user, count)
        return _answer({"calls": msgspec.to_builtins(records)})

    async def act(self, request: Request) -> Response:
        token = self._token(request, "control")
        if token is None:
            return _refused()
        role, act = _ROLES.get(request.path_params["role"]), request.path_params["act"]
        if role is None or act not in ("start", "stop"):
            return answers.error(404, "not_found", "There is no such sandbox or act.")
        sandbox = self.supervisor.seat(token.user, role)
        try:
            if act == "start":
                self.supervisor.start(sandbox)
            else:
                self.supervisor.stop(sandbox)
        except ChoirError as error:
            status = 429 if error.reason == "too_many_starting" else 409
            return answers.error(status, error.reason, error.message, error.hint)
        return _answer(describe(sandbox), 202)


def describe(sandbox: Sandbox) -> dict[str, Any]:
    status = sandbox.status
    return {
        "role": sandbox.role,
        "state": status.state,
        "since": status.since,
        "reason": status.failure.reason if status.failure else "",
    }


def _answer(value: object, status: int = 200) -> Response:
    return JSONResponse(value, status, _NO_STORE)


def _refused() -> Response:
    return answers.error(
        401,
        "token_refused",
        "This needs an API token that may do it.",
        "Make one on your account page.",
        {"www-authenticate": "Bearer"},
    )
