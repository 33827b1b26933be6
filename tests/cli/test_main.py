from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from choir.cli import client
from choir.cli import main as cli
from choir.cli.usage import HEADINGS, row, table
from choir.contract import UsageRecord

RECORD = UsageRecord(
    ts="2026-01-02T03:04:05.678Z",
    request_id="r",
    sandbox_id="01aaaaaaaaaaaaaaaaaaaaaaaa",
    user_id="ada",
    provider="local",
    model=None,
    route="POST /v1/chat/completions",
    status=200,
    outcome="ok",
    latency_ms=1234.5,
    output_tokens=0,
)


def test_unknown_is_a_dash_and_zero_is_zero() -> None:
    cells = dict(zip(HEADINGS, row(RECORD), strict=True))
    assert (cells["in"], cells["out"], cells["model"], cells["first"]) == ("-", "0", "-", "-")
    assert cells["time"] == "1,234 ms"


def test_refusals_that_were_counted_together_say_how_many() -> None:
    flood = msgspec.structs.replace(RECORD, status=429, outcome="refused:requests_per_minute", count=70)
    assert row(flood)[4] == "429 refused:requests_per_minute ×70"


def test_columns_line_up() -> None:
    lines = table(("a", "bb"), [("long", "x"), ("y", "z")]).splitlines()
    assert lines == ["a     bb", "long  x", "y     z"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["usage", "--limit", "x"],
        ["up", "--port"],
        ["up", "--port", "65536"],
        ["usage", "--limit", "0"],
        ["usage", "--by", "day", "--days", "0"],
        ["memory", "search", "-k", "0", "tea"],
        ["secrets", "check", "--env-file", "/nowhere/.env"],
    ],
)
def test_wrong_words(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 64
    said = capsys.readouterr().err
    assert "usage: choir" in said or "There is no file /nowhere/.env" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--"], "Nothing to run"),
        (["logs", "--since", "soon"], "`soon` is no time"),
        (["logs", "abc"], "`abc` could be many"),
        (["memory", "forget", "--run", ".", "--before", "soon"], "'soon' is no time"),
    ],
)
def test_words_that_say_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, *([] if words[0] == "run" else ["--state", str(tmp_path)])]) == 64
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--model", "--", "x"], ["--foo", "--", "x"], ["--agent", "--"], ["--model"]])
def test_wrong_options_of_run_are_said_with_its_own_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "run", lambda *_: pytest.fail("it ran"))
    assert cli.main(["run", *words]) == 64
    said = capsys.readouterr().err
    assert "usage: choir run [options] -- COMMAND" in said
    assert "COMMAND ..." in said
    assert words[0] in said


def test_options_of_the_command_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []

    def ran_as(_root: str, asked: dict[str, Any]) -> int:
        ran.append(asked["command"])
        return 0

    monkeypatch.setattr(client, "run", ran_as)
    for words in (["--", "x", "--foo"], ["x", "--foo", "--", "y"], ["--strict", "x", "--model"]):
        assert cli.main(["run", *words]) == 0
    assert ran == [["x", "--foo"], ["x", "--foo", "--", "y"], ["x", "--model"]]


def test_errors_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "choir.toml"
    path.write_text("x = [")
    assert cli.main(["config", "check", "--json", "--config", str(path)]) == 78
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["reason"] == "config_malformed"
    assert str(path) in captured.err


def test_usage_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["usage", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No calls yet.\n"
    assert cli.main(["usage", "--json", "--state", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_config_check_lists_providers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "choir.toml"
    path.write_text("[providers.ollama]\n")
    assert cli.main(["config", "check", "--config", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{path}: fine" in out
    assert "ollama" in out
    keys = {line.rindex("  key ") for line in out.splitlines() if "  key " in line}
    assert len(keys) == 1, "one column"
