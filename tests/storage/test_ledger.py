from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from choir.contract import UsageRecord
from choir.storage.ledger import Ledger, Totals
from tests.records import usage_record


def record(number: int, **fields: object) -> UsageRecord:
    own = {"ts": f"2026-01-01T00:00:{number:02}.000Z", "request_id": f"r{number}", "model": "m", "route": "POST /x"}
    return usage_record(**own | {"latency_ms": 1.5} | fields)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "usage.db")


def test_a_missing_ledger_is_empty_and_reading_makes_none(ledger: Ledger) -> None:
    assert ledger.query() == []
    assert ledger.totals() == []
    assert not ledger.path.exists()


def test_keeps_records_as_they_were(ledger: Ledger) -> None:
    full = record(
        1, ttft_ms=0.5, input_tokens=1, output_tokens=2, cached_tokens=0, cost_usd=0.25, bytes_in=3, bytes_out=4
    )
    sparse = record(2, model=None)
    ledger.append([full, sparse])
    assert ledger.query() == [sparse, full]
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    ledger.close()


def test_a_request_is_recorded_once(ledger: Ledger) -> None:
    ledger.append([record(1), record(1, status=500), record(2)])
    ledger.append([record(2), record(3)])
    assert [r.request_id for r in ledger.query()] == ["r3", "r2", "r1"]
    assert ledger.query()[-1].status == 200
    ledger.append([])
    ledger.close()


def test_many_at_once(ledger: Ledger) -> None:
    ledger.append([record(n % 60, request_id=f"r{n}") for n in range(1234)])
    assert len(ledger.query(limit=5000)) == 1234
    ledger.close()


def test_query(ledger: Ledger) -> None:
    ledger.append([record(n, sandbox_id=f"s{n % 2}", user_id=f"u{n % 3}") for n in range(12)])
    assert [r.request_id for r in ledger.query(limit=2)] == ["r11", "r10"]
    assert [r.request_id for r in ledger.query(since="2026-01-01T00:00:10.000Z")] == ["r11", "r10"]
    assert {r.sandbox_id for r in ledger.query(sandbox_id="s1")} == {"s1"}
    assert [r.request_id for r in ledger.query(sandbox_id="s1", user_id="u1")] == ["r7", "r1"]
    ledger.close()


def test_totals_keep_the_unknown_unknown(ledger: Ledger) -> None:
    ledger.append(
        [
            record(1, input_tokens=5, output_tokens=1, bytes_in=10),
            record(2, input_tokens=7, outcome="cut", bytes_out=3),
            record(3, model=None, outcome="refused:x"),
        ]
    )
    assert ledger.totals() == [
        Totals(
            user_id="u", provider="p", model="m", calls=2, failed=1, input_tokens=12, output_tokens=1,
            cached_tokens=None, cost_usd=None, bytes_in=10, bytes_out=3,
        ),
        Totals(
            user_id="u", provider="p", model=None, calls=1, failed=1, input_tokens=None, output_tokens=None,
            cached_tokens=None, cost_usd=None, bytes_in=0, bytes_out=0,
        ),
    ]  # fmt: skip
    assert ledger.totals(since="2026-01-01T00:00:03.000Z")[0].calls == 1
    assert ledger.totals(user_id="nobody") == []
    ledger.close()


def test_another_process_reads_while_this_one_writes(ledger: Ledger) -> None:
    code = (
        "import sys; from pathlib import Path; from choir.storage.ledger import Ledger;"
        "print(len(Ledger(Path(sys.argv[1])).query()))"
    )
    for n in range(1, 4):
        ledger.append([record(n)])
        out = subprocess.run(
            [sys.executable, "-c", code, ledger.path], capture_output=True, check=True, text=True
        ).stdout
        assert int(out) == n
    ledger.close()


def test_a_locked_ledger_takes_nothing_and_recovers(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("choir.storage.ledger._BUSY_SECONDS", 0.01)
    ledger.append([record(1)])
    with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            ledger.append([record(2), record(3)])
        blocker.execute("COMMIT")
    assert len(ledger.query()) == 1
    ledger.append([record(2)])
    assert len(ledger.query()) == 2
    ledger.close()


def test_a_broken_file_is_an_error_not_an_empty_ledger(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(sqlite3.DatabaseError):
        Ledger(path).query()
    with pytest.raises(sqlite3.DatabaseError):
        Ledger(path).append([record(1)])


def test_what_was_spent(ledger: Ledger) -> None:
    assert ledger.spent("2026-01-31") == []
    ledger.append(
        [
            record(1, ts="2025-12-31T23:59:59.999Z", cost_usd=1.0),
            record(2, ts="2026-01-01T00:00:00.000Z", cost_usd=0.25),
            record(3, ts="2026-01-31T00:00:00.000Z", cost_usd=0.5),
            record(4, ts="2026-01-31T00:00:00.000Z", cost_usd=None),
            record(5, ts="2026-01-30T00:00:00.000Z", cost_usd=2.0, user_id="v"),
            record(6, ts="2026-01-30T00:00:00.000Z", user_id="w"),
        ]
    )
    assert sorted(ledger.spent("2026-01-31")) == [("u", 0.5, 0.75), ("v", 0.0, 2.0)]
    ledger.close()


OLD = """CREATE TABLE usage (seq INTEGER PRIMARY KEY, ts TEXT NOT NULL, request_id TEXT NOT NULL,
sandbox_id TEXT NOT NULL, user_id TEXT NOT NULL, provider TEXT NOT NULL, model TEXT, route TEXT NOT NULL,
status INTEGER NOT NULL, outcome TEXT NOT NULL, latency_ms REAL NOT NULL, ttft_ms REAL, bytes_in INTEGER NOT NULL,
bytes_out INTEGER NOT NULL, input_tokens INTEGER, output_tokens INTEGER, cached_tokens INTEGER, cost_usd REAL)"""
OLD_ROW = """INSERT INTO usage (ts, request_id, sandbox_id, user_id, provider, model, route, status, outcome,
latency_ms, bytes_in, bytes_out)
VALUES ('2026-01-01T00:00:00.000Z', ?, 's', 'u', 'p', 'm', 'POST /x', 200, 'ok', 1.5, 0, 0)"""


def test_a_ledger_of_the_first_version_is_read_and_taken_over(ledger: Ledger) -> None:
    with contextlib.closing(sqlite3.connect(ledger.path)) as old:
        old.execute(OLD)
        old.execute(OLD_ROW, ["r0"])
        old.commit()
        assert ledger.query() == [record(0)], "before anyone wrote to it"
        assert ledger.totals()[0].calls == 1
        ledger.append([record(1, outcome="refused:x", count=7)])
        assert ledger.query() == [record(1, outcome="refused:x", count=7), record(0)]
        old.execute(OLD_ROW, ["after a rollback"])
        old.commit()
    assert [r.count for r in ledger.query()] == [7, 1, 1]
    assert (ledger.totals()[0].calls, ledger.totals()[0].failed) == (9, 7)
    ledger.close()
    ledger.append([record(3)])
    assert len(ledger.query()) == 4
    ledger.close()
