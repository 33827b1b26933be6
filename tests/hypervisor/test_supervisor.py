from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from choir import inside, tokens
from choir.errors import StartError
from choir.hypervisor import life as module
from choir.hypervisor.lifecycle import Failure, Status
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.isolation.contract import EndedEarly, PhaseReached, SandboxSpec
from choir.paths import State
from choir.storage.registry import Registry, SandboxRow

from .fakes import (
    BadExit,
    FakeBackend,
    FakeGateway,
    FakeRunning,
    NeverReady,
    RefusesToSpawn,
    SlowSpawn,
    SlowStop,
    exited,
    make_supervisor,
)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 20))


async def until(sandbox: Sandbox, state: str) -> Status:
    while sandbox.status.state != state:
        await sandbox.watch.after(sandbox.watch.version, None)
    return sandbox.status


def stored(registry: Registry) -> Status:
    (row,) = registry.sandboxes()
    return msgspec.json.decode(row.status, type=Status)


def test_a_good_life(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend, gateway = FakeBackend(), FakeGateway()
        supervisor = make_supervisor(state, registry, backend, gateway)
        sandbox = supervisor.seat("ada", "live")
        assert sandbox.status.state == "absent"
        supervisor.start(sandbox)
        supervisor.start(sandbox)  # nothing happens twice
        assert (await sandbox.settled(5)).state == "ready"
        assert [each.phase for each in sandbox.status.phases] == [
            "keeper",
            "namespace",
            "keyless",
            "listener",
            "desktop",
            "ready",
        ]
        assert len(backend.spawned) == 1
        assert gateway.attached == {sandbox.status.sandbox_id: ("ada", "live")}
        assert stored(registry) == sandbox.status
        supervisor.stop(sandbox)
        assert sandbox.status.state == "stopping"
        assert (await sandbox.settled(5)).state == "stopped"
        assert backend.spawned[0].closed
        assert gateway.attached == {}
        assert gateway.log[-1] == ("detach", sandbox.status.sandbox_id)

    run(life())


def test_each_life_has_its_own_id_and_token(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = FakeBackend()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        for _ in range(2):
            supervisor.start(sandbox)
            await sandbox.settled(5)
            supervisor.stop(sandbox)
            await sandbox.task  # type: ignore[misc]
        first, second = backend.specs
        assert first.sandbox_id != second.sandbox_id
        assert first.home == second.home
        for spec in backend.specs:
            tokens.verify(b"k" * 32, spec.environment["CHOIR_PROVIDER_GATEWAY_TOKEN"], spec.sandbox_id)

    run(life())


def test_what_a_sandbox_is_given(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = FakeBackend()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await sandbox.settled(5)
        spec = backend.specs[0]
        token = spec.environment["CHOIR_PROVIDER_GATEWAY_TOKEN"]
        assert spec.environment == {
            "LANG": "C.UTF-8",
            "CHOIR_SANDBOX_ID": spec.sandbox_id,
            "CHOIR_SANDBOX_USER_ID": "ada",
            "CHOIR_SANDBOX_ROLE": "live",
            "CHOIR_PROVIDER_GATEWAY_BASE_URL": inside.GATEWAY_ORIGIN,
            "CHOIR_PROVIDER_GATEWAY_TOKEN": token,
            "OPENAI_BASE_URL": inside.gateway_base_url("openai"),
            "OPENAI_API_KEY": token,
            "CHOIR_PROVIDERS": '[{"name":"openai","speaks":["openai"],"path":"","models":[]}]',
            "DATABASE_URL": "sqlite:////home/choir/.choir/choir.db",
            "CHOIR_MEMORY_URL": "http://127.0.0.1:7080/api/memory",
        }
        assert spec.command is None
        assert spec.home == state.homes / "ada-1"
        assert spec.home.stat().st_mode & 0o777 == 0o700
        if os.geteuid() == 0:
            assert spec.host_uid == spec.home.stat().st_uid >= 1_900_000_000
        else:
            assert spec.host_uid is None
        await supervisor.close()

    run(life())


def test_attached_before_it_goes_on(state: State, registry: Registry) -> None:
    class Asks(FakeBackend):
        async def becomes_ready(self, running: FakeRunning) -> None:
            assert running.sandbox_id in gateway.attached
            await super().becomes_ready(running)

    gateway = FakeGateway()

    async def life() -> None:
        supervisor = make_supervisor(state, registry, Asks(), gateway)
        sandbox = supervisor.seat("ada", "live")
        gateway.away = 2  # the gateway is being restarted
        supervisor.start(sandbox)
        assert (await sandbox.settled(5)).state == "ready"
        await supervisor.close()

    run(life())


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(BadExit, "credential_in_environment"), (RefusesToSpawn, "user_namespaces_unavailable")],
)
def test_a_failed_start_is_stored_with_its_reason(state: State, registry: Registry, backend: Any, reason: str) -> None:
    async def life() -> None:
        gateway = FakeGateway()
        supervisor = make_supervisor(state, registry, backend(), gateway)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert status.state == "failed"
        assert status.failure is not None
        assert status.failure.reason == reason
        assert status.failure.hint
        assert stored(registry) == status
        assert gateway.attached == {}
        if backend is BadExit:
            assert (status.failure.code, status.failure.log_tail) == (77, "first line\nlast line\n")

    run(life())


def test_the_deadline_names_the_phase(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = NeverReady()
        supervisor = make_supervisor(state, registry, backend, start_timeout=0.05)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert status.failure is not None
        assert status.failure.reason == "start_timeout"
        assert "`listener`" in status.failure.message
        assert backend.spawned[0].end is not None
        assert backend.spawned[0].closed

    run(life())


def test_the_inner_error_wins_over_the_deadline(state: State, registry: Registry) -> None:
    class DiesUnseen(NeverReady):
        async def becomes_ready(self, running: FakeRunning) -> None:
            running.end = exited(1, reason="out_of_memory", message="Out of memory.")
            await asyncio.Event().wait()

    async def life() -> None:
        supervisor = make_supervisor(state, registry, DiesUnseen(), start_timeout=0.05)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        status = await sandbox.settled(5)
        assert status.failure is not None
        assert status.failure.reason == "out_of_memory"

    run(life())


def test_an_exit_after_ready_is_a_failure_and_is_mended_after_a_wait(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choir.hypervisor.restart.BACK_OFF", (0.01, 0.01))

    async def life() -> None:
        backend, gateway = FakeBackend(), FakeGateway()
        supervisor = make_supervisor(state, registry, backend, gateway)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        for number in range(2):
            await until(sandbox, "ready")
            backend.spawned[-1].publish(exited(None, 9, log_tail="\x1b[31mbye\x1b[0m\x07\n"))
            status = await until(sandbox, "failed")
            assert status.failure is not None
            assert (status.failure.reason, status.failure.signal) == ("desktop_ended", 9)
            assert status.failure.log_tail == "bye\n"
            assert status.retry_at > 0
            assert gateway.attached == {}
            assert len(backend.spawned) == number + 1
        await until(sandbox, "ready")
        backend.spawned[-1].publish(exited(1))
        status = await until(sandbox, "failed")
        assert status.retry_at == 0
        assert sandbox.retry is None
        assert status.failure is not None
        assert "3 times" in status.failure.hint
        assert stored(registry) == status
        assert len({spec.sandbox_id for spec in backend.specs}) == 3
        supervisor.start(sandbox)  # a person's: counted from the beginning
        assert (await until(sandbox, "ready")).crashes == ()
        await supervisor.close()

    run(life())


@pytest.mark.parametrize("how", ["stop", "start", "close"])
def test_a_restart_to_come_can_be_prevented_or_hurried(state: State, registry: Registry, how: str) -> None:
    async def life() -> None:
        backend = FakeBackend()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await until(sandbox, "ready")
        backend.spawned[-1].publish(exited(1))
        await until(sandbox, "failed")
        timer = sandbox.retry
        assert timer is not None
        if how == "start":
            supervisor.start(sandbox)
            await until(sandbox, "ready")
        elif how == "stop":
            supervisor.stop(sandbox)
        else:
            await supervisor.close()
        assert timer.cancelled()
        assert sandbox.retry is None
        assert sandbox.status.retry_at == 0
        await supervisor.close()
        assert len(backend.spawned) == (2 if how == "start" else 1)

    run(life())


def test_a_restart_to_come_outlives_the_hypervisor(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = Status(state="failed", failure=Failure(reason="r", message="m"), crashes=(1.0,), retry_at=2.0)
    alive(registry, crashed)

    async def life() -> None:
        supervisor = make_supervisor(state, registry, FakeBackend())
        await supervisor.begin()
        sandbox = supervisor.seat("ada", "live")
        assert (await until(sandbox, "ready")).crashes == (1.0,)
        await supervisor.close()

    run(life())


def test_a_failed_start_is_not_tried_again(state: State, registry: Registry) -> None:
    async def life() -> None:
        supervisor = make_supervisor(state, registry, BadExit())
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        assert (await until(sandbox, "failed")).retry_at == 0
        assert sandbox.retry is None

    run(life())


def test_what_a_failed_start_printed_is_kept_though_nobody_saw_it_end(state: State, registry: Registry) -> None:
    class Refuses(FakeBackend):
        async def start(self, spec: SandboxSpec, stdio: Any = None) -> FakeRunning:
            assert spec.log is not None
            with spec.log.open("a") as log:
                log.write("what it said\n")
            error = StartError("exited_at_start", "It ended.")
            if not self.stops:
                raise error
            phases = (PhaseReached("keeper", 0.1), PhaseReached("namespace", 0.2))
            raise error from EndedEarly(exited(3, log_tail="last words\n"), phases)

    async def life() -> None:
        backend = Refuses()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.records.log_path(sandbox).write_text("of another life\n")
        supervisor.start(sandbox)
        status = await until(sandbox, "failed")
        assert status.failure is not None
        assert (status.failure.log_tail, status.failure.code) == ("what it said\n", None)
        await sandbox.ended()
        backend.stops.append(0)
        supervisor.start(sandbox)
        status = await until(sandbox, "failed")
        assert status.failure is not None
        assert (status.failure.log_tail, status.failure.code) == ("last words\n", 3)
        assert [each.phase for each in status.phases] == ["keeper", "namespace"]

    run(life())


def test_a_stop_that_had_to_kill_says_so(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = SlowStop()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await until(sandbox, "ready")
        supervisor.stop(sandbox, "Why.")
        backend.killed.set()
        assert (await until(sandbox, "stopped")).note.startswith("Why. It did not end within 3 s")
        backend.__class__ = FakeBackend  # type: ignore[assignment]
        await sandbox.ended()
        supervisor.start(sandbox)
        await until(sandbox, "ready")
        supervisor.stop(sandbox)
        assert (await until(sandbox, "stopped")).note == ""

    run(life())


def test_a_sandbox_that_nobody_knows_is_ended(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = FakeBackend()
        stray = FakeRunning(backend, SandboxSpec("stray", "ada", "live", Path("/x"), None, {}, None))
        backend.adoptable["stray"] = stray
        (state.run / "stray.keeper").touch()
        supervisor = make_supervisor(state, registry, backend)
        await supervisor.begin()
        assert stray.end is not None
        assert stray.closed
        await supervisor.close()

    run(life())


def test_one_that_was_starting_becomes_ready_after_the_restart(state: State, registry: Registry) -> None:
    alive(registry, Status(state="starting", sandbox_id="b1"))

    async def life() -> None:
        backend = FakeBackend()
        backend.adoptable["b1"] = FakeRunning(backend, SandboxSpec("b1", "ada", "live", Path("/x"), None, {}, None))
        supervisor = make_supervisor(state, registry, backend)
        await supervisor.begin()
        sandbox = supervisor.seat("ada", "live")
        assert sandbox.status.state == "starting"
        assert (await until(sandbox, "ready")).phase == "ready"
        await supervisor.close()

    run(life())


def test_cancelling_while_the_backend_starts_leaves_nothing(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CANCEL_SECONDS", 0.05)

    async def life() -> None:
        backend = SlowSpawn()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await asyncio.sleep(0)
        supervisor.stop(sandbox)
        assert (await sandbox.settled(5)).state == "stopped"
        assert backend.spawned == []

    run(life())


def test_cancelling_before_it_is_ready_stops_it(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend, gateway = NeverReady(), FakeGateway()
        supervisor = make_supervisor(state, registry, backend, gateway)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        while not gateway.attached:
            await sandbox.watch.after(sandbox.watch.version, 0.01)
        supervisor.stop(sandbox)
        assert (await sandbox.settled(5)).state == "stopped"
        assert backend.spawned[0].closed
        assert gateway.attached == {}

    run(life())


def test_a_slow_stop_is_visible_and_a_start_has_to_wait(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = SlowStop()
        supervisor = make_supervisor(state, registry, backend)
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await sandbox.settled(5)
        supervisor.stop(sandbox)
        supervisor.stop(sandbox)
        assert (await sandbox.settled(0.05)).state == "stopping"
        assert stored(registry).state == "stopping"
        with pytest.raises(StartError) as caught:
            supervisor.start(sandbox)
        assert caught.value.reason == "stopping"
        backend.killed.set()
        assert (await sandbox.settled(5)).state == "stopped"
        assert backend.stops == [module.STOP_GRACE]

    run(life())


def test_stop_is_taken_in_every_state(state: State, registry: Registry) -> None:
    async def life() -> None:
        supervisor = make_supervisor(state, registry, BadExit())
        sandbox = supervisor.seat("ada", "live")
        supervisor.stop(sandbox)
        assert sandbox.status.state == "absent"
        supervisor.start(sandbox)
        await until(sandbox, "failed")
        supervisor.stop(sandbox)
        assert sandbox.status.state == "failed"

    run(life())


def test_a_storm_is_admitted_up_to_the_limit(state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choir.hypervisor.admission.admit.__defaults__", (2,))

    async def life() -> None:
        backend = SlowSpawn()
        supervisor = make_supervisor(state, registry, backend)
        for name in ("a", "b"):
            supervisor.start(supervisor.seat(name, "live"))
        with pytest.raises(StartError) as caught:
            supervisor.start(supervisor.seat("c", "live"))
        assert caught.value.reason == "too_many_starting"
        assert supervisor.seat("c", "live").status.state == "absent"
        backend.go.set()
        await supervisor.seat("a", "live").settled(5)
        await supervisor.seat("b", "live").settled(5)
        supervisor.start(supervisor.seat("c", "live"))
        await supervisor.close()

    run(life())


def test_a_gateway_that_came_back_is_given_the_listeners_again(state: State, registry: Registry) -> None:
    async def life() -> None:
        gateway = FakeGateway()
        supervisor = make_supervisor(state, registry, FakeBackend(), gateway)
        await supervisor.begin()
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        await sandbox.settled(5)
        gateway.restart()
        while not gateway.attached:
            await asyncio.sleep(0)
        assert list(gateway.attached) == [sandbox.status.sandbox_id]
        await supervisor.close()

    run(life())


def alive(registry: Registry, status: Status) -> None:
    registry.put_sandbox(SandboxRow("ada-live", "ada", "live", "ada-1", msgspec.json.encode(status).decode()))


def test_a_living_sandbox_is_adopted(state: State, registry: Registry) -> None:
    alive(registry, Status(state="ready", sandbox_id="b1"))

    async def life() -> None:
        backend, gateway = FakeBackend(), FakeGateway()
        spec = SandboxSpec("b1", "ada", "live", Path("/x"), None, {}, None)
        backend.adoptable["b1"] = FakeRunning(backend, spec)
        supervisor = make_supervisor(state, registry, backend, gateway)
        await supervisor.begin()
        sandbox = supervisor.seat("ada", "live")
        assert sandbox.status.state == "ready"
        while not gateway.attached:
            await asyncio.sleep(0)
        assert list(gateway.attached) == ["b1"]
        assert backend.spawned == []
        backend.adoptable["b1"].publish(exited(1))
        assert (await until(sandbox, "failed")).failure is not None
        await supervisor.close()

    run(life())


@pytest.mark.parametrize(
    ("before", "after"), [("ready", "failed"), ("starting", "failed"), ("stopping", "stopped"), ("stopped", "stopped")]
)
def test_what_died_meanwhile_is_cleaned_up(state: State, registry: Registry, before: Any, after: str) -> None:
    alive(registry, Status(state=before, sandbox_id="b1"))

    async def life() -> None:
        gateway = FakeGateway()
        gateway.attached["b1"] = ("ada", "live")  # it outlived the hypervisor
        supervisor = make_supervisor(state, registry, FakeBackend(), gateway)
        await supervisor.begin()
        assert supervisor.seat("ada", "live").status.state == after == stored(registry).state
        assert ("b1" in gateway.attached) == (before == "stopped")
        await supervisor.close()

    run(life())


def test_a_keeper_that_hung_is_the_stored_reason(state: State, registry: Registry) -> None:
    alive(registry, Status(state="ready", sandbox_id="b1"))

    class Hung(FakeBackend):
        async def adopt(self, keeper_socket: Path) -> FakeRunning:
            raise StartError("keeper_silent", "It did not answer.")

    async def life() -> None:
        supervisor = make_supervisor(state, registry, Hung())
        await supervisor.begin()
        failure = supervisor.seat("ada", "live").status.failure
        assert failure is not None
        assert failure.reason == "keeper_silent"
        await supervisor.close()

    run(life())


def test_a_full_disk_does_not_stop_what_happens(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def life() -> None:
        supervisor = make_supervisor(state, registry, FakeBackend())
        sandbox = supervisor.seat("ada", "live")

        def full(row: SandboxRow) -> None:
            raise StartError("no_space", "No space left.")

        monkeypatch.setattr(registry, "put_sandbox", full)
        supervisor.start(sandbox)
        assert (await sandbox.settled(5)).state == "ready"
        await supervisor.close()

    run(life())


def test_supervisor_closes_everything(state: State, registry: Registry) -> None:
    async def life() -> None:
        backend = FakeBackend()
        supervisor: Supervisor = make_supervisor(state, registry, backend)
        await supervisor.begin()
        boxes = [supervisor.seat(name, "live") for name in "abc"]
        for box in boxes:
            supervisor.start(box)
        await boxes[-1].settled(5)
        await supervisor.close()
        assert {box.status.state for box in boxes} == {"stopped"}
        assert all(running.closed for running in backend.spawned)

    run(life())
