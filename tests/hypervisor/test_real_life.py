"""Lives of real sandboxes under the real supervisor: stop with escalation, cancel at any moment, kept files."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from choir.channel import connect
from choir.hypervisor import life, standby
from choir.hypervisor.idle import IdleStop
from choir.hypervisor.maintenance import Maintenance
from choir.hypervisor.sandbox import Sandbox
from choir.hypervisor.supervisor import Supervisor
from choir.hypervisor.usage_feed import UsageFeed
from choir.hypervisor.workspace import Workspaces
from choir.isolation import tree
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec
from choir.isolation.held import HeldSandbox
from choir.isolation.running import KeptSandbox
from choir.paths import State
from choir.storage.registry import Registry

from .fakes import make_supervisor
from .orphans import Family

Test = Callable[[Supervisor, Maintenance], Coroutine[Any, Any, None]]


class Runs(BubblewrapBackend):
    """Sandboxes in which a command runs in the desktop's place."""

    def __init__(self, run: Path, *command: str) -> None:
        super().__init__(run)
        self.command = command

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> KeptSandbox:
        return await super().start(spec._replace(command=self.command), stdio)


@pytest.fixture
def family() -> Iterator[Family]:
    with Family() as family:
        yield family


def run(state: State, registry: Registry, backend: BubblewrapBackend, test: Test, warm: int = 0) -> None:
    async def main() -> None:
        supervisor = make_supervisor(state, registry, backend, warm=warm)
        await supervisor.begin()
        try:
            await test(supervisor, Maintenance(supervisor, Workspaces(state, keep=3)))
        finally:
            await supervisor.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_one_that_ignores_the_request_is_killed(
    state: State, registry: Registry, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "STOP_GRACE", 0.3)
    stubborn = "trap 'echo heard' TERM; echo deaf; while :; do sleep 0.05; done"

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        log = supervisor.records.log_path(sandbox)
        while "deaf" not in log.read_text():
            await asyncio.sleep(0.01)
        supervisor.stop(sandbox)
        assert sandbox.status.state == "stopping"
        status = await sandbox.settled(20)
        assert (status.state, status.note) == (
            "stopped",
            "It did not end within 0.3 s of being asked to, so it was killed.",
        )
        assert "heard" in log.read_text()
        family.assert_nobody()

    run(state, registry, Runs(state.run, "bash", "-c", stubborn), test)


def test_one_that_ends_when_asked_is_not_killed(state: State, registry: Registry, family: Family) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        supervisor.stop(sandbox)
        status = await sandbox.settled(20)
        assert (status.state, status.note) == ("stopped", "")
        family.assert_nobody()

    run(state, registry, BubblewrapBackend(state.run), test)


def test_cancelling_at_any_moment_leaves_nobody(state: State, registry: Registry, family: Family) -> None:
    moments = random.Random(4)

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        seen = set()
        for wait in [0.0, *(moments.uniform(0.0, 0.6) for _ in range(11))]:
            supervisor.start(sandbox)
            await asyncio.sleep(wait)
            seen.add(sandbox.status.phase)
            supervisor.stop(sandbox)
            assert (await sandbox.settled(20)).state == "stopped"
            await sandbox.ended()
            family.assert_nobody()
            assert list(state.run.glob("*.keeper")) == []
        assert len(seen) > 1

    run(state, registry, BubblewrapBackend(state.run), test)


