from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from choir.contract import Role
from choir.errors import ChoirError, IsolationError, KeylessError, StartError
from choir.hypervisor import standby as module
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.sessions import Sessions
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.workspace import Workspaces
from choir.isolation.contract import SandboxSpec
from choir.paths import State
from choir.storage.registry import Registry

from .fakes import FakeBackend, FakeGateway, FakePrepared, FakeRunning, SlowSpawn, exited, make_supervisor

Test = Callable[[Supervisor], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALM", 0.0)


def run(state: State, registry: Registry, backend: FakeBackend, test: Test, warm: int = 3) -> None:
    async def main() -> None:
        supervisor = make_supervisor(state, registry, backend, warm=warm)
        await supervisor.begin()
        try:
            await test(supervisor)
        finally:
            await supervisor.close()
        assert all(each.left or each.started for each in backend.prepared)
        assert len(supervisor.standby) == 0

    asyncio.run(asyncio.wait_for(main(), 20))


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def looked() -> None:
    """Long enough for whatever it would do."""
    for _ in range(50):
        await asyncio.sleep(0.001)


async def stopped(supervisor: Supervisor, user: str = "ada", role: Role = "live") -> Sandbox:
    """One that was there and is not now."""
    sandbox = supervisor.seat(user, role)
    supervisor.start(sandbox)
    assert (await sandbox.settled(5)).state == "ready"
    supervisor.stop(sandbox)
    await sandbox.settled(5)
    await sandbox.ended()
    return sandbox


def test_a_start_takes_what_stands_ready(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        (prepared,) = backend.prepared
        assert sandbox.status.state == "stopped"  # it is no sandbox that runs
        assert prepared.spec.home == supervisor.records.home_path(sandbox)
        supervisor.start(sandbox)
        assert sandbox not in supervisor.standby
        assert (await sandbox.settled(5)).state == "ready"
        assert prepared.started
        assert sandbox.status.sandbox_id == prepared.sandbox_id
        assert supervisor.leases.gateway.attached == {prepared.sandbox_id: ("ada", "live")}  # type: ignore[attr-defined]
        first, then = prepared.spec.environment, backend.specs[-1].environment
        assert first["OPENAI_API_KEY"] != then["OPENAI_API_KEY"]  # made when somebody came

    run(state, registry, backend, test)


def test_nothing_is_leased_for_nobody(state: State, registry: Registry) -> None:
    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        gateway = supervisor.leases.gateway
        assert isinstance(gateway, FakeGateway)
        assert gateway.attached == {}
        await supervisor.leases.renew()
        assert gateway.warm == 1  # a number for its metrics
        assert [op for op, _ in gateway.log] == ["attach", "detach"]  # of the first life

    run(state, registry, FakeBackend(), test)


def test_none_are_wanted(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        await stopped(supervisor)
        await looked()
        assert backend.prepared == []

    run(state, registry, backend, test, warm=0)


def test_a_backend_that_prepares_nothing_is_not_asked_again(state: State, registry: Registry) -> None:
    class Plain(FakeBackend):
        asked = 0

        async def prepare(self, spec: SandboxSpec) -> FakePrepared:
            self.asked += 1
            raise StartError("prepare_unsupported", "Not here.")

    backend = Plain()

    async def test(supervisor: Supervisor) -> None:
        await stopped(supervisor)
        await looked()
        await stopped(supervisor, "ben")
        await looked()
        assert backend.asked == 1

    run(state, registry, backend, test)


def test_whoever_signs_in_is_expected(state: State, registry: Registry) -> None:
    async def test(supervisor: Supervisor) -> None:
        registry.ensure_user("ada", admin=False, now=0.0)
        sessions = Sessions(registry, "http://localhost:1")
        sessions.begun = supervisor.standby.wake
        await looked()
        assert supervisor.sandboxes == {}
        sessions.begin("ada")
        await until(lambda: len(supervisor.standby))
        assert supervisor.seat("ada", "live") in supervisor.standby

    run(state, registry, FakeBackend(), test)


def test_only_so_many_and_those_who_were_here_last(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        seats = [await stopped(supervisor, name) for name in ("ada", "ben")]
        await until(lambda: all(seat in supervisor.standby for seat in seats))
        third = await stopped(supervisor, "cleo")
        await until(lambda: third in supervisor.standby)
        await until(lambda: seats[0] not in supervisor.standby)
        assert seats[1] in supervisor.standby

    run(state, registry, backend, test, warm=2)


def test_starts_come_first(state: State, registry: Registry) -> None:
    """None is made while a real one starts, and one that is being made gives way."""
    backend = SlowSpawn()
    making, gave_way, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def prepare(spec: SandboxSpec) -> FakePrepared:
        making.set()
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            gave_way.set()
            raise
        return await FakeBackend.prepare(backend, spec)

    async def test(supervisor: Supervisor) -> None:
        backend.go.set()
        ada = await stopped(supervisor)
        await making.wait()  # for ada
        making.clear()
        backend.go.clear()
        ben = supervisor.seat("ben", "live")
        supervisor.start(ben)
        await gave_way.wait()
        await looked()
        assert not making.is_set()
        assert backend.prepared == []
        backend.go.set()
        go_on.set()
        await ben.settled(5)
        await until(lambda: ada in supervisor.standby)

    backend.prepare = prepare  # type: ignore[method-assign]
    run(state, registry, backend, test)


@pytest.mark.parametrize(
    "error",
    [StartError("sandbox_unfit", "It does not fit."), StartError("keeper_died", "It died."), IsolationError("x", "x")],
)
def test_a_person_never_hears_of_one_that_is_no_good(state: State, registry: Registry, error: ChoirError) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        (prepared,) = backend.prepared
        prepared.fails = error
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert (status.state, status.failure) == ("ready", None)
        assert prepared.left
        assert not prepared.started

    run(state, registry, backend, test)


def test_nor_of_one_that_dies_on_the_way(state: State, registry: Registry) -> None:
    class Dies(FakeBackend):
        async def becomes_ready(self, running: FakeRunning) -> None:
            if any(each.started for each in self.prepared) and len(self.specs) == 2:
                running.publish(exited(None, 9, "killed", "It was killed."))
            else:
                await super().becomes_ready(running)

    backend = Dies()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert (status.state, status.failure) == ("ready", None)
        assert len(backend.specs) == 3
        assert backend.prepared[0].left
        gateway = supervisor.leases.gateway
        assert isinstance(gateway, FakeGateway)
        assert [op for op, _ in gateway.log] == ["attach", "detach", "attach", "detach", "attach"]

    run(state, registry, backend, test)


def test_a_credential_is_told_not_passed_over(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        backend.prepared[0].fails = KeylessError("credential_in_file", "The file /home/choir/.env holds a credential.")
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert status.failure is not None
        assert (status.failure.reason, status.failure.file) == ("credential_in_file", ".env")
        assert len(backend.specs) == 1  # the first life's: it was not tried again from nothing

    run(state, registry, backend, test)


def test_one_that_dies_is_laid_to_rest_and_not_made_again_at_once(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        backend.prepared[0].end.set_result(exited(reason="killed"))
        await until(lambda: sandbox not in supervisor.standby)
        supervisor.standby.wake()
        await looked()
        assert len(backend.prepared) == 1
        assert backend.prepared[0].left
        supervisor.start(sandbox)
        assert (await sandbox.settled(5)).state == "ready"

    run(state, registry, backend, test)


def test_one_that_cannot_be_made_is_not_tried_again_at_once(state: State, registry: Registry) -> None:
    class Broken(FakeBackend):
        asked = 0

        async def prepare(self, spec: SandboxSpec) -> FakePrepared:
            self.asked += 1
            raise IsolationError("launcher_failed", "It does not work.")

    backend = Broken()

    async def test(supervisor: Supervisor) -> None:
        await stopped(supervisor)
        await until(lambda: backend.asked)
        supervisor.standby.wake()
        await looked()
        assert backend.asked == 1
        ben = await stopped(supervisor, "ben")  # others are
        await until(lambda: backend.asked == 2)
        assert ben not in supervisor.standby

    run(state, registry, backend, test)


def test_one_grows_old(state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        monkeypatch.setattr(module, "OLDEST", 0.0)
        supervisor.standby.wake()
        await until(lambda: len(backend.prepared) > 1)
        assert backend.prepared[0].left
        monkeypatch.undo()

    run(state, registry, backend, test)


def test_none_stands_ready_where_memory_is_short(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = False
    monkeypatch.setattr(module, "_memory_is_short", lambda: short)
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        nonlocal short
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        short = True
        supervisor.standby.wake()
        await until(lambda: sandbox not in supervisor.standby)
        await looked()
        assert len(backend.prepared) == 1

    run(state, registry, backend, test)


def test_work_on_a_home_ends_what_stands_ready_for_it(state: State, registry: Registry) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor) -> None:
        maintenance = Maintenance(supervisor, Workspaces(state, keep=3))
        sandbox = await stopped(supervisor)
        await until(lambda: sandbox in supervisor.standby)
        taken = await maintenance.snapshot(sandbox)  # only looks
        assert sandbox in supervisor.standby
        await maintenance.restore(sandbox, taken.name)
        assert backend.prepared[0].left
        await until(lambda: len(backend.prepared) == 2)
        await maintenance.swap("ada")
        assert backend.prepared[1].left
        await until(lambda: len(backend.prepared) == 3)
        assert backend.prepared[2].spec.home == supervisor.records.home_path(sandbox)

    run(state, registry, backend, test)


def test_one_that_is_being_made_is_waited_for_before_work_on_its_home(state: State, registry: Registry) -> None:
    making = asyncio.Event()

    class Slow(FakeBackend):
        cancelled = False

        async def prepare(self, spec: SandboxSpec) -> FakePrepared:
            making.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True
            raise AssertionError

    backend = Slow()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await making.wait()
        with sandbox.occupy("Something is being done."):
            await supervisor.standby.discard(sandbox)
            assert backend.cancelled
            making.clear()
            supervisor.standby.wake()
            await looked()
            assert not making.is_set()

    run(state, registry, backend, test)


def test_an_unforeseen_error_ends_nothing(state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.0)

    class Odd(FakeBackend):
        asked = 0

        async def prepare(self, spec: SandboxSpec) -> FakePrepared:
            self.asked += 1
            if self.asked == 1:
                raise ZeroDivisionError
            return await super().prepare(spec)

    backend = Odd()

    async def test(supervisor: Supervisor) -> None:
        sandbox = await stopped(supervisor)
        await until(lambda: backend.asked)
        supervisor.standby.wake()
        await until(lambda: sandbox in supervisor.standby)

    run(state, registry, backend, test)
