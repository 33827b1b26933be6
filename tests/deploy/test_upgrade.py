"""The order of an upgrade: on a real installation, journal, state folder and registry, with services that are none.

Version 0.1.0 reads the registry's first two formats, 0.2.0 the third, too.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from choir import installation as installations
from choir.deploy import journal as journals
from choir.deploy.journal import Deployment, Journal, Schema
from choir.deploy.machine import Machine
from choir.deploy.upgrade import Upgrade
from choir.deploy.wheel import Wheel
from choir.errors import ChoirError, StartError
from choir.hypervisor import backup, putback
from choir.installation import Installation
from choir.paths import State
from choir.storage.database import Database
from choir.storage.registry import MIGRATIONS

OLD, NEW = "0.1.0", "0.2.0"
NEWEST = (*MIGRATIONS, "CREATE TABLE of_later (word TEXT NOT NULL) STRICT")
FORMATS = {OLD: len(MIGRATIONS), NEW: len(NEWEST)}


@dataclass
class World:
    """An installation with one deployment that runs: its means, and what they are to do."""

    root: Path
    migrates: bool = True
    bad: frozenset[str] = frozenset()
    """What verify says of the new version."""
    unstartable: bool = False
    stopped: bool = False
    said: list[tuple[str, str]] = field(default_factory=list)
    restarted: list[str] = field(default_factory=list)

    @property
    def installation(self) -> Installation:
        return Installation(self.root / "opt")

    @property
    def state(self) -> State:
        return State(self.root / "state")

    @property
    def deployment(self) -> Deployment:
        return Deployment(str(self.state.root), up=True)

    @property
    def machine(self) -> Machine:
        return Machine(self.installation, self.deployment)

    # What ``Upgrade`` asks for.

    def make(self, wheel: Wheel) -> None:
        folder = self.installation.environment(wheel.version) / "bin"
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "python").touch()
        (folder.parent / "choir-wheel.json").touch()

    def rehearse(self, version: str, deeply: bool = True) -> Schema:
        if (self.installation.environment(version) / "refuses").exists():
            raise ChoirError("config_invalid", "It does not take the configuration.")
        return Schema(FORMATS[version] if self.migrates else FORMATS[OLD], 2)

    def backup(self) -> Path | None:
        return self.machine.backup()

    def runs(self) -> bool:
        return not self.stopped

    def restart(self, version: str) -> None:
        assert version == self.installation.in_force()
        if version == NEW and self.unstartable:
            self.stopped = True
        self.start()
        if self.stopped:
            raise StartError("up_ended", "It ended.")
        self.restarted.append(version)

    def failing(self) -> frozenset[str]:
        return frozenset({"as ever"}) | (self.bad if self.installation.in_force() == NEW else frozenset())

    def tidy(self, keep: set[str], versions: set[str], backup: str | None) -> list[str]:
        return self.machine.tidy(keep, versions, backup)

    # What the machine does.

    def start(self) -> None:
        """As ``choir up`` of the version in force: take over what is held, then what is staged, migrate, and write."""
        version = self.installation.in_force()
        putback.release(self.state)
        backup.apply_staged(self.state)
        database = self.open(version)
        with database.durable() as db:
            db.execute("INSERT OR IGNORE INTO users VALUES (?, 0, 0)", (f"of-{version}",))
        database.close()

    def open(self, version: str) -> Database:
        return Database(self.state.registry, NEWEST if self.migrates and version == NEW else MIGRATIONS)

    def users(self) -> set[str]:
        database = self.open(self.installation.in_force())
        try:
            return {name for (name,) in database.connection.execute("SELECT name FROM users")}
        finally:
            database.close()

    def do(self, act: Callable[[Upgrade], object], told: Callable[[str, str], None] | None = None) -> object:
        journal = Journal(self.installation)
        with journal.held():
            own = Schema(FORMATS[OLD], 2)
            return act(Upgrade(self.installation, journal, self, own, told or (lambda *said: self.said.append(said))))

    def upgrade(self) -> object:
        return self.do(lambda upgrade: upgrade.upgrade(WHEEL))

    def rollback(self, give_up: bool = False) -> object:
        return self.do(lambda upgrade: upgrade.rollback(give_up))

    @property
    def record(self) -> journals.Record:
        return journals.read(self.installation.journal)


WHEEL = Wheel(Path(f"choir-{NEW}-py3-none-any.whl"), NEW, ">=3.11", (), "ab", None)


def made(root: Path) -> World:
    world = World(root)
    (world.installation.environment(OLD) / "bin").mkdir(parents=True)
    (world.installation.environment(OLD) / "bin/python").touch()
    world.installation.link.symlink_to(f"versions/{OLD}")
    world.state.prepare()
    world.start()
    return world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    # A killed process loses nothing that was written; these are for power cuts, and slow on a busy machine.
    for name in ("sync", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: None)
    return made(tmp_path)


def reason(act: Callable[[], object]) -> ChoirError:
    with pytest.raises(ChoirError) as caught:
        act()
    return caught.value


def test_forward(world: World) -> None:
    world.upgrade()
    assert world.installation.in_force() == NEW
    assert world.restarted == [NEW]
    assert world.record.under_way is None
    assert world.record.last is not None
    assert (world.record.last.old, world.record.last.new) == (OLD, NEW)
    assert world.record.last.backup is not None
    with open(world.record.last.backup, "rb") as file:
        assert backup.stage(State(world.root / "other").prepare(), file).choir
    assert [step for step, words in world.said if words] == [
        *("verify", "install", "rehearse", "backup", "switch", "restart", "verify"),
    ]
    assert "as ever" in world.said[-1][1]


def test_the_version_before_the_last_and_its_backup_go(world: World) -> None:
    world.migrates = False
    world.upgrade()
    first = world.record.last
    assert first is not None
    FORMATS["0.3.0"] = FORMATS[NEW]
    try:
        third = Wheel(Path("choir-0.3.0-py3-none-any.whl"), "0.3.0", "", (), "cd", None)
        world.do(lambda upgrade: upgrade.upgrade(third))
    finally:
        del FORMATS["0.3.0"]
    assert sorted(path.name for path in world.installation.versions.iterdir()) == [NEW, "0.3.0"]
    assert world.record.last is not None
    assert [str(path) for path in (world.state.root / "backups").iterdir()] == [world.record.last.backup]
    assert world.record.last.backup != first.backup


@pytest.mark.parametrize("step", ["make", "rehearse", "backup"])
def test_before_the_switch_a_failure_changes_nothing(world: World, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise ChoirError("no", "It does not work.")

    monkeypatch.setattr(world, step, fail)
    assert reason(world.upgrade).reason == "no"
    assert world.installation.in_force() == OLD
    assert world.restarted == []
    assert world.record == journals.Record()
    assert [path.name for path in world.installation.versions.iterdir()] == [OLD]


@pytest.mark.parametrize("migrates", [True, False])
def test_a_version_that_does_not_hold_is_gone_back_from(world: World, migrates: bool) -> None:
    world.migrates = migrates
    world.bad = frozenset({"seccomp"})
    error = reason(world.upgrade)
    assert error.reason == "upgrade_reverted"
    assert "seccomp" in error.message
    assert "as ever" not in error.message
    assert world.restarted == [NEW, OLD]
    assert world.installation.in_force() == OLD
    assert world.record == journals.Record()
    # What the newer wrote stays where the older can read it, else it is kept aside.
    kept = list(world.state.root.glob("replaced-*/registry.db"))
    assert (f"of-{NEW}" in world.users()) is not migrates
    assert len(kept) == migrates
    assert ("replaced-*" in error.message) is migrates


def test_one_that_does_not_start_too_and_what_ended_is_said(world: World) -> None:
    world.unstartable = True
    error = reason(world.upgrade)
    assert error.reason == "upgrade_reverted"
    assert "It ended." in error.message
    assert "start it again" in error.hint
    assert world.users() == {f"of-{OLD}"}  # put back already: nothing has it open
    world.stopped = False
    world.start()
    assert world.users() == {f"of-{OLD}"}


def test_when_the_old_one_does_not_start_either_the_next_run_tries_again(world: World) -> None:
    world.bad = frozenset({"seccomp"})
    real = world.restart

    def broken(version: str) -> None:
        if version == OLD:
            raise StartError("service_failed", "Not today.")
        real(version)

    world.restart = broken  # type: ignore[method-assign]
    assert reason(world.upgrade).reason == "revert_incomplete"
    assert world.installation.in_force() == OLD
    assert world.record.under_way is not None
    world.restart = real  # type: ignore[method-assign]
    assert reason(lambda: world.do(lambda upgrade: upgrade.resume())).reason == "upgrade_reverted"
    assert world.users() == {f"of-{OLD}"}


def test_back_with_the_data_as_it_is(world: World) -> None:
    world.migrates = False
    world.upgrade()
    world.rollback()
    assert world.installation.in_force() == OLD
    assert world.users() == {f"of-{OLD}", f"of-{NEW}"}
    assert list(world.state.root.glob("replaced-*")) == []
    assert world.record == journals.Record()
    assert reason(world.rollback).reason == "nothing_to_roll_back"


def test_back_over_a_migration_takes_a_word(world: World) -> None:
    world.upgrade()
    (world.state.homes / "of-somebody-new").mkdir()
    (world.state.homes / "run-project").mkdir()
    error = reason(world.rollback)
    assert error.reason == "data_newer"
    assert f"of-{NEW}" in error.message  # whose account would go
    assert world.installation.in_force() == NEW
    assert world.users() == {f"of-{OLD}", f"of-{NEW}"}
    world.rollback(give_up=True)
    assert world.installation.in_force() == OLD
    assert world.users() == {f"of-{OLD}"}
    (aside,) = world.state.root.glob("replaced-*")
    assert putback.version(aside / "registry.db", still=True) == FORMATS[NEW]
    assert [path.name for path in (aside / "homes").iterdir()] == ["of-somebody-new"]
    assert [path.name for path in world.state.homes.iterdir()] == ["run-project"]


def test_without_the_copy_of_the_migration_the_backup_has_one(world: World) -> None:
    world.upgrade()
    for copy in world.state.root.glob("registry.db.v*"):
        copy.unlink()
    world.rollback(give_up=True)
    assert world.users() == {f"of-{OLD}"}


def test_without_any_copy_nothing_is_touched(world: World) -> None:
    world.upgrade()
    for copy in [*world.state.root.glob("registry.db.v*"), *world.state.root.glob("backups/*")]:
        copy.unlink()
    assert reason(lambda: world.rollback(give_up=True)).reason == "no_copy"
    assert world.installation.in_force() == NEW


def test_a_copy_of_another_upgrade_is_not_taken(world: World) -> None:
    world.upgrade()
    (copy,) = world.state.root.glob("registry.db.v*")
    os.utime(copy, (1, 1))
    assert world.record.last is not None
    found = putback.copy_of_before(world.state, FORMATS[OLD], world.record.last.began, None)
    assert found is None


def test_back_to_what_does_not_hold_is_said(world: World) -> None:
    world.migrates = False
    world.upgrade()
    world.failing = lambda: frozenset({"as ever", "and more"})  # type: ignore[method-assign]
    error = reason(world.rollback)
    assert (error.reason, world.installation.in_force()) == ("rollback_unverified", OLD)
    assert "and more" in error.message
    assert "as ever" not in error.message


def test_only_one_at_a_time(world: World) -> None:
    with Journal(world.installation).held():
        assert reason(world.upgrade).reason == "upgrade_running"


def test_a_damaged_journal_stops_everything(world: World) -> None:
    world.installation.journal.write_text("{")
    assert reason(world.upgrade).reason == "journal_damaged"
    assert world.installation.in_force() == OLD


# ---------------------------------------------------------------------- kill -9 at each step


class Killer:
    """Counts the places where something is about to change, and kills this process at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def __call__(self) -> None:
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def before_and_after(self, owner: object, name: str) -> None:
        real = getattr(owner, name)

        def killing(*arguments: object, **named: object) -> object:
            self()
            result = real(*arguments, **named)
            self()
            return result

        setattr(owner, name, killing)


