"""The hypervisor's control socket (``State.hypervisor_socket``), for the command line and for scripts.

JSON over ``choir.channel``, own-uid peers only. Each question has ``op`` and is answered in order by ``{"ok": true,
...}`` or ``{"ok": false, "reason", "message", "hint"}``.

===========  ============================  ==========================================================================
op           fields                        answer
===========  ============================  ==========================================================================
status                                     pid, url, isolation, sandboxes (count by state)
list         after (a label, optional)     sandboxes: [SANDBOX], next (label for ``after``, or null)
start        SELECT                        sandbox: SANDBOX, once it is ready or failed
stop         SELECT                        sandbox: SANDBOX, once it has ended
logs         SELECT                        log (the redacted end of what it printed), sandbox: SANDBOX
login_link   user (optional)               url; opens once, within an hour
sessions                                   sessions: [{id, user, created, expires}]
revoke       session (an id)               ended (how many, with those on sandboxes' origins)
===========  ============================  ==========================================================================

SELECT is ``id`` (a sandbox id or label), or ``user`` and ``role`` (default: the admin's, ``live``). SANDBOX is
``{label, id, user, role, state, phase, since, reason, message, hint, url}``.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from choir.channel import Channel, ChannelClosed, Message, peer_credentials
from choir.errors import ChoirError, StartError
from choir.hypervisor.crash import redact
from choir.hypervisor.login import Login
from choir.hypervisor.origins import Origins
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import STOP_GRACE, Sandbox, Supervisor

PAGE = 50
LOG_BYTES = 24 * 1024

_log = structlog.get_logger("choir.hypervisor")


class Control:
    """Answers the ops. ``serve`` runs until cancelled."""

    def __init__(
        self, *, supervisor: Supervisor, sessions: Sessions, login: Login, origins: Origins, admin: str, isolation: str
    ) -> None:
        self._supervisor = supervisor
        self._sessions = sessions
        self._login = login
        self._origins = origins
        self._admin = admin
        self._isolation = isolation
        self._ops: dict[str, Callable[[Message], Awaitable[Message]]] = {
            "status": self._status,
            "list": self._list,
            "start": self._start,
            "stop": self._stop,
            "logs": self._logs,
            "login_link": self._login_link,
            "sessions": self._list_sessions,
            "revoke": self._revoke,
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
            return {"ok": False, **error.as_dict()}
        except Exception:
            _log.exception("control_op_failed", op=message.get("op"))
            return {"ok": False, "reason": "internal_error", "message": "See the hypervisor's log.", "hint": ""}

    async def _status(self, _message: Message) -> Message:
        counts = collections.Counter(sandbox.status.state for sandbox in self._supervisor.sandboxes.values())
        return {
            "pid": os.getpid(),
            "url": self._origins.public_url,
            "isolation": self._isolation,
            "sandboxes": dict(counts),
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
        await sandbox.settled(self._supervisor.config.sandbox.start_timeout + STOP_GRACE)
        return {"sandbox": self._describe(sandbox)}

    async def _stop(self, message: Message) -> Message:
        sandbox = self._select(message)
        self._supervisor.stop(sandbox)
        await sandbox.settled(STOP_GRACE * 3)
        return {"sandbox": self._describe(sandbox)}

    async def _logs(self, message: Message) -> Message:
        sandbox = self._select(message)
        log = await asyncio.to_thread(_tail, self._supervisor.log_path(sandbox))
        return {"log": redact(log), "sandbox": self._describe(sandbox)}

    async def _login_link(self, message: Message) -> Message:
        user = str(message.get("user") or self._admin)
        if user != self._admin:
            raise StartError("unknown_user", f"There is no user `{user}`.")
        return {"url": self._login.new_link(user, self._origins.public_url)}

    async def _list_sessions(self, _message: Message) -> Message:
        rows = self._sessions.listed()[:PAGE]
        return {
            "sessions": [
                {"id": row.hash, "user": row.user, "created": row.created, "expires": row.expires} for row in rows
            ]
        }

    async def _revoke(self, message: Message) -> Message:
        return {"ended": self._sessions.end(str(message.get("session")))}

    def _select(self, message: Message, make: bool = False) -> Sandbox:
        wanted = message.get("id")
        user, role = str(message.get("user") or self._admin), str(message.get("role") or "live")
        for sandbox in self._supervisor.sandboxes.values():
            if wanted in (sandbox.label, sandbox.status.sandbox_id) or (
                wanted is None and (sandbox.user, sandbox.role) == (user, role)
            ):
                return sandbox
        if make and wanted is None and user == self._admin and role == "live":
            return self._supervisor.seat(user, "live")
        raise StartError("unknown_sandbox", f"There is no sandbox `{wanted or f'{user}-{role}'}`.")

    def _describe(self, sandbox: Sandbox) -> dict[str, Any]:
        status, failure = sandbox.status, sandbox.status.failure
        return {
            "label": sandbox.label,
            "id": status.sandbox_id,
            "user": sandbox.user,
            "role": sandbox.role,
            "state": status.state,
            "phase": status.phase,
            "since": status.since,
            "reason": failure.reason if failure else "",
            "message": failure.message[:500] if failure else "",
            "hint": failure.hint[:500] if failure else "",
            "url": self._origins.origin(sandbox.label),
        }


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read(LOG_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
