from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
import time
from pathlib import Path

import pytest

from choir.contract import UsageRecord
from choir.gateway import usage
from choir.gateway.journal import Journal
from choir.gateway.usage import Recorder, RequestIds, Timestamps
from choir.storage.ledger import Ledger
from tests.records import usage_record


def record(number: int, **fields: object) -> UsageRecord:
    return usage_record(**{"request_id": f"r{number:06}"} | fields)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "usage.journal")


def test_request_ids_are_ulids_in_order() -> None:
    ids = RequestIds()
    made = [ids.new(1_700_000_000 + n / 1_000_000) for n in range(5000)]
    assert len(set(made)) == 5000
    assert {len(text) for text in made} == {26}
    assert set("".join(made)) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    assert made[0][:10] <= made[-1][:10]
    assert ids.new(1_700_000_000.0)[:10] == made[0][:10]
    other = RequestIds().new(1_700_000_000.0)
    assert other[10:22] != made[0][10:22]


def test_timestamps() -> None:
    times = Timestamps()
    assert times.format(0.0) == "1970-01-01T00:00:00.000Z"
    assert times.format(1_700_000_000.9876) == "2023-11-14T22:13:20.987Z"
    assert times.format(1_700_000_001.0) == "2023-11-14T22:13:21.000Z"


def test_journal_replays_whole_lines_only(journal: Journal) -> None:
    for n in range(3):
        assert journal.append(usage._encode(record(n)) + b"\n")
    with journal.path.open("ab") as file:
        file.write(b'{"ts":"cut')
    assert list(journal.replay()) == [record(n) for n in range(3)]
    journal.discard()
    assert list(journal.replay()) == []


def test_journal_rotates_only_when_the_old_file_is_gone(journal: Journal) -> None:
    journal.append(usage._encode(record(1)) + b"\n")
    assert journal.rotate()
    journal.append(usage._encode(record(2)) + b"\n")
    assert not journal.rotate()
    assert [r.request_id for r in journal.replay()] == ["r000001", "r000002"]
    journal.drop_old()
    assert [r.request_id for r in journal.replay()] == ["r000002"]
    journal.close()


def test_a_write_that_fails_leaves_no_half_line(journal: Journal) -> None:
    line = usage._encode(record(1)) + b"\n"
    assert journal.append(line)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) + 10, hard))
    try:
        assert not journal.append(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.path.read_bytes() == line
    assert journal.append(line)
    journal.close()


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_old_records_are_forgotten(journal: Journal, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    old = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 33 * 86400))
    new = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 30 * 86400))
    ledger.append([*(record(n, ts=old) for n in range(12_000)), record(20_000, ts=new)])
    recorder = Recorder(journal, ledger, print)
    recorder.start()
    recorder.record([record(20_001, ts=old)])  # kept for ever, as long as nothing is said
    recorder.stop()
    assert len(ledger.query(limit=20_000)) == 12_002
    recorder = Recorder(journal, ledger, print)
    recorder.keep_days = 32
    recorder.start()
    recorder.record([record(20_002, ts=new)])
    recorder.stop()
    assert {each.request_id for each in ledger.query()} == {"r020000", "r020002"}


def test_recorder(journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    ledger = Ledger(tmp_path / "usage.db")
    recorder = Recorder(journal, ledger, log.append)
    recorder.start()
    for n in range(5000):
        recorder.record([record(n)])
    recorder.stop()
    assert len(ledger.query(limit=10_000)) == 5000
    assert len(capfd.readouterr().out.splitlines()) == 5000
    assert not journal.path.exists()
    assert log == []


def test_a_journal_left_behind_is_replayed_once(journal: Journal, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    for n in range(10):
        journal.append(usage._encode(record(n)) + b"\n")
    ledger.append([record(n) for n in range(4)])  # the process died between ledger and journal
    journal.close()
    recorder = Recorder(Journal(journal.path), ledger, print)
    recorder.start()
    recorder.stop()
    assert len(ledger.query()) == 10


def test_records_wait_while_the_ledger_is_locked(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choir.storage.ledger._BUSY_SECONDS", 0.01)
    monkeypatch.setattr(usage, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(usage, "MAX_WAITING", 50)
    log: list[str] = []
    ledger = Ledger(tmp_path / "usage.db")
    recorder = Recorder(journal, ledger, log.append)
    recorder.start()
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        for n in range(200):
            recorder.record([record(n)])
            assert recorder.accepting, "the journal holds what memory does not"
        wait_until(lambda: log)
        blocker.execute("COMMIT")
    wait_until(lambda: len(ledger.query(limit=1000)) == 200)
    recorder.stop()
    assert len(ledger.query(limit=1000)) == 200
    assert len(log) == 2


def test_when_nothing_can_be_stored_no_call_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "MAX_WAITING", 10)
    log: list[str] = []
    nowhere = tmp_path / "none"
    recorder = Recorder(Journal(nowhere / "usage.journal"), Ledger(nowhere / "usage.db"), log.append)
    recorder.start()
    assert recorder.accepting
    for n in range(10):
        recorder.record([record(n)])
    assert not recorder.accepting
    nowhere.mkdir()
    wait_until(lambda: recorder.accepting)
    recorder.record([record(10)])
    recorder.stop()
    assert len(Ledger(nowhere / "usage.db").query()) == 11
    assert sum("cannot be written" in line for line in log) == 1


def test_the_journal_is_rotated_once_the_ledger_has_it(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "ROTATE_AT", 2000)
    ledger = Ledger(tmp_path / "usage.db")
    recorder = Recorder(journal, ledger, print)
    recorder.start()
    for n in range(400):
        recorder.record([record(n)])
        if n % 50 == 0:
            wait_until(lambda n=n: len(ledger.query(limit=1000)) > n)
    assert journal.size < 60_000
    assert os.path.exists(journal.old)
    recorder.stop()
    assert len(ledger.query(limit=1000)) == 400
