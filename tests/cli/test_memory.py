"""What ``choir memory`` prints, and what it asks; a real memory is asked in ``tests/integration/test_memory.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from choir.app import memory as outside
from choir.cli.main import main
from choir.errors import ChoirError

ITEM = {
    "item_id": "01j0", "collection": "user_inputs", "source_ref": "", "thread": None, "created_at": 1.7e9,
    "content": "likes\n\x1b[31mgreen tea " + "x" * 300, "chunk_hash": "00",
}  # fmt: skip
EXPLAINED = {
    "item": ITEM,
    "relevance": 0.5,
    "shares": [
        {"term": "milk", "origin": "query", "idf": 1.0, "via": "01j1", "decay": 0.4, "share": 0.2},
        {"term": "tea", "origin": "query", "idf": 2.0, "via": None, "decay": 1.0, "share": 1.7},
    ],
    "factors": {"recency": 1.1},
    "ideal": 3.0,
    "missing": ["sugar"],
}
STATS = {
    "items": {"user_inputs": 1234}, "repeats": 5, "index_bytes": 1_000_000, "file_bytes": 2_500_000, "pending": 0,
    "notes": ["the index was made anew"],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked; the answers are fixed."""
    questions: list[Any] = []
    answers = {
        "search": [{"item": ITEM, "relevance": 0.75}], "context_snapshot": [], "explain": EXPLAINED, "forget": 2,
        "export": {"occurrences": 1}, "import": {"inserted": 1, "duplicates": 1}, "stats": STATS,
    }  # fmt: skip

    async def ask(_config: Any, _state: Any, home: Any, question: Any, lines: Any = (), each: Any = None) -> Any:
        questions.append((home.path.name, question, list(lines)))
        if each is not None:
            each(b'{"content": "x"}\n')
        return answers[question["op"]]

    monkeypatch.setattr(outside, "ask", ask)
    return questions


def run(tmp_path: Path, *words: str) -> int:
    (tmp_path / "project").mkdir(exist_ok=True)
    return main(["memory", words[0], "--state", str(tmp_path / "s"), "--run", str(tmp_path / "project"), *words[1:]])


def test_search(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "search", "--collection", "user_inputs", "-k", "3", "green", "tea") == 0
    assert asked[0][1] == {"op": "search", "body": {"collection": "user_inputs", "query": "green tea", "k": 3}}
    said = capsys.readouterr().out
    assert "0.75" in said
    assert "likes [31mgreen tea xxx" in said, "no control characters reach the terminal"
    assert "\x1b" not in said
    assert "…" in said
    assert run(tmp_path, "search", "tea") == 0
    assert asked[1][1]["body"] == {"query": "tea", "max_items": 10}
    assert capsys.readouterr().out == "Nothing found.\n"


def test_explain(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "explain", "01j0", "tea", "with", "milk") == 0
    assert asked[0][1]["body"] == {"item_id": "01j0", "query": "tea with milk"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["tea", "query", "2.00", "1.70", "the", "item", "itself"]
    assert lines[4].endswith("a neighbour (01j1), ×0.4")
    assert lines[5:] == ["× recency 1.100", "not found: sugar", "relevance 0.500, of an ideal score of 3.00"]


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["--id", "a", "b"], {"item_ids": ["a", "b"], "source_ref": None}),
        (["--source", "docs"], {"item_ids": None, "source_ref": "docs"}),
        (["--before", "2001-09-09T01:46:40+00:00"], {"item_ids": None, "source_ref": None, "before": 1e9}),
    ],
)
def test_forget(
    tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str], words: list[str], body: dict[str, Any]
) -> None:
    assert run(tmp_path, "forget", *words) == 0
    assert asked[0][1] == {"op": "forget", "body": body}
    assert capsys.readouterr().out == "Forgot 2 items.\n"


@pytest.mark.parametrize("words", [[], ["--id", "a", "--source", "b"], ["--id"]])
def test_one_thing_to_forget(tmp_path: Path, asked: list[Any], words: list[str]) -> None:
    assert run(tmp_path, "forget", *words) == 64
    assert asked == []


def test_export_and_import(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.jsonl"
    assert run(tmp_path, "export", "-o", str(file)) == 0
    assert file.read_text() == '{"content": "x"}\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(tmp_path, "import", str(file)) == 0
    assert asked[1][2] == [b'{"content": "x"}\n']
    assert capsys.readouterr().out.endswith("Took over 1 item; 1 line had known content.\n")
    assert run(tmp_path, "import", str(tmp_path / "gone")) == 1
    assert "No such file" in capsys.readouterr().err
    assert run(tmp_path, "export", "-o", str(tmp_path / "no" / "folder")) == 1


def test_stats(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "stats") == 0
    said = capsys.readouterr().out
    assert "1,234" in said
    assert "2.5 MB" in said
    assert "note: the index was made anew" in said
    assert run(tmp_path, "stats", "--json") == 0
    assert json.loads(capsys.readouterr().out) == STATS
    assert asked[0][0] == asked[1][0] != ""


def test_a_sandbox_that_is_not_there(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "stats", "--state", str(tmp_path / "s"), "--sandbox", "nobody/live"]) == 69
    assert "nobody/live" in capsys.readouterr().err
    assert asked == []


def test_a_folder_that_is_not_there(tmp_path: Path, asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["memory", "stats", "--state", str(tmp_path / "s"), "--run"]
    assert main([*words, str(tmp_path / "gone")]) == 69
    assert f"{tmp_path / 'gone'} is no folder" in capsys.readouterr().err
    assert asked == []
    assert list(tmp_path.iterdir()) == [], "nothing was made"


def test_what_was_remembered_in_a_folder_that_is_gone(tmp_path: Path, asked: list[Any]) -> None:
    assert run(tmp_path, "stats") == 0
    (tmp_path / "project").rmdir()
    assert main(["memory", "stats", "--state", str(tmp_path / "s"), "--run", str(tmp_path / "project")]) == 0
    assert asked[0] == asked[1]


def test_unix_time() -> None:
    assert outside.unix_time("2d", 1e9) == 1e9 - 2 * 86400
    assert outside.unix_time("90m", 1e9) == 1e9 - 5400
    assert outside.unix_time("2001-09-09T01:46:40Z") == 1e9
    for wrong in ("", "d", "yesterday", "-3d"):
        with pytest.raises(ChoirError) as caught:
            outside.unix_time(wrong)
        assert caught.value.reason == "bad_time"
