from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from choir.channel import ChannelClosed, Message, connect, listen
from choir.cli.sandbox import row
from choir.errors import EXIT_UNAVAILABLE, EXIT_USAGE
from choir.hypervisor import control as module
from choir.hypervisor import standby
from choir.hypervisor.control import PAGE, Control
from choir.hypervisor.origins import Origins
from choir.paths import State

from .fakes import USER, BadExit, Deployment, FakeBackend, deployed

Ask = Callable[..., Coroutine[Any, Any, Message]]


@contextlib.asynccontextmanager
async def asking(state: State, here: Deployment) -> AsyncIterator[Ask]:
    control = Control(
        supervisor=here.supervisor,
        maintenance=here.maintenance,
        sessions=here.sessions,
        login=here.login,
        people=here.admin,
        origins=Origins(here.url),
        admin="ada",
        isolation="fake isolation",
    )
    listener = listen(str(state.hypervisor_socket))
    serving = asyncio.create_task(control.serve(listener))
    channel = connect(str(state.hypervisor_socket))
    loop = asyncio.get_running_loop()

    async def ask(op: str, **fields: Any) -> Message:
        channel.send({"op": op, **fields})
        message, _ = await channel.receive_async(loop)
        return message

    try:
        yield ask
    finally:
        channel.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        listener.close()


