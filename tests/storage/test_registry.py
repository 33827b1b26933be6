from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.errors import StartError
from choir.storage.registry import (
    HOST_UID_BASE,
    HOST_UID_LIMIT,
    Registry,
    SandboxRow,
    first_free_uid,
    subordinate_ranges,
)


def test_a_host_uid_is_kept_for_ever(tmp_path: Path) -> None:
    first = Registry(tmp_path / "r.db")
    uid = first.host_uid("ada/live")
    assert uid >= HOST_UID_BASE
    assert first.host_uid("eve/live") != uid
    first.close()
    again = Registry(tmp_path / "r.db")
    assert again.host_uid("ada/live") == uid
    again.close()


def test_host_uids_are_not_given_twice_at_once(tmp_path: Path) -> None:
    given_out: list[int] = []

    def ask(name: str) -> None:
        registry = Registry(tmp_path / "r.db")
        given_out.extend(registry.host_uid(f"{name}{number}") for number in range(10))
        registry.close()

    Registry(tmp_path / "r.db").close()
    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given_out)) == 40


def test_subordinate_ranges(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("ada:100000:65536\n# comment\nbroken\neve:1900000000:10\nx:y:z\n")
    assert subordinate_ranges(str(file)) == [range(100000, 165536), range(1900000000, 1900000010)]
    assert subordinate_ranges(str(tmp_path / "none")) == []


@given(
    st.sets(st.integers(HOST_UID_BASE, HOST_UID_BASE + 30)),
    st.lists(st.tuples(st.integers(HOST_UID_BASE - 5, HOST_UID_BASE + 30), st.integers(0, 9))),
)
def test_the_first_free_uid_is_free_and_first(taken: set[int], spans: list[tuple[int, int]]) -> None:
    excluded = [range(start, start + length) for start, length in spans]
    uid = first_free_uid(taken, excluded)

    def free(candidate: int) -> bool:
        return candidate not in taken and not any(candidate in ids for ids in excluded)

    assert free(uid)
    assert not any(free(candidate) for candidate in range(HOST_UID_BASE, uid))


def test_no_uid_left() -> None:
    with pytest.raises(StartError) as caught:
        first_free_uid(set(), [range(0, HOST_UID_LIMIT)])
    assert caught.value.reason == "no_free_uid"


def test_sandboxes_are_kept(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.db")
    registry.put_sandbox(SandboxRow("a", "ada", "live", "h", "1"))
    registry.put_sandbox(SandboxRow("a", "ada", "live", "h", "2"))
    assert registry.sandboxes() == [SandboxRow("a", "ada", "live", "h", "2")]
    registry.close()


def test_homes_are_exchanged_for_both_or_neither(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.db")
    registry.put_sandbox(SandboxRow("a", "ada", "live", "one", "1"))
    registry.put_sandbox(SandboxRow("b", "ada", "dev", "two", "2"))

    def homes() -> dict[str, str]:
        again = Registry(tmp_path / "r.db")
        found = {row.label: row.home for row in again.sandboxes()}
        again.close()
        return found

    registry.exchange_homes("a", "b")
    assert homes() == {"a": "two", "b": "one"}
    registry.put_sandbox(SandboxRow("a", "ada", "live", "stale", "3"))  # a status never moves a home
    assert homes() == {"a": "two", "b": "one"}
    registry._db.execute(
        "CREATE TRIGGER fails BEFORE UPDATE OF home ON sandboxes WHEN OLD.label = 'b' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(StartError):
        registry.exchange_homes("a", "b")
    assert homes() == {"a": "two", "b": "one"}
    registry.close()


def test_a_broken_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StartError) as caught:
        Registry(tmp_path / "r.db")
    assert caught.value.reason == "registry_unusable"


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path / "r.db")
    registry._db.execute("PRAGMA max_page_count = 1")

    def fill() -> None:
        for number in range(10_000):
            registry.put_sandbox(SandboxRow(str(number), str(number), "live", "h", "x" * 10_000))

    with pytest.raises(StartError) as caught:
        fill()
    assert caught.value.reason == "no_space"
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    registry.close()


def test_a_registry_of_another_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    Registry(path).close()
    Registry(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StartError) as caught:
        Registry(path)
    assert caught.value.reason == "registry_version"
