"""The hypervisor's control socket (``State.hypervisor_socket``), for the command line and for scripts.

JSON over ``choir.channel``, own-uid peers only. Each question has ``op`` and is answered in order by ``{"ok": true,
...}`` or ``{"ok": false, "reason", "message", "hint"}``, and mostly ``exit_code``.

===========  ============================  ==========================================================================
op           fields                        answer
===========  ============================  ==========================================================================
status                                     pid, url, address ([host, port] that it listens on), isolation, sandboxes
                                           (count by state)
list         after (a label, optional)     sandboxes: [SANDBOX], next (label for ``after``, or null)
start        SELECT                        sandbox: SANDBOX, once it is ready or failed
stop         SELECT                        sandbox: SANDBOX, once it has ended
restart      SELECT                        sandbox: SANDBOX, as after ``start``
swap         user (optional)               sandboxes: [SANDBOX, SANDBOX], live and dev with each other's homes
snapshot     SELECT                        snapshot: SNAPSHOT, sandbox: SANDBOX
snapshots    SELECT                        snapshots: [SNAPSHOT], newest first
restore      SELECT, snapshot (a name),    snapshot: SNAPSHOT of what it was before, sandbox: SANDBOX
             from (a role, optional)
logs         SELECT                        log (the redacted end of what it printed), sandbox: SANDBOX
login_link   user (optional)               url; opens once, within an hour
sessions     user, after (an id;           sessions: [{id, user, created, expires, used, way, browser}], newest first;
             both optional)                next (an id, or null)
revoke       session (an id, or how the    ended (how many, with those on sandboxes' origins), user
             id of one begins)
run                                        a conversation of its own: ``choir.app.starter``
users        after (a name, optional)      users: [{name, admin, state, passkeys, sessions, since}], next
invite       user, admin (optional)        url; good for a week
set_admin    user, admin                   nothing more
limits       user                          limits: [{name, own, configured, fixed}] (``people.limits.Limit``)
limit        user, limits ({name: text})   limits: as they are now
remove_user  user                          homes (where what they had is now), invitation (that was all there was; it
                                           is withdrawn), warning
audit        before (a seq, optional)      entries: [{seq, at, actor, act, target, detail}], newest first
===========  ============================  ==========================================================================

SELECT is ``id`` (a sandbox id or label), or ``user`` and ``role`` (default: the admin's, ``live``). SANDBOX is
``{label, id, user, role, home, state, phase, since, note, reason, message, hint, retry_at, warm, url}``, ``warm``: one
stands ready for its next start, which runs nothing and has no id that means anything to anybody yet. SNAPSHOT is
``{label, name, bytes, path, left_out}``.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from choir.channel import Channel, ChannelClosed, Message, peer_credentials
from choir.contract import Role
from choir.errors import ChoirError, ConfigError, StartError, UsageError
from choir.hypervisor.crash import log_since, redact
from choir.hypervisor.life import STOP_GRACE
from choir.hypervisor.login import Login
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.origins import Origins
from choir.hypervisor.people.admin import Admin
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.workspace import Snapshot
from choir.storage.people import COMMAND_LINE, unknown_user

PAGE = 50
MIN_SESSION_ID = 8
"""Characters of a session's id that have to be given."""
ROLES: dict[str, Role] = {"live": "live", "dev": "dev"}
LOG_BYTES = 24 * 1024

_log = structlog.get_logger("choir.hypervisor")


Runs = Callable[[Channel, Message, list[int]], Awaitable[None]]
"""Has the whole of a conversation that begins with ``{"op": "run"}``, and closes its descriptors."""


