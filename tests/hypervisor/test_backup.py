from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import tarfile
from pathlib import Path

import pytest

from choir.errors import ChoirError
from choir.hypervisor import backup
from choir.paths import State
from choir.storage.ledger import Ledger
from choir.storage.people import People
from choir.storage.registry import MIGRATIONS, Registry, SandboxRow
from tests.hypervisor.people.test_admin_site import record


def deployment(root: Path, user: str, text: str) -> State:
    """With one user, whose home has one file, and one call."""
    state = State(root).prepare()
    with contextlib.closing(Registry(state.registry)) as registry:
        People(registry.database).add_user(user, True, 1.0)
        registry.put_sandbox(SandboxRow(f"{user}-live", user, "live", f"{user}-1", "{}"))
        if os.geteuid() == 0:
            registry.host_uid(f"{user}-1")
    home = state.homes / f"{user}-1"
    (home / "deep").mkdir(parents=True)
    (home / "deep/notes").write_text(text)
    (home / "link").symlink_to("/etc/passwd")
    ledger = Ledger(state.ledger)
    ledger.append([record(user, "gpt", 0.5)])
    ledger.close()
    return state


def made(state: State) -> bytes:
    out = io.BytesIO()
    backup.create(state, out)
    return out.getvalue()


def users(state: State) -> list[str]:
    with contextlib.closing(Registry(state.registry)) as registry:
        return [user.name for user in People(registry.database).users()]


def test_there_and_back_on_another_machine(tmp_path: Path) -> None:
    data = made(deployment(tmp_path / "one", "ada", "hers"))
    other = deployment(tmp_path / "two", "ben", "his")
    (other.homes / "run-project").mkdir()
    backup.stage(other, io.BytesIO(data))
    assert users(other) == ["ben"]  # not before it is applied
    old = backup.apply_staged(other)
    assert old is not None
    assert users(other) == ["ada"]
    home = other.homes / "ada-1"
    assert (home / "deep/notes").read_text() == "hers"
    assert os.readlink(home / "link") == "/etc/passwd"
    if os.geteuid() == 0:
        assert home.stat().st_uid == (home / "deep/notes").stat().st_uid >= 1_900_000_000
    assert not (other.homes / "ben-1").exists()
    assert (old / "homes/ben-1/deep/notes").read_text() == "his"
    assert (old / "registry.db").exists()
    assert (other.homes / "run-project").is_dir()
    assert {each.user_id for each in Ledger(other.ledger).query()} == {"ada", "ben"}
    assert backup.apply_staged(other) is None
    assert not (other.root / "restore").exists()


def test_while_it_is_written_to(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    with contextlib.closing(Registry(state.registry)) as registry:  # open, with a write-ahead log
        People(registry.database).add_user("late", False, 2.0)
        data = made(state)
    other = State(tmp_path / "two").prepare()
    backup.stage(other, io.BytesIO(data))
    backup.apply_staged(other)
    assert users(other) == ["ada", "late"]


def test_usage_is_added_once(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    data = made(state)
    for _ in range(2):
        backup.stage(state, io.BytesIO(data))
        backup.apply_staged(state)
    assert len(Ledger(state.ledger).query()) == 1


@pytest.mark.parametrize("at", [0, 700, -20_000])
def test_a_torn_backup_changes_nothing(tmp_path: Path, at: int) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    data = made(state)
    with pytest.raises(ChoirError) as caught:
        backup.stage(state, io.BytesIO(data[:at]))
    assert caught.value.reason == "backup_broken"
    assert not (state.root / "restore").exists()
    assert sorted(path.name for path in state.root.iterdir() if path.name.startswith(".")) == []


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "what she wrote")
    data = made(state).replace(b"what she wrote", b"what he  wrote")
    with pytest.raises(ChoirError) as caught:
        backup.stage(state, io.BytesIO(data))
    assert caught.value.reason == "backup_broken"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "homes/../x.tar", "homes/a/b.tar", "extra", "homes/..tar"])
def test_a_member_that_no_backup_has(tmp_path: Path, name: str) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ChoirError) as caught:
        backup.stage(state, io.BytesIO(out.getvalue()))
    assert caught.value.reason == "backup_broken"
    assert not (tmp_path / "evil").exists()


def test_interrupted_anywhere_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(deployment(tmp_path / "one", "ada", "hers"))
    real = os.rename
    for limit in range(20):
        state = deployment(tmp_path / f"two-{limit}", "ben", "his")
        backup.stage(state, io.BytesIO(data))
        left = limit

        def fails(source: object, target: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(source, target)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "rename", fails)
        with contextlib.suppress(KeyboardInterrupt):
            backup.apply_staged(state)
            assert limit > 3
        monkeypatch.setattr(os, "rename", real)
        backup.apply_staged(state)
        assert users(state) == ["ada"]
        assert (state.homes / "ada-1/deep/notes").read_text() == "hers"
        assert not (state.homes / "ben-1").exists()
        (old,) = state.root.glob("replaced-*")
        assert (old / "homes/ben-1/deep/notes").read_text() == "his"