def arm(world: World, killer: Killer) -> None:
    for owner, name in (
        *((world, each) for each in ("make", "rehearse", "backup", "restart", "failing", "tidy")),
        *((os, each) for each in ("rename", "symlink", "replace", "unlink", "mkdir")),
        (shutil, "rmtree"),
        (installations, "sync_folder"),
        (putback, "hold"),
        (putback, "release"),
        (putback, "at_once"),
        (backup, "apply_staged"),
    ):
        killer.before_and_after(owner, name)


def upgraded(world: World) -> None:
    world.upgrade()


def gone_back_from(world: World) -> None:
    world.bad = frozenset({"seccomp"})
    with pytest.raises(ChoirError):
        world.upgrade()


def ended(world: World) -> None:
    world.unstartable = True
    with pytest.raises(ChoirError):
        world.upgrade()


def rolled_back(world: World) -> None:
    world.rollback(give_up=True)


def in_a_child(world: World, act: Callable[[World], None], at: int) -> int:
    """Run ``act`` in a process that is killed at the ``at``-th place. The number of places, 0 when it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        killer = Killer(at)
        arm(world, killer)
        try:
            act(world)
        except BaseException:
            os._exit(3)
        os.write(writer, str(killer.count).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return int(said or 0)


@pytest.mark.parametrize("act", [upgraded, gone_back_from, ended, rolled_back])
@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.long)])
def test_a_kill_at_any_moment_leaves_one_version_whole(
    tmp_path: Path, act: Callable[[World], None], stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sync", "fsync"):
        monkeypatch.setattr(os, name, lambda *_: None)
    pristine = made(tmp_path / "pristine")
    if act is rolled_back:
        pristine.upgrade()
    at = killed = 0
    while True:
        root = tmp_path / "world"
        shutil.copytree(pristine.root, root, symlinks=True)
        if pristine.installation.journal.exists():  # it names the state folder
            text = pristine.installation.journal.read_text().replace(str(pristine.root), str(root))
            (root / "opt/upgrade.json").write_text(text)
        world = World(root)
        if in_a_child(world, act, at):
            break
        killed += 1
        check_after_a_kill(world, act, at)
        shutil.rmtree(root)
        at += stride
    assert killed > 40 / stride


def check_after_a_kill(world: World, act: Callable[[World], None], at: int) -> None:
    where = f"{act.__name__}, killed at place {at}"
    version = world.installation.in_force()
    assert version in (OLD, NEW), where
    assert (world.installation.environment(version) / "bin/python").exists(), where
    # The next run, of a fresh process, ends it one way or the other ...
    if act is gone_back_from:
        world.bad = frozenset({"seccomp"})
    if act is ended:
        world.unstartable = True
    reasons = set()
    try:
        world.do(lambda upgrade: upgrade.resume())
    except ChoirError as error:
        reasons.add(error.reason)
    assert reasons <= {"upgrade_reverted"}, where
    assert world.record.under_way is None, where
    left = {path.name for path in world.installation.prefix.iterdir()}
    assert left <= {"current", "versions", "upgrade.json", "upgrade.lock"}, where
    # ... and the version in force reads its data, with all that was there before.
    version = world.installation.in_force()
    if act in (gone_back_from, ended):
        assert version == OLD, where
    assert (world.installation.environment(version) / "bin/python").exists(), where
    world.start()
    users = world.users()
    assert f"of-{OLD}" in users, where
    if version == OLD and f"of-{NEW}" not in users and act is rolled_back:
        assert list(world.state.root.glob("replaced-*/registry.db")), where
