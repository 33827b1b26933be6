from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from choir.app.notices import LOG, Notices
from choir.errors import ChoirError


def speak(notices: Notices) -> None:
    notices.say("warning", "service_ended", "the gateway ended (signal 9); again in 1 s", part="gateway", code=-9)
    notices.failed(
        "service_failed", ChoirError("port_in_use", "Taken.", "Choose another."), "the gateway did not start: "
    )


def entries(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


WANTED = [
    ("warning", "service_ended", None, "the gateway ended (signal 9); again in 1 s"),
    ("error", "service_failed", "port_in_use", "the gateway did not start: Taken. Choose another."),
]


def known(found: list[dict[str, object]]) -> list[tuple[object, ...]]:
    assert {each["service"] for each in found} == {"supervisor"}
    return [tuple(each.get(name) for name in ("level", "event", "reason", "message")) for each in found]


def test_without_a_terminal_there_are_lines_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    speak(Notices(tmp_path))
    found = entries(capfd.readouterr().err)
    assert known(found) == WANTED
    assert (found[0]["part"], found[0]["code"]) == ("gateway", -9)
    assert list(tmp_path.iterdir()) == []


def test_at_a_terminal_a_person_gets_words_and_the_file_lines(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal, open(ours, "rb"):
        monkeypatch.setattr("sys.stdout", terminal)
        speak(Notices(tmp_path))
        monkeypatch.undo()
    assert capfd.readouterr().err == (
        "choir: the gateway ended (signal 9); again in 1 s\nchoir: the gateway did not start: Taken. Choose another.\n"
    )
    assert known(entries((tmp_path / LOG).read_text())) == WANTED
    assert os.stat(tmp_path / LOG).st_mode & 0o777 == 0o600


def test_one_command_of_a_person_gets_words_alone(capfd: pytest.CaptureFixture[str]) -> None:
    speak(Notices(None))
    assert capfd.readouterr().err.startswith("choir: the gateway ended")
