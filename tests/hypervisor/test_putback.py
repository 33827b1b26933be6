from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from choir.errors import ChoirError
from choir.hypervisor import backup, putback
from choir.paths import HELD, State
from choir.storage.database import Database
from choir.storage.people import People
from choir.storage.registry import MIGRATIONS, Registry, SandboxRow

NEWEST = (*MIGRATIONS, "CREATE TABLE of_later (word TEXT NOT NULL) STRICT")


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A registry that a newer Choir migrated; ben came since."""
    state = State(tmp_path / "s").prepare()
    registry = Registry(state.registry)
    registry.ensure_user("ada", admin=True, now=0.0)
    registry.put_sandbox(SandboxRow("ada-live", "ada", "live", "ada-live", "{}"))
    registry.close()
    database = Database(state.registry, NEWEST)
    people = People(database)
    people.add_user("ben", False, 1.0)
    database.close()
    for home in ("ada-live", "ben-live", "run-1"):
        (state.homes / home).mkdir()
    return state


def copy(state: State, backup_file: Path | None = None) -> Path:
    found = putback.copy_of_before(state, len(MIGRATIONS), 0.0, backup_file)
    assert found is not None
    return found


def users(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [str(name) for (name,) in database.execute("SELECT name FROM users ORDER BY name")]


def test_nothing_happens_before_a_start(state: State) -> None:
    assert putback.release(state) is False
    putback.hold(state, copy(state))
    assert backup.apply_staged(state) is None
    assert users(state.registry) == ["ada", "ben"]
    assert stat.S_IMODE((state.root / HELD / "registry.db").stat().st_mode) == 0o600


def test_a_start_puts_it_back_and_keeps_the_rest_aside(state: State) -> None:
    putback.hold(state, copy(state))
    putback.hold(state, copy(state))  # of one that was killed meanwhile
    assert putback.release(state) is True
    aside = backup.apply_staged(state)
    assert aside is not None
    Registry(state.registry).close()  # this version reads it
    assert users(state.registry) == ["ada"]
    assert users(aside / "registry.db") == ["ada", "ben"]
    assert sorted(path.name for path in state.homes.iterdir()) == ["ada-live", "run-1"]
    assert [path.name for path in (aside / "homes").iterdir()] == ["ben-live"]
    assert not (state.root / HELD).exists()
    assert not list(state.root.glob("registry.db.v*-*"))


def test_what_would_go_is_named(state: State) -> None:
    lost = putback.lost(state.registry, copy(state))
    assert lost.users == ("ben",)
    assert "ben" in str(lost)
    (state.root / "other").touch()
    assert putback.lost(state.registry, state.root / "other").users is None


def test_a_backup_has_a_copy_too(state: State) -> None:
    with open(state.root / "b.tar", "wb") as file:
        backup.create(state, file)
    now = putback.copy_of_before(state, len(NEWEST), time.time() + 60, state.root / "b.tar")
    assert now is not None
    assert users(now) == ["ada", "ben"]
    assert putback.copy_of_before(state, len(MIGRATIONS), time.time() + 60, state.root / "b.tar") is None
    assert putback.copy_of_before(state, len(MIGRATIONS), time.time() + 60, state.root / "none.tar") is None


def test_what_cannot_be_put_back_stays_held(state: State) -> None:
    putback.hold(state, copy(state))
    (state.root / HELD / "registry.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(ChoirError) as caught:
        putback.release(state)
    assert caught.value.reason == "putback_failed"
    assert (state.root / HELD).is_dir()
    assert users(state.registry) == ["ada", "ben"]
