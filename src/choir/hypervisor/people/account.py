"""One's own account: passkeys, recovery codes, sessions, API tokens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from choir.errors import ChoirError
from choir.hypervisor import answers
from choir.hypervisor.people import pages, recovery
from choir.hypervisor.people.api_tokens import ApiTokens
from choir.hypervisor.people.door import Door, read_form, read_json
from choir.hypervisor.people.passkeys import PasskeyError, Passkeys
from choir.hypervisor.people.words import whole_number
from choir.hypervisor.sessions import Sessions, digest
from choir.storage.people import People
from choir.storage.registry import SessionRow

_NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True)
class Account:
    """Handlers for who is signed in. A body is read before the session is looked at: whoever sends one slowly could
    otherwise act after the session's end."""

    door: Door
    people: People
    sessions: Sessions
    passkeys: Passkeys
    tokens: ApiTokens

    def routes(self) -> list[Route]:
        return [
            Route("/account", self.show),
            Route("/account/passkeys/options", self.passkey_options, methods=["POST"]),
            Route("/account/passkeys", self.add_passkey, methods=["POST"]),
            Route("/account/passkeys/remove", self.remove_passkey, methods=["POST"]),
            Route("/account/codes", self.new_codes, methods=["POST"]),
            Route("/account/sessions/end", self.end_session, methods=["POST"]),
            Route("/account/tokens", self.new_token, methods=["POST"]),
            Route("/account/tokens/remove", self.remove_token, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        session = self.door.session(request)
        if session is None:
            return self.door.ask(request)
        return self._page(session, welcome="welcome" in request.query_params)

    def _page(self, session: SessionRow, welcome: bool = False, problem: str = "", status: int = 200) -> Response:
        user = self.people.user(session.user)
        if user is None:
            return RedirectResponse("/login", 303, _NO_STORE)
        text = pages.account(
            user=user,
            session=session,
            passkeys=self.people.passkeys(user.name),
            codes=self.people.recovery_codes(user.name),
            sessions=[each for each in self.sessions.listed() if each.user == user.name],
            tokens=self.people.api_tokens(user.name, time.time()),
            welcome=welcome,
            problem=problem,
        )
        return HTMLResponse(text, status, _NO_STORE)

    async def passkey_options(self, request: Request) -> Response:
        session = self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        try:
            options = await asyncio.to_thread(self.passkeys.begin_registration, session.user)
        except ChoirError as error:
            return answers.error(409, error.reason, error.message, error.hint)
        return Response(options, media_type="application/json", headers=_NO_STORE)

    async def add_passkey(self, request: Request) -> Response:
        """Takes ``{"credential": …, "name": …}``."""
        sent, session = await read_json(request), self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        credential, name = sent.get("credential"), sent.get("name")
        try:
            if not isinstance(credential, dict):
                raise PasskeyError("malformed")
            added = await asyncio.to_thread(
                self.passkeys.finish_registration, session.user, credential, str(name or session.browser)
            )
        except ChoirError as error:
            return answers.error(400, error.reason, error.message, error.hint)
        self.people.note(time.time(), session.user, "passkey_added", session.user, added.name)
        return JSONResponse({"where": "/account"}, headers=_NO_STORE)

    async def remove_passkey(self, request: Request) -> Response:
        form, session = await read_form(request), self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        if self.people.drop_passkey(session.user, form.get("id", "")):
            self.people.note(time.time(), session.user, "passkey_removed", session.user)
        return _back()

    async def new_codes(self, request: Request) -> Response:
        session = self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        codes = recovery.new_codes()
        self.people.set_recovery_codes(session.user, [digest(code) for code in codes])
        self.people.note(time.time(), session.user, "recovery_codes_made", session.user)
        text = pages.shown_once(
            "Recovery codes",
            "Each signs you in once. Keep them where you find them without this browser. They are not shown again.",
            codes,
        )
        return HTMLResponse(text, headers=_NO_STORE)

    async def end_session(self, request: Request) -> Response:
        form, session = await read_form(request), self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        wanted = form.get("id", "")
        if any(each.hash == wanted and each.user == session.user for each in self.sessions.listed()):
            self.sessions.end(wanted)
        return _back()

    async def new_token(self, request: Request) -> Response:
        form, session = await read_form(request), self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        try:
            days = whole_number(form.get("days", ""), 0)
            token, secret = self.tokens.create(session.user, form.get("name", ""), form.get("scope", ""), days)
        except ChoirError as error:
            return self._page(session, problem=f"{error.message} {error.hint}".strip(), status=400)
        self.people.note(time.time(), session.user, "api_token_made", session.user, f"{token.name}, {token.scope}")
        lead = f"For {token.name}, until {pages.day(token.expires)}. It is not shown again."
        return HTMLResponse(pages.shown_once("API token", lead, [secret]), headers=_NO_STORE)

    async def remove_token(self, request: Request) -> Response:
        form, session = await read_form(request), self.door.session(request)
        if session is None:
            return answers.refusal("signed_out", request.scope)
        if self.people.drop_api_token(session.user, form.get("id", "")):
            self.people.note(time.time(), session.user, "api_token_revoked", session.user)
        return _back()


def _back() -> Response:
    return RedirectResponse("/account", 303, _NO_STORE)
