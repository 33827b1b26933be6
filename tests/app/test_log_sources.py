from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from choir import logs
from choir.app.log_sources import Files, Journal, files, seek
from choir.errors import ChoirError
from choir.paths import State


def line(number: int, at: float = 1795521600.0) -> str:
    text = logs.line("gateway", "info", "note", {"count": number})
    now = text.index('"ts": "') + 7
    return f"{text[:now]}{logs.timestamp(at + number)}{text[now + 24 :]}\n"


def numbers(source: Files, since: str = "") -> list[int]:
    return [int(found.fields["count"]) for found in source.read(since)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


def test_the_rotated_file_comes_first_and_what_is_appended_later(log: Path) -> None:
    log.with_name("gateway.log.1").write_text(line(1))
    log.write_text(line(2) + line(3)[:20])
    source = Files(log)
    assert numbers(source) == [1, 2]
    with log.open("a") as file:
        file.write(line(3)[20:] + line(4))
    assert numbers(source) == [3, 4]
    assert numbers(source) == []
    source.close()


def test_a_rotation_while_it_is_read(log: Path) -> None:
    log.write_text(line(1))
    source = Files(log)
    assert numbers(source) == [1]
    with log.open("a") as file:
        file.write(line(2))
    log.rename(log.with_name("gateway.log.1"))
    assert numbers(source) == [2]  # and the new one is not there yet
    log.write_text(line(3))
    assert numbers(source) == [3]
    log.write_text("")
    assert numbers(source) == []
    log.write_text(line(4))
    assert numbers(source) == [4]
    source.close()


def test_one_that_is_not_there(log: Path) -> None:
    source = Files(log)
    assert numbers(source) == []
    log.write_text(line(1))
    assert numbers(source) == [1]
    source.close()


def test_a_long_log_is_read_from_about_the_time_that_is_asked_for(log: Path) -> None:
    slow = line(-5000)  # a call that took long is written late, with the time it began
    log.write_text("".join(line(number) + (slow if number % 97 == 0 else "") for number in range(30_000)))
    since = logs.timestamp(1795521600.0 + 29_000)
    with log.open("rb") as file:
        seek(file, since)
        skipped = file.tell()
        assert file.readline().startswith(b"{")
    assert skipped > log.stat().st_size * 0.8
    source = Files(log)
    assert set(range(29_000, 30_000)) <= set(numbers(source, since))
    source.close()


def test_whose_file_it_is(tmp_path: Path) -> None:
    state = State(tmp_path).prepare()
    for folder in ("gateway", "model"):
        (tmp_path / folder / "logs").mkdir(parents=True)
    for name in ("logs/hypervisor.log", "logs/sandbox-ada-live.log.1", "model/logs/local-model.log", "logs/other.txt"):
        (tmp_path / name).write_text("x\n")
    found = files(state)
    assert [path.name for path in found] == ["hypervisor.log", "sandbox-ada-live.log", "local-model.log"]
    (entry,) = Files(found[1]).read()
    assert (entry.service, entry.sandbox, entry.event) == ("sandbox", "ada-live", "output")


JOURNALCTL = """\
#!/bin/sh
cd "$(dirname "$0")" && echo "$@" >>asked
case "$*" in
*fails*) echo "No journal files were opened." >&2; exit 1 ;;
*--after-cursor=c3*--follow*) cat later; exec sleep 60 ;;
*) cat entries ;;
esac
"""


def exported(cursor: str, at: int, unit: str, message: object) -> str:
    known = {"__CURSOR": cursor, "__REALTIME_TIMESTAMP": str(at), "_SYSTEMD_UNIT": unit, "MESSAGE": message}
    return json.dumps(known) + "\n"


@pytest.fixture
def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in; what it was asked is in the file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "journalctl").write_text(JOURNALCTL)
    (folder / "journalctl").chmod(0o755)
    (folder / "entries").write_text(
        exported("c1", 1795521600_100000, "choir.service", line(7, 1795521600.1 - 7).strip())
        + "nonsense\n"
        + exported("c2", 1795521601_500000, "init.scope", "Started choir.service.")
        + exported("c3", 1795521602_000000, "choir-gateway.service", list(b"h\xffi"))
    )
    (folder / "later").write_text(exported("c4", 1795521603_000000, "choir.service", "later"))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / "asked"


def test_systemds_journal(journalctl: Path) -> None:
    source = Journal(("choir.service", "choir-gateway.service"))
    found = list(source.read("2026-11-24T12:00:00.000Z"))
    assert [(each.service, each.event, each.at[17:]) for each in found] == [
        ("gateway", "note", "00.100Z"),  # as the line says itself
        ("systemd", "output", "01.500Z"),
        ("gateway", "output", "02.000Z"),
    ]
    assert found[2].fields["message"] == "h\ufffdi"
    asked = journalctl.read_text()
    assert "--unit=choir.service --unit=choir-gateway.service --since=@1795521600" in asked
    source.follow()
    deadline = time.monotonic() + 20
    later: list[object] = []
    while not later and time.monotonic() < deadline:
        later = [each.fields["message"] for each in source.read()]
        time.sleep(0.01)
    assert later == ["later"]
    source.close()


def test_a_journal_that_cannot_be_read(journalctl: Path) -> None:
    with pytest.raises(ChoirError) as caught:
        list(Journal(("fails.service",)).read())
    assert caught.value.reason == "journal_unreadable"
    assert "No journal files were opened." in caught.value.message
