from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from choir.errors import ChoirError, StartError
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.records import Records
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.workspace import Workspaces
from choir.paths import State
from choir.storage.registry import Registry

from .fakes import FakeBackend, FakeRunning, SlowStop, exited, make_supervisor


class BlamesFile(FakeBackend):
    """Refuses to start while ``.env`` is in the home."""

    async def becomes_ready(self, running: FakeRunning) -> None:
        if (self.specs[-1].home / ".env").exists():
            message = "The file /home/choir/.env holds a credential."
            running.publish(exited(77, reason="credential_in_file", message=message))
        else:
            await super().becomes_ready(running)


def run(
    state: State,
    registry: Registry,
    backend: FakeBackend,
    test: Callable[[Supervisor, Maintenance], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        supervisor = make_supervisor(state, registry, backend)
        await supervisor.begin()
        await test(supervisor, Maintenance(supervisor, Workspaces(state, keep=3)))
        await supervisor.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_restart(state: State, registry: Registry) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        ids = set()
        for _ in range(3):  # the first time it is not there yet
            await maintenance.restart(sandbox)
            assert (await sandbox.settled(5)).state == "ready"
            ids.add(sandbox.status.sandbox_id)
        assert len(ids) == 3

    run(state, registry, FakeBackend(), test)


@pytest.mark.parametrize("running", [(), ("dev",), ("live",), ("live", "dev")])
def test_swap_exchanges_the_homes_and_starts_what_ran(
    state: State, registry: Registry, running: tuple[Any, ...]
) -> None:
    backend = FakeBackend()

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        seats = {role: supervisor.seat("ada", role) for role in ("live", "dev")}  # type: ignore[arg-type]
        labels = {role: seat.label for role, seat in seats.items()}
        homes = {role: seat.home for role, seat in seats.items()}
        uids = {role: supervisor.records.host_uid(seat) for role, seat in seats.items()}
        for role in running:
            supervisor.start(seats[role])
            await seats[role].settled(5)
        await maintenance.swap("ada")
        for seat in seats.values():
            await seat.settled(5)
        assert {role for role, seat in seats.items() if seat.status.state == "ready"} == set(running)
        assert {role: seat.home for role, seat in seats.items()} == {"live": homes["dev"], "dev": homes["live"]}
        assert {role: seat.label for role, seat in seats.items()} == labels
        for spec in backend.specs[len(running) :]:
            other = "dev" if spec.role == "live" else "live"
            assert spec.home == state.homes / homes[other]
            assert spec.host_uid == uids[other]
        later = Records(state, registry)  # as after a restart
        assert {each.role: each.home for each in later.load()} == {"live": homes["dev"], "dev": homes["live"]}
        await maintenance.swap("ada")
        assert {role: seat.home for role, seat in seats.items()} == homes

    run(state, registry, backend, test)


def test_a_swap_that_cannot_be_written_down_changes_nothing(
    state: State, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        live = supervisor.seat("ada", "live")
        home = live.home
        supervisor.start(live)
        await live.settled(5)

        def full(*_: str) -> None:
            raise StartError("no_space", "No space left.")

        monkeypatch.setattr(registry, "exchange_homes", full)
        with pytest.raises(StartError):
            await maintenance.swap("ada")
        assert live.home == home
        assert (await live.settled(5)).state == "ready"

    run(state, registry, FakeBackend(), test)


def test_one_operation_at_a_time_and_no_start_meanwhile(state: State, registry: Registry) -> None:
    backend = SlowStop()

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        live = supervisor.seat("ada", "live")
        supervisor.start(live)
        await live.settled(5)
        swapping = asyncio.create_task(maintenance.swap("ada"))
        while not live.occupied:
            await asyncio.sleep(0)
        operations = [maintenance.swap("ada"), maintenance.restart(live), maintenance.snapshot(live)]
        for operation in operations:
            with pytest.raises(StartError) as caught:
                await operation
            assert caught.value.reason == "busy"
            assert caught.value.message == "Live and dev are being swapped."
        with pytest.raises(StartError):
            supervisor.start(supervisor.seat("ada", "dev"))
        backend.killed.set()
        await swapping
        assert (await live.settled(5)).state == "ready"
        assert not live.occupied

    run(state, registry, backend, test)


def test_snapshot_and_restore(state: State, registry: Registry) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        live, dev = supervisor.seat("ada", "live"), supervisor.seat("ada", "dev")
        with pytest.raises(ChoirError) as caught:
            await maintenance.snapshot(live)
        assert caught.value.reason == "no_home"
        supervisor.start(live)
        await live.settled(5)
        notes = supervisor.records.home_path(live) / "notes"
        notes.write_text("first")
        taken = await maintenance.snapshot(live)
        assert live.status.state == "ready"
        notes.write_text("second")
        before = await maintenance.restore(live, taken.name)
        assert (await live.settled(5)).state == "ready"
        assert notes.read_text() == "first"
        await maintenance.restore(live, before.name)
        assert notes.read_text() == "second"
        await maintenance.restore(dev, taken.name, "live")
        assert (supervisor.records.home_path(dev) / "notes").read_text() == "first"
        assert dev.status.state == "absent"
        assert supervisor.records.home_path(dev).stat().st_uid == (
            supervisor.records.host_uid(dev) or notes.stat().st_uid
        )
        with pytest.raises(ChoirError) as caught:
            await maintenance.restore(dev, before.name)
        assert caught.value.reason == "unknown_snapshot"

    run(state, registry, FakeBackend(), test)


def test_the_file_to_blame_is_set_aside(state: State, registry: Registry) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        live = supervisor.seat("ada", "live")
        with pytest.raises(ChoirError) as caught:
            await maintenance.set_aside(live)
        assert caught.value.reason == "no_file"
        home = supervisor.records.home_path(live)
        home.mkdir()
        (home / ".env").touch()
        supervisor.start(live)
        status = await live.settled(5)
        assert status.failure is not None
        assert status.failure.file == ".env"
        moved = await maintenance.set_aside(live)
        assert moved.exists()
        assert (await live.settled(5)).state == "ready"

    run(state, registry, BlamesFile(), test)