def run(
    state: State, backend: FakeBackend, test: Callable[[Deployment, Ask], Coroutine[Any, Any, None]], warm: int = 0
) -> None:
    async def main() -> None:
        async with deployed(state, backend, warm=warm) as here, asking(state, here) as ask:
            await test(here, ask)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_start_list_stop(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        assert await ask("list") == {"ok": True, "sandboxes": [], "next": None}
        started = (await ask("start"))["sandbox"]
        assert (started["label"], started["user"], started["role"], started["state"]) == (
            "ada-live",
            "ada",
            "live",
            "ready",
        )
        assert started["url"] == here.desk_origin
        assert (await ask("list"))["sandboxes"] == [started]
        assert (await ask("status"))["sandboxes"] == {"ready": 1}
        for select in ({"id": started["id"]}, {}, {"id": "ada-live"}, {"user": "ada", "role": "live"}):
            assert (await ask("stop", **select))["sandbox"]["state"] == "stopped"
            assert (await ask("start", id="ada-live"))["sandbox"]["state"] == "ready"

    run(state, FakeBackend(), test)


def test_what_stands_ready_is_said_and_counts_as_none(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "CALM", 0.0)
    backend = FakeBackend()

    async def test(here: Deployment, ask: Ask) -> None:
        await ask("start")
        assert not (await ask("stop"))["sandbox"]["warm"]
        while not (listed := (await ask("list"))["sandboxes"])[0]["warm"]:
            await asyncio.sleep(0.001)
        (sandbox,) = listed
        assert sandbox["state"] == "stopped"
        assert sandbox["id"] != backend.prepared[0].sandbox_id
        assert row(sandbox)[3] == "stopped, one stands ready"
        status = await ask("status")
        assert (status["sandboxes"], status["warm"]) == ({"stopped": 1}, 1)
        started = (await ask("start"))["sandbox"]
        assert (started["state"], started["warm"]) == ("ready", False)
        assert row(started)[3] == "ready"

    run(state, backend, test, warm=1)


def test_nothing_stands_ready_for_a_person_who_is_gone(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "CALM", 0.0)
    backend = FakeBackend()

    async def test(here: Deployment, ask: Ask) -> None:
        here.people.add_user("ben", False, 1.0)
        here.sessions.begin("ben")
        here.supervisor.standby.wake()
        while not len(here.supervisor.standby):
            await asyncio.sleep(0.001)
        assert backend.prepared[0].spec.user_id == "ben"
        assert (await ask("remove_user", user="ben"))["ok"]
        assert backend.prepared[0].left
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(here.supervisor.standby) == 0
        assert len(backend.prepared) == 1

    run(state, backend, test, warm=1)


def test_a_failed_start_says_why(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        sandbox = (await ask("start"))["sandbox"]
        assert (sandbox["state"], sandbox["reason"]) == ("failed", "credential_in_environment")
        assert "MY_API_KEY" in sandbox["message"]

    run(state, BadExit(), test)


def test_logs_are_redacted_and_bounded(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        sandbox = await here.ready()
        token = here.backend.specs[0].environment["CHOIR_PROVIDER_GATEWAY_TOKEN"]
        here.supervisor.records.log_path(sandbox).write_text("é\x01" * 100_000 + f"\nlast {token}\n")
        log = (await ask("logs"))["log"]
        assert log.endswith("]\n")
        assert "last" in log
        assert token not in log
        assert "\x01" not in log

    run(state, FakeBackend(), test)


def test_a_login_link_works(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        url = (await ask("login_link"))["url"]
        assert url.startswith(f"{here.url}/login?once=")
        async with here.ask("GET", url.removeprefix(here.url)) as answer:
            assert answer.status == 200
            assert f"Sign in as {USER}" in await answer.text()
        assert (await ask("login_link", user="eve"))["reason"] == "unknown_user"

    run(state, FakeBackend(), test)


def test_sessions_are_listed_and_revoked(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        await here.ready()
        hub = here.hub_cookie()
        desk = here.desk_cookie(hub)
        (session,) = (await ask("sessions"))["sessions"]
        assert session["user"] == "ada"
        assert (await ask("revoke", session=session["id"]))["ended"] == 2
        assert (await ask("sessions"))["sessions"] == []
        for cookie, host in ((hub, ""), (desk, here.desk_host)):
            async with here.ask("GET", "/desk/live", cookie=cookie, host=host) as answer:
                assert answer.status == 401

    run(state, FakeBackend(), test)


def test_many_sessions_come_in_pages_and_a_part_of_an_id_is_enough(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        here.people.add_user("ben", False, 1.0)
        for _ in range(PAGE + 3):
            here.sessions.begin(USER, browser="Firefox")
        here.sessions.begin("ben", way="passkey")
        first = await ask("sessions", user=USER)
        rest = await ask("sessions", user=USER, after=first["next"])
        ids = [each["id"] for each in first["sessions"] + rest["sessions"]]
        assert (len(ids), len(set(ids)), rest["next"]) == (PAGE + 3, PAGE + 3, None)
        (bens,) = (await ask("sessions", user="ben"))["sessions"]
        assert (bens["way"], bens["used"]) == ("passkey", bens["created"])
        for wrong in ("", bens["id"][:7], "x" * 64):
            assert (await ask("revoke", session=wrong))["reason"] == "unknown_session"
        answer = await ask("revoke", session=bens["id"][:8])
        assert (answer["ended"], answer["user"]) == (1, "ben")
        assert [(entry["act"], entry["target"]) for entry in (await ask("audit"))["entries"]] == [
            ("ended_session", "ben")
        ]

    run(state, FakeBackend(), test)


def test_a_sandbox_that_is_not_there_and_how_to_see_which_are(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        answer = await ask("stop", id="nobody")
        assert answer["message"] == "There is no sandbox `nobody`."
        assert (answer["hint"], answer["exit_code"]) == ("See: choir sandbox list", EXIT_UNAVAILABLE)

    run(state, FakeBackend(), test)


def test_limits(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        answer = await ask("limit", user=USER, limits={"usd_per_day": "2.50"})
        found = {each["name"]: each for each in answer["limits"]}
        assert found["usd_per_day"] == {"name": "usd_per_day", "own": "2.5", "configured": "none", "fixed": False}
        assert found["providers"]["configured"] == "all"
        assert answer["limits"] == (await ask("limits", user=USER))["limits"]
        wrong = await ask("limit", user=USER, limits={"colour": "red"})
        assert (wrong["reason"], wrong["exit_code"]) == ("limit_invalid", EXIT_USAGE)
        assert (await ask("limit", user="eve", limits={}))["reason"] == "unknown_user"
        assert (await ask("limits", user="eve"))["reason"] == "unknown_user"

    run(state, FakeBackend(), test)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"op": "nonsense"}, "unknown_op"),
        ({}, "unknown_op"),
        ({"op": "stop", "id": "nobody"}, "unknown_sandbox"),
        ({"op": "start", "user": "eve"}, "unknown_sandbox"),
        ({"op": "start", "role": "run"}, "unknown_sandbox"),
        ({"op": "restore", "snapshot": "20260101T000000Z"}, "unknown_snapshot"),
        ({"op": "restore", "from": "run"}, "unknown_sandbox"),
        ({"op": "snapshot"}, "unknown_sandbox"),
        ({"op": "list", "after": 7}, None),
    ],
)
def test_what_makes_no_sense_is_answered(state: State, message: Message, reason: str | None) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        message.setdefault("op", "")
        answer = await ask(**message)
        assert answer.get("reason") == reason

    run(state, FakeBackend(), test)


def test_long_lists_come_in_pages(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)

    async def test(here: Deployment, ask: Ask) -> None:
        for name in "abcde":
            here.supervisor.seat(name, "live")
        labels, after = [], ""
        while True:
            answer = await ask("list", after=after)
            labels += [each["label"] for each in answer["sandboxes"]]
            if not answer["next"]:
                break
            after = answer["next"]
        assert labels == [f"{name}-live" for name in "abcde"]

    run(state, FakeBackend(), test)


def test_another_uid_is_not_answered(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peer_credentials", lambda sock: (1, 4242, 4242))

    async def test(here: Deployment, ask: Ask) -> None:
        with pytest.raises(ChannelClosed):
            await ask("status")

    run(state, FakeBackend(), test)


def test_the_socket_is_private(state: State) -> None:
    async def test(here: Deployment, ask: Ask) -> None:
        assert state.hypervisor_socket.stat().st_mode & 0o777 == 0o600

    run(state, FakeBackend(), test)
