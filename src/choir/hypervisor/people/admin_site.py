"""``/admin``: people, sandboxes, usage, what was done. For admins; to everybody else there is no such page."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from choir.errors import ChoirError
from choir.hypervisor import answers
from choir.hypervisor.freeze import processor_seconds
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.people import admin_pages, limits_page
from choir.hypervisor.people.admin import Admin
from choir.hypervisor.people.admin_pages import PERIODS, SandboxRow
from choir.hypervisor.people.door import Door, read_form
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.usage_feed import UsageFeed
from choir.isolation import tree
from choir.storage.ledger import Share
from choir.storage.people import unknown_user
from choir.storage.report import add_up, shares_csv

_NO_STORE = {"cache-control": "no-store"}
_AUDIT_LINES = 50
Act = Callable[[str, str, dict[str, str]], Awaitable[str]]
"""What an admin does to a user or a sandbox's label, with the whole form. A link to show, or ""; raises ChoirError."""


@dataclass(frozen=True)
class AdminSite:
    """Handlers; ``shares`` gives usage since a day (YYYY-MM-DD). A body is read before it is asked who sent it: who is
    no admin any more cannot finish a request begun before."""

    door: Door
    admin: Admin
    maintenance: Maintenance
    feed: UsageFeed
    shares: Callable[[str], list[Share]]

    def routes(self) -> list[Route]:
        acts: dict[str, tuple[str, Act]] = {
            "/admin/invite": ("name", self._invite),
            "/admin/people/promote": ("name", self._promote),
            "/admin/people/demote": ("name", self._demote),
            "/admin/people/remove": ("name", self._remove),
            "/admin/people/withdraw": ("name", self._withdraw),
            "/admin/sandboxes/stop": ("label", self._stop),
            "/admin/sandboxes/restart": ("label", self._restart),
            "/admin/sandboxes/swap": ("label", self._swap),
        }
        return [
            Route("/admin", self.show),
            Route("/admin/usage.csv", self.usage_csv),
            Route("/admin/people/limits", self.limits, methods=["GET"]),
            Route("/admin/people/limits", self.set_limits, methods=["POST"]),
            Route("/admin/people/remove", self.ask_to_remove, methods=["GET"]),
            *(Route(path, self._handler(field, act), methods=["POST"]) for path, (field, act) in acts.items()),
        ]

    def _admin(self, request: Request) -> str | None:
        """The admin who asks, or None."""
        session = self.door.session(request)
        user = self.admin.people.user(session.user) if session else None
        return user.name if user and user.admin else None

    async def show(self, request: Request) -> Response:
        if self.door.session(request) is None:
            return self.door.ask(request)
        me = self._admin(request)
        if me is None:
            return answers.refusal("not_found", request.scope)
        return await self._page(me, _days(request))

    async def _page(self, me: str, days: int, link: str = "", problem: str = "", status: int = 200) -> Response:
        shares = await run_in_threadpool(self.shares, first_day(days))
        sandboxes = await run_in_threadpool(lambda: [self._look(each) for each in self._sandboxes()])
        text = admin_pages.admin(
            me=me,
            people=self.admin.overview(),
            sandboxes=sandboxes,
            days=last_days(days),
            by_day=add_up(shares, "day"),
            by_user=add_up(shares, "user"),
            by_model=add_up(shares, "model"),
            audit=self.admin.people.audit(_AUDIT_LINES),
            link=link,
            problem=problem,
        )
        return HTMLResponse(text, status, _NO_STORE)

    def _sandboxes(self) -> list[Sandbox]:
        return sorted(self.admin.supervisor.sandboxes.values(), key=lambda each: (each.user, each.role))

    def _look(self, sandbox: Sandbox) -> SandboxRow:
        status, running = sandbox.status, sandbox.running
        pid = running.pid if running is not None and status.state == "ready" else 0
        work = max(sandbox.last_input, self.feed.last_call.get(status.sandbox_id, 0.0), status.since)
        return SandboxRow(
            label=sandbox.label,
            user=sandbox.user,
            role=sandbox.role,
            state=status.state,
            reason=status.failure.reason if status.failure else "",
            since=status.since,
            idle_seconds=max(0.0, time.time() - work) if pid else None,
            memory=sum(map(tree.share, tree.pids(pid))) if pid else None,
            processor=processor_seconds(pid) if pid else None,
            has_home=_holds_something(self.admin.supervisor.records.home_path(sandbox)),
        )

    async def usage_csv(self, request: Request) -> Response:
        if self._admin(request) is None:
            return answers.refusal("not_found", request.scope)
        days = _days(request)
        text = shares_csv(await run_in_threadpool(self.shares, first_day(days)))
        name = f"choir-usage-{first_day(1)}-{days}d.csv"
        headers = {"content-disposition": f'attachment; filename="{name}"', **_NO_STORE}
        return Response(text, media_type="text/csv", headers=headers)

    async def ask_to_remove(self, request: Request) -> Response:
        if self.door.session(request) is None:
            return self.door.ask(request)
        me = self._admin(request)
        if me is None:
            return answers.refusal("not_found", request.scope)
        name = request.query_params.get("name", "")
        if self.admin.people.user(name) is None:
            return await self._refused(me, unknown_user(name))
        text = admin_pages.removal(name, self.admin.set_aside, self.admin.removal_warning)
        return HTMLResponse(text, headers=_NO_STORE)

    async def limits(self, request: Request) -> Response:
        if self.door.session(request) is None:
            return self.door.ask(request)
        me = self._admin(request)
        if me is None:
            return answers.refusal("not_found", request.scope)
        user = request.query_params.get("name", "")
        try:
            return HTMLResponse(limits_page.limits(user, await self.admin.limits.of(user)), headers=_NO_STORE)
        except ChoirError as error:
            return await self._refused(me, error)

    async def set_limits(self, request: Request) -> Response:
        form, me = await read_form(request), self._admin(request)
        if me is None:
            return answers.refusal("not_found", request.scope)
        user, limits = form.pop("name", ""), self.admin.limits
        try:
            found = await limits.of(user)
            words = {each.name: form.get(each.name, "") for each in found if not each.fixed}
            try:
                await limits.set(me, user, words)
            except ChoirError as error:
                text = limits_page.limits(user, found, words, _sentence(error))
                return HTMLResponse(text, 400 if error.reason == "limit_invalid" else 409, _NO_STORE)
        except ChoirError as error:
            return await self._refused(me, error)
        return RedirectResponse("/admin", 303, _NO_STORE)

    async def _refused(self, me: str, error: ChoirError) -> Response:
        return await self._page(me, PERIODS[1], problem=_sentence(error), status=409)

    def _handler(self, field: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            form, me = await read_form(request), self._admin(request)
            if me is None:
                return answers.refusal("not_found", request.scope)
            try:
                link = await act(me, form.get(field, ""), form)
            except ChoirError as error:
                return await self._refused(me, error)
            if link:
                return await self._page(me, PERIODS[1], link=link)
            return RedirectResponse("/admin", 303, _NO_STORE)

        return handle

    async def _invite(self, me: str, name: str, form: dict[str, str]) -> str:
        return self.admin.invite(me, name, form.get("role") == "admin")

    async def _promote(self, me: str, name: str, _form: dict[str, str]) -> str:
        self.admin.set_admin(me, name, True)
        return ""

    async def _demote(self, me: str, name: str, _form: dict[str, str]) -> str:
        self.admin.set_admin(me, name, False)
        return ""

    async def _remove(self, me: str, name: str, _form: dict[str, str]) -> str:
        await self.admin.remove(me, name)
        return ""

    async def _withdraw(self, me: str, name: str, _form: dict[str, str]) -> str:
        await self.admin.withdraw(me, name)
        return ""

    async def _stop(self, me: str, label: str, _form: dict[str, str]) -> str:
        sandbox = self._find(label)
        self.admin.supervisor.stop(sandbox, f"{me} stopped it.")
        self._note(me, "stopped_sandbox", sandbox)
        return ""

    async def _restart(self, me: str, label: str, _form: dict[str, str]) -> str:
        sandbox = self._find(label)
        await self.maintenance.restart(sandbox)
        self._note(me, "restarted_sandbox", sandbox)
        return ""

    async def _swap(self, me: str, label: str, _form: dict[str, str]) -> str:
        sandbox = self._find(label)
        await self.maintenance.swap(sandbox.user)
        self._note(me, "swapped_sandboxes", sandbox)
        return ""

    def _find(self, label: str) -> Sandbox:
        sandbox = self.admin.supervisor.sandboxes.get(label)
        if sandbox is None:
            raise ChoirError("unknown_sandbox", "There is no such sandbox.")
        return sandbox

    def _note(self, me: str, act: str, sandbox: Sandbox) -> None:
        self.admin.people.note(time.time(), me, act, f"{sandbox.user}/{sandbox.role}")


def _holds_something(folder: Path) -> bool:
    """A home that only stands ready is empty."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _sentence(error: ChoirError) -> str:
    return f"{error.message} {error.hint}".strip()


def _days(request: Request) -> int:
    wanted = request.query_params.get("days", "")
    return int(wanted) if wanted in map(str, PERIODS) else PERIODS[1]


def last_days(days: int) -> list[str]:
    """The last ``days`` days until today, in UTC, as YYYY-MM-DD."""
    now = time.time()
    return [time.strftime("%Y-%m-%d", time.gmtime(now - ago * 86400)) for ago in reversed(range(days))]


def first_day(days: int) -> str:
    return last_days(days)[0]