@pytest.mark.parametrize("first", ["plan.json", "homes"])
def test_killed_while_it_removes_what_was_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    state = deployment(tmp_path / "one", "ada", "hers")
    backup.stage(state, io.BytesIO(made(state)))
    _dies_removing(monkeypatch, first)
    with contextlib.suppress(KeyboardInterrupt):
        backup.apply_staged(state)
    monkeypatch.undo()
    backup.apply_staged(state)
    assert (state.homes / "ada-1/deep/notes").read_text() == "hers"  # and not put aside


def test_killed_while_it_removes_what_was_staged_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(deployment(tmp_path / "one", "ada", "hers"))
    state = deployment(tmp_path / "two", "ben", "his")
    backup.stage(state, io.BytesIO(data))
    _dies_removing(monkeypatch, "registry.db")
    with contextlib.suppress(KeyboardInterrupt):
        backup.stage(state, io.BytesIO(data))
    monkeypatch.undo()
    backup.apply_staged(state)
    assert users(state) == [path.name.removesuffix("-1") for path in state.homes.iterdir()]  # both old, or both new


def _dies_removing(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """As a kill in the middle of it; the order in a folder is any."""

    def dies(path: Path, ignore_errors: bool = False) -> None:
        found = path / first
        if not found.exists():
            return
        os.unlink(found) if found.is_file() else real(found)
        raise KeyboardInterrupt

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", dies)


def test_what_a_killed_one_left_goes_with_the_next(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    (state.root / ".backup-x1").write_bytes(b"a copy of the registry")
    for name in (".restore-partial/homes/ada-1", ".discarded-restore-1/homes"):
        (state.root / name).mkdir(parents=True)
    made(state)
    assert [path.name for path in state.root.iterdir() if path.name.startswith(".")] == []


def test_one_at_a_time(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    data = made(state)

    class Meanwhile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            with pytest.raises(ChoirError) as caught:
                backup.stage(state, io.BytesIO(data))
            assert caught.value.reason == "backup_busy"
            return super().read(size)

    backup.stage(state, Meanwhile(data))
    backup.apply_staged(state)
    assert users(state) == ["ada"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another account")
def test_usage_of_a_gateway_under_an_account_of_its_own_stays_its_own(tmp_path: Path) -> None:
    data = made(deployment(tmp_path / "one", "ada", "x"))
    state = State(tmp_path / "two").prepare()
    (state.root / "gateway").mkdir()
    os.chown(state.root / "gateway", 12345, 12346)
    backup.stage(state, io.BytesIO(data))
    for path in (state.root / "gateway").iterdir():
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
    assert len(Ledger(state.ledger).query()) == 1


def test_of_a_newer_choir(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    with contextlib.closing(sqlite3.connect(state.registry)) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other = deployment(tmp_path / "two", "ben", "his")
    with pytest.raises(ChoirError) as caught:
        backup.stage(other, io.BytesIO(made(state)))
    assert caught.value.reason == "backup_newer"
    assert not (other.root / "restore").exists()


def test_a_home_that_goes_and_a_person_who_comes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    (state.homes / "run-short").mkdir()
    real = backup.copy_database

    def meanwhile(path: Path, copy: Path) -> None:
        real(path, copy)
        with contextlib.suppress(FileNotFoundError):
            (state.homes / "run-short").rmdir()
        (state.homes / "late-1").mkdir(exist_ok=True)

    monkeypatch.setattr(backup, "copy_database", meanwhile)
    with tarfile.open(fileobj=io.BytesIO(made(state))) as archive:
        assert [name for name in archive.getnames() if name.startswith("homes/")] == ["homes/ada-1.tar"]


def test_many_homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "_BLOCK", 256)  # as 10,000 homes with one of a megabyte
    state = deployment(tmp_path / "one", "ada", "x")
    for number in range(9):
        (state.homes / f"run-{number}").mkdir()
    manifest = backup.stage(state, io.BytesIO(made(state)))
    assert len(manifest.sha256) == 12


def test_a_damaged_database_is_not_kept_as_good(tmp_path: Path) -> None:
    state = deployment(tmp_path / "one", "ada", "x")
    with contextlib.closing(sqlite3.connect(state.registry)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(state.registry.read_bytes())
    content[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    state.registry.write_bytes(content)
    with pytest.raises(ChoirError):
        backup.stage(State(tmp_path / "two").prepare(), io.BytesIO(made(state)))


def test_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(ChoirError) as caught:
        made(State(tmp_path / "none").prepare())
    assert caught.value.reason == "nothing_to_back_up"