def test_a_snapshot_of_one_that_writes_all_the_time_is_of_one_moment(
    state: State, registry: Registry, family: Family
) -> None:
    """Two files are always changed in the same order: a copy in which the later is ahead was not of one moment."""
    writer = (
        "import os, sqlite3\n"
        "db = sqlite3.connect('db')\ndb.execute('PRAGMA journal_mode = WAL')\ndb.execute('CREATE TABLE t (n)')\n"
        "n = 0\nwhile True:\n    n += 1\n    db.execute('INSERT INTO t VALUES (?)', (n,))\n    db.commit()\n"
        "    for name in ('zz-first', 'aa-second'):\n"
        "        open('new', 'w').write(str(n)); os.replace('new', name)\n"
        "    if n == 100: print('going', flush=True)\n"
    )

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        while "going" not in supervisor.records.log_path(sandbox).read_text():
            await asyncio.sleep(0.01)
        for number in range(3):
            taken = await maintenance.snapshot(sandbox)
            copy = state.root / f"copy{number}"
            copy.mkdir()
            subprocess.run(["tar", "xf", taken.path, "-C", copy], check=True)
            first, second = (int((copy / name).read_text()) for name in ("zz-first", "aa-second"))
            assert 0 <= first - second <= 1
            with sqlite3.connect(copy / "db") as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                (count,) = db.execute("SELECT COUNT(*) FROM t").fetchone()
            db.close()
            assert 0 <= count - first <= 1
        assert sandbox.status.state == "ready"
        before = supervisor.records.home_path(sandbox) / "zz-first"
        seen = before.read_text()
        while before.read_text() == seen:  # it goes on
            await asyncio.sleep(0.01)

    run(state, registry, Runs(state.run, "python3", "-c", writer), test)


def test_a_swap_and_a_restore_are_seen_inside(state: State, registry: Registry, family: Family) -> None:
    show = 'echo "$CHOIR_SANDBOX_ROLE sees $(cat notes) of $(stat -c %u notes) as $(id -u)"; sleep 1000'

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        live, dev = supervisor.seat("ada", "live"), supervisor.seat("ada", "dev")
        for sandbox in (live, dev):
            home = supervisor.records.home_path(sandbox)
            home.mkdir(mode=0o700)
            (home / "notes").write_text(f"{sandbox.role}-notes")
            uid = supervisor.records.host_uid(sandbox)
            if uid is not None:
                for path in (home, home / "notes"):
                    os.chown(path, uid, uid)
        taken = await maintenance.snapshot(live)
        for sandbox in (live, dev):
            supervisor.start(sandbox)
            assert (await sandbox.settled(20)).state == "ready"
            await said(sandbox, f"{sandbox.role} sees {sandbox.role}-notes")
        await maintenance.swap("ada")
        await said(live, "live sees dev-notes")
        await said(dev, "dev sees live-notes")
        await maintenance.restore(live, taken.name)
        await said(live, "live sees live-notes")
        for line in supervisor.records.log_path(live).read_text().splitlines():
            of, as_ = line.split(" of ")[1].split(" as ")
            assert of == as_

        # Nobody else's process: what the two may do to each other's files is up to the kernel.

    async def said(sandbox: Any, words: str) -> None:
        assert (await sandbox.settled(20)).state == "ready"
        log = state.logs / f"sandbox-{sandbox.label}.log"
        while words not in log.read_text():
            await asyncio.sleep(0.01)

    run(state, registry, Runs(state.run, "bash", "-c", show), test)


