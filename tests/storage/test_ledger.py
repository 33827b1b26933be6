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


def record(number: int, **fields: object) -> UsageRecord:
    values = {
        "ts": f"2026-01-01T00:00:{number:02}.000Z", "request_id": f"r{number}", "sandbox_id": "s", "user_id": "u",
        "provider": "p", "model": "m", "route": "POST /x", "status": 200, "outcome": "ok", "latency_ms": 1.5,
    } | fields  # fmt: skip
    return UsageRecord(**values)  # type: ignore[arg-type]


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
