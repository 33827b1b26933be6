"""What the soak counts can be wrong, and is seen then."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.soak import run
from bench.soak.deployment import weigh

from choir.contract import UsageRecord
from choir.storage.ledger import Ledger


class Here:
    state_root = Path("/nowhere")


def soak() -> run.Soak:
    return run.Soak(argparse.Namespace(seed=1, minutes=1.0), Here(), None)  # type: ignore[arg-type]


def flat(memory: list[float], descriptors: list[int]) -> list[str]:
    here: Any = soak()
    here.samples = [
        (quarter, "gateway", int(each * 1e6), number)
        for quarter, (each, number) in enumerate(zip(memory, descriptors, strict=True))
    ]
    return list(here.flat()[1])


def test_flat_is_flat() -> None:
    assert flat([10, 20, 20, 21], [10, 40, 40, 41]) == []
    assert flat([10, 20, 30, 40], [10, 40, 40, 40]) == ["gateway memory"]
    assert flat([10, 20, 20, 20], [10, 40, 60, 80]) == ["gateway descriptors"]


def test_records_are_those_of_the_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    record = UsageRecord(
        ts="2026-01-01T00:00:00.000Z",
        request_id="01a",
        sandbox_id="01b",
        user_id="ada",
        provider="soak",
        model="m",
        route="GET /models",
        status=200,
        outcome="ok",
        latency_ms=1.0,
    )
    ledger.append([record])
    ledger.close()
    assert run.records(tmp_path / "usage.db") == {"01a": "ok"}


def test_leaks_are_found(tmp_path: Path) -> None:
    (tmp_path / "s/logs").mkdir(parents=True)
    (tmp_path / "up.log").write_text("nothing")
    assert run.leaks(tmp_path, "the-key") == []
    (tmp_path / "s/logs/gateway.log").write_text("with the-key in it")
    (tmp_path / "up.log").write_text("choir-gt-01a.abcdefgh12.abcdefghijklmnopqrstuvwxyz")
    assert run.leaks(tmp_path, "the-key") == ["up.log", "gateway.log"]


def test_a_process_has_a_weight() -> None:
    memory, descriptors = weigh(os.getpid())
    assert memory > 1e6
    assert descriptors > 2
    assert weigh(2**22 - 1) == (0, 0)
