"""Ways in: one-time links, invitations, passkeys, recovery codes, an identity provider, this machine's own account."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from choir.config import HypervisorEntry, OidcEntry
from choir.hypervisor import answers
from choir.hypervisor.login import Login
from choir.hypervisor.origins import HUB, Origins
from choir.hypervisor.people import pages
from choir.hypervisor.people.attempts import Attempts
from choir.hypervisor.people.client import browser_name, client_address
from choir.hypervisor.people.oidc import CALLBACK, IdentityProvider, OidcError, is_admin, may_join, user_name
from choir.hypervisor.people.passkeys import PasskeyError, Passkeys
from choir.hypervisor.people.peer import uid_of
from choir.hypervisor.people.recovery import normal
from choir.hypervisor.sessions import Sessions, digest
from choir.storage.people import People
from choir.storage.registry import SessionRow

_MAX_BODY = 64 * 1024
_NO_STORE = {"cache-control": "no-store"}
_FORWARDED = ("x-forwarded-for", "x-real-ip", "forwarded", "via")
"""A proxy speaks: whoever is behind it is not the account it runs under."""

_log = structlog.get_logger("choir.hypervisor")


@dataclass(frozen=True)
class Door:
    """Handlers for who is not signed in yet.

    Args:
        owner: the user that the account running Choir is, for ``single_user``.
        provider: with its configuration ``oidc``; None when there is none.
        seated: who has a sandbox, former users too until they are put away.
    """

    origins: Origins
    people: People
    sessions: Sessions
    login: Login
    passkeys: Passkeys
    entry: HypervisorEntry
    owner: str
    oidc: OidcEntry
    provider: IdentityProvider | None = None
    attempts: Attempts = field(default_factory=Attempts)
    seated: Callable[[], set[str]] = set

    def routes(self) -> list[Route]:
        return [
            Route("/login", self.sign_in, methods=["GET"]),
            Route("/login", self.use_link, methods=["POST"]),
            Route("/login/code", self.recovery_code, methods=["POST"]),
            Route("/login/passkey/options", self.passkey_options, methods=["POST"]),
            Route("/login/passkey", self.passkey, methods=["POST"]),
            Route("/login/oidc", self.oidc_begin),
            Route(CALLBACK, self.oidc_finish),
            Route("/join", self.join, methods=["GET"]),
            Route("/join", self.accept, methods=["POST"]),
            Route("/logout", self.sign_out, methods=["POST"]),
        ]

    def session(self, request: Request) -> SessionRow | None:
        return self.sessions.find(request.headers.get("cookie", ""), HUB)

    def ask(self, request: Request, problem: str = "", status: int = 401) -> Response:
        """The answer to a page's request by whoever is not signed in: the sign-in page, or straight in."""
        if self._is_owner(request):
            response = self._in(request, self.owner, "local")
            # The page asked for, now with the cookie.
            response.headers["location"] = request.url.path if request.method == "GET" else "/"
            return response
        name = self.oidc.name if self.provider is not None else ""
        return HTMLResponse(pages.sign_in(name, problem), status, _NO_STORE)

    def _is_owner(self, request: Request) -> bool:
        """Whether it is the account that runs Choir, on this machine, in single-user mode."""
        if not self.entry.single_user or request.client is None or any(each in request.headers for each in _FORWARDED):
            return False
        server = request.scope.get("server")
        client = (request.client.host, request.client.port)
        return server is not None and uid_of(client, (server[0], server[1])) == os.geteuid()

    def _in(self, request: Request, user: str, way: str, where: str = "/") -> Response:
        """A new session, and on."""
        return RedirectResponse(where, 303, self._begun(request, user, way))

    def _begun(self, request: Request, user: str, way: str) -> dict[str, str]:
        """The headers with a new session, in place of another person's."""
        before = self.session(request)
        if before is not None and before.user != user:
            self.sessions.end(before.hash)
        self.attempts.forgive(self._address(request))
        browser = browser_name(request.headers.get("user-agent", ""))
        cookie = self.sessions.begin(user, way=way, browser=browser)
        _log.info("signed_in", user=user, way=way)
        return {"set-cookie": self.sessions.set_cookie(cookie), **_NO_STORE}

    def _too_often(self, request: Request) -> float:
        return self.attempts.admit(self._address(request), time.monotonic())

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))  # a proxy may add a line of its own
        return client_address(peer, forwarded, self.entry.trusted_proxies)

    # ------------------------------------------------------------------ links and invitations

    async def sign_in(self, request: Request) -> Response:
        """The sign-in page, or what a one-time link is for. Looking does not use it up: mail scanners look."""
        session, secret = self.session(request), request.query_params.get("once")
        if secret is None:
            return RedirectResponse("/", 303, _NO_STORE) if session else self.ask(request, status=200)
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        user = self.login.look(secret)
        if session is not None and user in (None, session.user):
            return RedirectResponse("/", 303, _NO_STORE)
        if user is None:
            return HTMLResponse(pages.link_dead(), 401, _NO_STORE)
        if user == self.owner and self._is_owner(request):
            return self._in(request, user, "local")
        self.attempts.forgive(self._address(request))
        return HTMLResponse(pages.link(user, secret, session.user if session else ""), headers=_NO_STORE)

    async def use_link(self, request: Request) -> Response:
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        user = self.login.take((await read_form(request)).get("once", ""))
        if user is None:
            return HTMLResponse(pages.link_dead(), 401, _NO_STORE)
        if self.origins.secure and not self.people.passkeys(user):
            return self._in(request, user, "link", "/account?welcome=1")
        # No redirect: the content policy's form-action would end the chain at the sandbox's origin.
        headers = {"refresh": "0; url=/", **self._begun(request, user, "link")}
        return HTMLResponse(pages.signed_in(user), headers=headers)

    async def join(self, request: Request) -> Response:
        """What an invitation is for."""
        secret = request.query_params.get("once", "")
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        invited = self.people.invitation(digest(secret), time.time())
        if invited is None:
            return HTMLResponse(pages.link_dead("This invitation no longer works"), 401, _NO_STORE)
        self.attempts.forgive(self._address(request))
        session = self.session(request)
        return HTMLResponse(pages.invitation(invited, secret, session.user if session else ""), headers=_NO_STORE)

    async def accept(self, request: Request) -> Response:
        form = await read_form(request)
        invited = self.people.accept(digest(form.get("once", "")), time.time())
        if invited is None:
            return HTMLResponse(pages.link_dead("This invitation no longer works"), 401, _NO_STORE)
        self.people.note(time.time(), invited.user, "joined", invited.user, f"invited by {invited.invited_by}")
        return self._in(request, invited.user, "invitation", "/account?welcome=1")

    async def sign_out(self, request: Request) -> Response:
        session = self.session(request)
        if session is not None:
            self.sessions.end(session.hash)
        response = RedirectResponse("/login", 303, _NO_STORE)
        response.headers["set-cookie"] = self.sessions.clear_cookie()
        return response

    # ------------------------------------------------------------------ passkeys and recovery codes

    async def passkey_options(self, request: Request) -> Response:
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        options = await asyncio.to_thread(self.passkeys.begin_sign_in)
        return Response(options, media_type="application/json", headers=_NO_STORE)

    async def passkey(self, request: Request) -> Response:
        """Answers ``{"where": PATH}`` with the cookie."""
        try:
            user = await asyncio.to_thread(self.passkeys.finish_sign_in, await read_json(request))
        except PasskeyError as error:
            _log.warning("sign_in_refused", way="passkey", why=error.why)
            return answers.error(401, error.reason, error.message, error.hint)
        return JSONResponse({"where": "/"}, headers=self._begun(request, user, "passkey"))

    async def recovery_code(self, request: Request) -> Response:
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        code = normal((await read_form(request)).get("code", ""))
        user = self.people.take_recovery_code(digest(code)) if code else None
        if user is None:
            _log.warning("sign_in_refused", way="recovery_code")
            return self.ask(request, "This recovery code is not known. Each works once.")
        self.people.note(time.time(), user, "recovery_code_used", user)
        return self._in(request, user, "recovery_code", "/account?welcome=1")

    # ------------------------------------------------------------------ identity provider

    @property
    def _oidc_cookie(self) -> str:
        """Under TLS with ``__Host-`` too: else a sandbox's page could set it for all of the domain, and so bring the
        browser in as whom it likes."""
        return f"{self.sessions.cookie_name}-oidc"

    async def oidc_begin(self, request: Request) -> Response:
        if self.provider is None:
            return answers.refusal("not_found", request.scope)
        wait = self._too_often(request)
        if wait:
            return self._later(request, wait)
        try:
            where, cookie = await self.provider.begin()
        except OidcError as error:
            return self._oidc_failed(request, error)
        response = RedirectResponse(where, 303, _NO_STORE)
        secure = "; Secure" if self.origins.secure else ""
        # Lax: it must come along when the provider sends the browser back.
        response.headers["set-cookie"] = (
            f"{self._oidc_cookie}={cookie}; Path=/; HttpOnly; SameSite=Lax; Max-Age=600{secure}"
        )
        return response

    async def oidc_finish(self, request: Request) -> Response:
        if self.provider is None:
            return answers.refusal("not_found", request.scope)
        query = request.query_params
        try:
            if "code" not in query:
                raise OidcError("oidc_refused", "The identity provider did not let you in.", "no code")
            cookie = request.cookies.get(self._oidc_cookie, "")
            identity = await self.provider.finish(query.get("state", ""), query["code"], cookie)
        except OidcError as error:
            return self._oidc_failed(request, error)
        user = self.people.identity(identity.issuer, identity.subject)
        if user is None:
            if not may_join(self.oidc, identity) and not is_admin(self.oidc, identity):
                problem = "You are known to the identity provider, but nobody has let you in here yet."
                return self.ask(request, problem, 403)
            user = user_name(identity, self.people.spoken_for() | self.seated())
            self.people.add_user(user, is_admin(self.oidc, identity), time.time())
            self.people.add_identity(identity.issuer, identity.subject, user)
            self.people.note(time.time(), user, "joined", user, "by the identity provider")
        return self._in(request, user, "oidc")

    def _oidc_failed(self, request: Request, error: OidcError) -> Response:
        _log.warning("sign_in_refused", way="oidc", reason=error.reason, why=error.why)
        return self.ask(request, error.message, 502 if error.reason == "oidc_unreachable" else 401)

    def _later(self, request: Request, seconds: float) -> Response:
        _log.warning("sign_in_refused", way="any", why="too often")
        headers = {"retry-after": str(int(seconds) + 1), **_NO_STORE}
        message = "Too many attempts to sign in from here."
        if "application/json" in request.headers.get("content-type", ""):
            return answers.error(429, "too_many_attempts", message, "Wait a minute.", headers)
        name = self.oidc.name if self.provider is not None else ""
        return HTMLResponse(pages.sign_in(name, f"{message} Wait a minute."), 429, headers)


async def read_body(request: Request) -> bytes:
    """
    Raises:
        HTTPException: 413.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BODY:
            raise HTTPException(413)
    return body


async def read_form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form; {} when it is none."""
    from urllib.parse import parse_qsl

    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    return dict(parse_qsl((await read_body(request)).decode("utf-8", "replace"), max_num_fields=50))


async def read_json(request: Request) -> dict[str, Any]:
    """A JSON object; {} when it is none."""
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=dict[str, Any])  # unlike json it refuses half of a surrogate pair
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
