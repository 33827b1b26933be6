from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.agent import shell
from choir.sandbox.agent.shell import Bounded

# In a process of its own, as a run is: what is below it is the command's alone.
_RUN = """
import asyncio, json, os, sys, time
from choir.sandbox.agent import shell, tree

async def show(text):
    shown.append(text)

tree.become_subreaper()
shown = []
told = asyncio.run(shell.run(sys.argv[1], sys.argv[2], float(sys.argv[3]), show))
patience = time.monotonic() + 5
while (left := len(tree.descendants(os.getpid()))) != int(sys.argv[4]) and time.monotonic() < patience:
    time.sleep(0.01)
print(json.dumps([told, "".join(shown), left]), flush=True)
tree.kill_below(os.getpid())
"""


def run(command: str, cwd: Path, seconds: float = 30.0, leaves: int = 0) -> tuple[str, str]:
    """What it told and what it showed; it must leave so many processes running."""
    arguments = [command, str(cwd), str(seconds), str(leaves)]
    done = subprocess.run([sys.executable, "-c", _RUN, *arguments], stdout=subprocess.PIPE, check=True, timeout=60)
    told, shown, left = json.loads(done.stdout)
    assert left == leaves
    return told, shown


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo a; echo b >&2", "a\nb\n"),
        ("exit 3", "\n[exit code 3]"),
        ("true", "[no output]"),
        ("kill -9 $$", "\n[exit code -9]"),
        ("printf '\\303'; printf '\\274\\377'", "ü\ufffd"),
        ("cat", "[no output]"),
        ("basename $PWD", "work\n"),
    ],
)
def test_a_command(tmp_path: Path, command: str, told: str) -> None:
    (tmp_path / "work").mkdir()
    assert run(command, tmp_path / "work")[0] == told


def test_it_is_killed_in_time_with_all_that_it_started(tmp_path: Path) -> None:
    told, shown = run("echo begun; sleep 1003 & sleep 1003", tmp_path, 0.5)
    assert told.startswith("begun\n\n[killed after")
    assert shown == "begun\n"


def test_what_runs_on_does_not_hold_it_up(tmp_path: Path) -> None:
    assert run("sleep 1004 & echo done", tmp_path, leaves=1)[0] == "done\n"


def test_much_output_is_bounded(tmp_path: Path) -> None:
    told, shown = run("yes abcdefg | head -c 3000000; echo end", tmp_path)
    assert len(told) < shell.KEPT_CHARACTERS + 100
    assert "characters left out" in told
    assert told.endswith("end\n")
    assert len(shown) == shell.SHOWN_CHARACTERS


def test_no_zombie_is_left_of_what_ended_by_itself() -> None:
    code = """
import os
from choir.sandbox.agent import tree

child = os.fork()
if not child:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
tree.kill_below(os.getpid())
print(os.path.exists(f"/proc/{child}"))
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout == b"False\n"


@given(st.lists(st.text(max_size=30)), st.integers(2, 40))
def test_bounded(pieces: list[str], most: int) -> None:
    kept = Bounded(most)
    for piece in pieces:
        kept.add(piece)
    whole = "".join(pieces)
    if len(whole) <= most // 2 * 2:
        assert kept.text() == whole
    else:
        half = most // 2
        assert kept.text().startswith(whole[:half] + "\n… ")
        assert kept.text().endswith(" …\n" + whole[-half:])