class Control:
    """Answers the ops. ``serve`` runs until cancelled."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        maintenance: Maintenance,
        sessions: Sessions,
        login: Login,
        people: Admin,
        origins: Origins,
        admin: str,
        isolation: str,
        address: tuple[str, int] = ("127.0.0.1", 0),
        runs: Runs | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._maintenance = maintenance
        self._sessions = sessions
        self._login = login
        self._people = people
        self._origins = origins
        self._admin = admin
        self._isolation = isolation
        self._address = address
        self._runs = runs
        self._ops: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "status": self._status,
            "list": self._list,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "swap": self._swap,
            "snapshot": self._snapshot,
            "snapshots": self._snapshots,
            "restore": self._restore,
            "logs": self._logs,
            "login_link": self._login_link,
            "sessions": self._list_sessions,
            "revoke": self._revoke,
            "users": self._users,
            "invite": self._invite,
            "set_admin": self._set_admin,
            "remove_user": self._remove_user,
            "limits": self._limits,
            "limit": self._limit,
            "audit": self._audit,
        }

    async def serve(self, listener: socket.socket) -> None:
        """Answer whoever connects to ``listener`` (``choir.channel.listen``)."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                sock, _ = await loop.sock_accept(listener)
                task = asyncio.create_task(self._converse(sock))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        finally:
            for task in tasks:
                task.cancel()

    async def _converse(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(Channel(sock)) as channel:
            if peer_credentials(sock)[1] != os.geteuid():
                return
            with contextlib.suppress(ChannelClosed, BlockingIOError):
                while True:
                    message, descriptors = await channel.receive_async(loop)
                    if message.get("op") == "run" and self._runs is not None:
                        await self._runs(channel, message, descriptors)
                        return
                    for descriptor in descriptors:
                        os.close(descriptor)
                    channel.send(await self.answer(message))

    async def answer(self, message: Message) -> Message:
        """One question's answer; never raises."""
        op = self._ops.get(str(message.get("op")))
        if op is None:
            return {"ok": False, "reason": "unknown_op", "message": "There is no such operation.", "hint": ""}
        try:
            return {"ok": True, **await op(message)}
        except ChoirError as error:
            return {"ok": False, **error.as_dict(), "exit_code": error.exit_code}
        except Exception:
            _log.exception("control_op_failed", op=message.get("op"))
            return {"ok": False, "reason": "internal_error", "message": "See the hypervisor's log.", "hint": ""}

    async def _status(self, _message: Message) -> Message:
        counts = collections.Counter(sandbox.status.state for sandbox in self._supervisor.sandboxes.values())
        return {
            "pid": os.getpid(),
            "url": self._origins.public_url,
            "address": self._address,
            "isolation": self._isolation,
            "sandboxes": dict(counts),
            "warm": len(self._supervisor.standby),
        }

    async def _list(self, message: Message) -> Message:
        after = str(message.get("after") or "")
        labels = sorted(label for label in self._supervisor.sandboxes if label > after)
        page = labels[:PAGE]
        return {
            "sandboxes": [self._describe(self._supervisor.sandboxes[label]) for label in page],
            "next": page[-1] if len(labels) > PAGE else None,
        }

    async def _start(self, message: Message) -> Message:
        sandbox = self._select(message, make=True)
        self._supervisor.start(sandbox)
        return await self._settled(sandbox)

    async def _stop(self, message: Message) -> Message:
        sandbox = self._select(message)
        self._supervisor.stop(sandbox)
        await sandbox.settled(STOP_GRACE * 3)
        return {"sandbox": self._describe(sandbox)}

    async def _restart(self, message: Message) -> Message:
        sandbox = self._select(message, make=True)
        await self._maintenance.restart(sandbox)
        return await self._settled(sandbox)

    async def _swap(self, message: Message) -> Message:
        both = await self._maintenance.swap(self._select({**message, "role": "live"}, make=True).user)
        return {"sandboxes": [(await self._settled(sandbox))["sandbox"] for sandbox in both]}

    async def _snapshot(self, message: Message) -> Message:
        sandbox = self._select(message)
        snapshot = await self._maintenance.snapshot(sandbox)
        return {"snapshot": _snapshot(snapshot), "sandbox": self._describe(sandbox)}

    async def _snapshots(self, message: Message) -> Message:
        found = await asyncio.to_thread(self._maintenance.snapshots, self._select(message))
        return {"snapshots": [_snapshot(each) for each in found[:PAGE]]}

    async def _restore(self, message: Message) -> Message:
        sandbox = self._select(message, make=True)
        role = message.get("from")
        if role is not None and role not in ROLES:
            raise StartError("unknown_sandbox", f"There is no role `{role}`.")
        before = await self._maintenance.restore(sandbox, str(message.get("snapshot")), role)
        return {"snapshot": _snapshot(before), **await self._settled(sandbox)}

    async def _settled(self, sandbox: Sandbox) -> Message:
        await sandbox.settled(self._supervisor.config.sandbox.start_timeout + STOP_GRACE)
        return {"sandbox": self._describe(sandbox)}

    async def _logs(self, message: Message) -> Message:
        sandbox = self._select(message)
        log = await asyncio.to_thread(log_since, self._supervisor.records.log_path(sandbox), 0, LOG_BYTES)
        return {"log": redact(log), "sandbox": self._describe(sandbox)}

    async def _login_link(self, message: Message) -> Message:
        user = str(message.get("user") or self._admin)
        if self._people.people.user(user) is None:
            raise unknown_user(user)
        self._people.people.note(time.time(), COMMAND_LINE, "login_link", user)
        return {"url": self._login.new_link(user, self._origins.public_url)}

    async def _list_sessions(self, message: Message) -> Message:
        user, after = message.get("user"), message.get("after")
        rows = [row for row in self._sessions.listed() if user in (None, row.user)]
        if after is not None:
            rows = rows[next((at for at, row in enumerate(rows, 1) if row.hash == after), len(rows)) :]
        page = rows[:PAGE]
        return {
            "sessions": [
                {
                    "id": row.hash,
                    "user": row.user,
                    "created": row.created,
                    "expires": row.expires,
                    "used": row.used,
                    "way": row.way,
                    "browser": row.browser,
                }
                for row in page
            ],
            "next": page[-1].hash if len(rows) > PAGE else None,
        }

    async def _revoke(self, message: Message) -> Message:
        wanted = str(message.get("session") or "")
        found = [row for row in self._sessions.listed() if row.hash.startswith(wanted)]
        if len(wanted) < MIN_SESSION_ID or len(found) != 1:
            raise StartError("unknown_session", f"There is no session `{wanted[:64]}`.", "See: choir user sessions")
        self._people.people.note(time.time(), COMMAND_LINE, "ended_session", found[0].user, found[0].browser)
        return {"ended": self._sessions.end(found[0].hash), "user": found[0].user}

    async def _users(self, message: Message) -> Message:
        after = str(message.get("after") or "")
        found = [each for each in self._people.overview() if each["name"] > after]
        found.sort(key=lambda each: str(each["name"]))
        page = found[:PAGE]
        return {"users": page, "next": page[-1]["name"] if len(found) > PAGE else None}

    async def _invite(self, message: Message) -> Message:
        return {"url": self._people.invite(COMMAND_LINE, str(message.get("user")), bool(message.get("admin")))}

    async def _set_admin(self, message: Message) -> Message:
        self._people.set_admin(COMMAND_LINE, str(message.get("user")), bool(message.get("admin")))
        return {}

    async def _remove_user(self, message: Message) -> Message:
        user = str(message.get("user"))
        invited = self._people.people.user(user) is None and self._people.people.is_invited(user, time.time())
        homes = await self._people.remove(COMMAND_LINE, user)
        warning = "" if invited else self._people.removal_warning
        return {"homes": homes, "invitation": invited, "warning": warning}

    async def _limits(self, message: Message) -> Message:
        found = await self._people.limits.of(str(message.get("user")))
        return {"limits": [dataclasses.asdict(each) for each in found]}

    async def _limit(self, message: Message) -> Message:
        words = {str(name): str(text) for name, text in dict(message.get("limits") or {}).items()}
        try:
            await self._people.limits.set(COMMAND_LINE, str(message.get("user")), words)
        except ConfigError as error:
            if error.reason == "limit_invalid":  # of the words on the command line, not of a file
                raise UsageError(error.reason, error.message, error.hint) from None
            raise
        return await self._limits(message)

    async def _audit(self, message: Message) -> Message:
        before = message.get("before")
        found = self._people.people.audit(PAGE, int(before) if before is not None else None)
        return {"entries": [dataclasses.asdict(each) for each in found]}

    def _select(self, message: Message, make: bool = False) -> Sandbox:
        wanted = message.get("id")
        user, role = str(message.get("user") or self._admin), str(message.get("role") or "live")
        for sandbox in self._supervisor.sandboxes.values():
            if wanted in (sandbox.label, sandbox.status.sandbox_id) or (
                wanted is None and (sandbox.user, sandbox.role) == (user, role)
            ):
                return sandbox
        if make and wanted is None and role in ROLES and self._people.people.user(user) is not None:
            return self._supervisor.seat(user, ROLES[role])
        raise StartError(
            "unknown_sandbox", f"There is no sandbox `{wanted or f'{user}-{role}'}`.", "See: choir sandbox list"
        )

    def _describe(self, sandbox: Sandbox) -> dict[str, Any]:
        status, failure = sandbox.status, sandbox.status.failure
        return {
            "label": sandbox.label,
            "id": status.sandbox_id,
            "user": sandbox.user,
            "role": sandbox.role,
            "home": sandbox.home,
            "state": status.state,
            "phase": status.phase,
            "since": status.since,
            "note": status.note[:500],
            "reason": failure.reason if failure else "",
            "message": failure.message[:500] if failure else "",
            "hint": failure.hint[:500] if failure else "",
            "retry_at": status.retry_at,
            "warm": sandbox in self._supervisor.standby,
            "url": self._origins.origin(sandbox.label),
        }


def _snapshot(snapshot: Snapshot) -> dict[str, Any]:
    return {**dataclasses.asdict(snapshot), "path": str(snapshot.path)}