def test_a_credential_is_set_aside_and_it_starts(state: State, registry: Registry, family: Family) -> None:
    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        home = supervisor.records.home_path(sandbox)
        home.mkdir(mode=0o700)
        (home / ".npmrc").write_text("//registry/:_authToken=" + os.urandom(20).hex())
        uid = supervisor.records.host_uid(sandbox)
        if uid is not None:
            for path in (home, home / ".npmrc"):
                os.chown(path, uid, uid)
        supervisor.start(sandbox)
        status = await sandbox.settled(20)
        assert status.failure is not None
        assert (status.failure.reason, status.failure.file) == ("credential_in_file", ".npmrc")
        moved = await maintenance.set_aside(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        assert not (home / ".npmrc").exists()
        assert moved.stat().st_uid == os.geteuid()

    run(state, registry, BubblewrapBackend(state.run), test)


def test_a_keeper_that_nobody_knows_is_ended(state: State, registry: Registry, family: Family) -> None:
    async def before() -> None:
        backend = BubblewrapBackend(state.run)
        supervisor = make_supervisor(state, registry, backend)
        spec = await supervisor._lives.spec(supervisor.seat("ada", "live"), "stray")
        running = await backend.start(spec)
        await running.wait_ready()
        running.close()

    asyncio.run(asyncio.wait_for(before(), 20))
    connect(str(state.run / "stray.keeper")).close()

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        family.assert_nobody()

    run(state, registry, BubblewrapBackend(state.run), test)


@pytest.mark.parametrize("busy", [False, True])
def test_an_idle_desktop_is_stopped_and_a_busy_sandbox_is_not(
    state: State, registry: Registry, family: Family, busy: bool
) -> None:
    backend = Runs(state.run, "bash", "-c", "while :; do :; done") if busy else BubblewrapBackend(state.run)

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        idle = IdleStop(supervisor, UsageFeed(supervisor.leases.gateway), 2.0)
        if not busy:
            running = asyncio.create_task(idle.run())
            while sandbox.status.state == "ready":
                await sandbox.watch.after(sandbox.watch.version, None)
            assert (await sandbox.settled(20)).note == "It was stopped after 2 seconds without work."
            running.cancel()
            return
        for _ in range(4):
            await idle.look()
            await asyncio.sleep(1.0)
        assert sandbox.status.state == "ready"

    run(state, registry, backend, test)


# From what stood ready.


async def stands_ready(supervisor: Supervisor, sandbox: Sandbox) -> HeldSandbox:
    while sandbox not in supervisor.standby:
        await asyncio.sleep(0.01)
    held = supervisor.standby._slots[sandbox.label].prepared
    assert isinstance(held, HeldSandbox)
    return held


def test_one_that_stood_ready_serves_its_person(
    state: State, registry: Registry, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "CALM", 0.0)

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        held = await stands_ready(supervisor, sandbox)  # a person who was never here
        home = supervisor.records.home_path(sandbox)
        (home / "before").write_text("from the host")
        first = (await maintenance.snapshot(sandbox)).name  # while it is held
        pids = (held.keeper_pid, held.pid)
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        assert sandbox.running is not None
        assert (sandbox.running.keeper_pid, sandbox.running.pid) == pids
        assert sandbox.status.sandbox_id == held.sandbox_id
        assert [each.phase for each in sandbox.status.phases][-1] == "ready"
        assert sandbox.running.desktop is not None
        reader, writer = await asyncio.open_unix_connection(sandbox.running.desktop)
        writer.write(b"GET /api/files/list?path= HTTP/1.1\r\nHost: desktop\r\nConnection: close\r\n\r\n")
        assert b"before" in await reader.read()
        writer.close()
        supervisor.stop(sandbox)
        await sandbox.ended()
        # A restore puts another folder at the home's place.
        held = await stands_ready(supervisor, sandbox)
        (home / "before").write_text("changed")
        await maintenance.restore(sandbox, first)
        assert held.poll() is not None
        await stands_ready(supervisor, sandbox)
        assert (home / "before").read_text() == "from the host"
        supervisor.start(sandbox)
        assert (await sandbox.settled(20)).state == "ready"
        assert sandbox.running.desktop is not None
        folder = os.open(f"/proc/{tree.pids(sandbox.running.pid)[-1]}/cwd", os.O_PATH)
        assert os.stat(folder).st_ino == home.stat().st_ino
        os.close(folder)

    run(state, registry, BubblewrapBackend(state.run), test, warm=1)
    family.assert_nobody()


@pytest.mark.parametrize("victim", ["keeper", "launcher", "first"])
def test_one_that_was_killed_while_it_stood_ready_is_not_missed(
    state: State, registry: Registry, family: Family, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    monkeypatch.setattr(standby, "CALM", 0.0)

    async def test(supervisor: Supervisor, maintenance: Maintenance) -> None:
        sandbox = supervisor.seat("ada", "live")
        held = await stands_ready(supervisor, sandbox)
        pid = {"keeper": held.keeper_pid, "launcher": held.pid, "first": tree.pids(held.pid)[-1]}[victim]
        os.kill(pid, 9)
        supervisor.start(sandbox)  # before anybody has noticed
        status = await sandbox.settled(20)
        assert (status.state, status.failure) == ("ready", None)
        assert sandbox.running is not None
        assert sandbox.running.keeper_pid != held.keeper_pid
        family.assert_nobody(sandbox.running.keeper_pid)
        assert [path.stem for path in state.run.glob("*.keeper")] == [status.sandbox_id]

    run(state, registry, BubblewrapBackend(state.run), test, warm=1)
    family.assert_nobody()
