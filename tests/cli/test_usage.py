from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest

from choir.cli import main as cli
from choir.ids import new_id
from choir.storage.ledger import Ledger
from tests.records import usage_record


@pytest.fixture
def state(tmp_path: Path) -> str:
    """With two calls of ada today and one of ben long ago."""
    now = time.time()
    ledger = Ledger(tmp_path / "usage.db")
    calls = [("ada", "gpt", now, 0.5), ("ada", "gpt", now, None), ("ben", "gpt", now - 40 * 86400, 1.0)]
    ledger.append(
        usage_record(
            ts=time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at)),
            request_id=new_id(),
            sandbox_id=new_id(),
            user_id=user,
            provider="openai",
            model=model,
            route="POST /chat/completions",
            input_tokens=1000,
            cost_usd=cost,
        )
        for user, model, at, cost in calls
    )
    ledger.close()
    return str(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["usage", *arguments]) == 0
    return capsys.readouterr().out


def test_by_user(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    heading, *rows = said(capsys, "--by", "user", "--state", state).splitlines()
    assert heading.split() == ["user", "calls", "failed", "in", "out", "cached", "USD"]
    assert rows[0].split() == ["ada", "2", "0", "2,000", "0", "0", "0.5000+"]
    assert rows[1:] == ["+: and calls whose price is not known (see [prices] in choir.toml)"]
    heading, *rows = said(capsys, "--by", "user", "--user", "ben", "--days", "60", "--state", state).splitlines()
    assert rows[0].endswith("1.0000")
    assert len(rows) == 1


def test_as_data(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    (today, before) = json.loads(said(capsys, "--by", "day", "--days", "60", "--json", "--state", state))
    assert (today["calls"], before["calls"], before["cost_usd"]) == (2, 1, 1.0)
    rows = list(csv.DictReader(io.StringIO(said(capsys, "--csv", "--days", "60", "--user", "ben", "--state", state))))
    assert [(row["user"], row["model"], row["calls"]) for row in rows] == [("ben", "gpt", "1")]
    assert said(capsys, "--by", "model", "--csv", "--state", state).startswith("model,calls,")
