"""Landlock by itself, in a child process that gives up its rights."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from choir.isolation import landlock
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.host import inspect

from .conftest import MakeSpec, output_of

ABI = landlock.abi()
needs_landlock = pytest.mark.skipif(ABI < landlock.OLDEST, reason=f"this kernel has Landlock ABI {ABI}")

TRIES = """
import ctypes, errno, os, sys
sys.path[:] = sys.argv[2].split(":")
from choir.isolation.landlock import restrict
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
base = sys.argv[3]
restrict([f"{base}/open", f"{base}/file", "/not/there"], int(sys.argv[1]))
def tried(action, *arguments):
    try:
        action(*arguments)
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
def write(path):
    with open(path, "w") as file:
        file.write("x")
print(
    tried(write, f"{base}/open/new"),
    tried(os.rename, f"{base}/open/new", f"{base}/open/sub/new"),
    tried(write, f"{base}/file"),
    tried(write, f"{base}/closed/old"),
    tried(write, f"{base}/closed/new"),
    tried(os.unlink, f"{base}/closed/old"),
    tried(os.rename, f"{base}/open/sub/new", f"{base}/closed/new"),
    tried(os.mkdir, f"{base}/closed/sub"),
    tried(os.listdir, f"{base}/closed"),
    tried(os.kill, os.getppid(), 0),
)
"""


@needs_landlock
@pytest.mark.parametrize("abi", sorted({landlock.OLDEST, min(3, ABI), min(4, ABI), min(6, ABI), ABI}))
def test_writing_is_given_up_but_below_the_named(tmp_path: Path, abi: int) -> None:
    (tmp_path / "open" / "sub").mkdir(parents=True)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "old").write_text("kept")
    (tmp_path / "file").touch()
    ended = subprocess.run(
        [sys.executable, "-c", TRIES, str(abi), ":".join(sys.path), str(tmp_path)], capture_output=True, text=True
    )
    *allowed, listed, signalled = ended.stdout.split()
    assert allowed[:3] == ["done"] * 3, ended.stderr
    assert allowed[3:] == ["EACCES", "EACCES", "EACCES", "EACCES", "EACCES"]
    assert listed == "done"
    assert signalled == ("EPERM" if abi >= 6 else "done")
    assert (tmp_path / "closed" / "old").read_text() == "kept"


UNPREPARED = """
import os, sys
sys.path[:] = sys.argv[2].split(":")
import ctypes, struct
from choir.errors import IsolationError
from choir.isolation.landlock import restrict
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)  # root needs no no-new-privileges
try:
    restrict([], int(sys.argv[1]))
except IsolationError as error:
    print(error.reason, error.message)
"""


@needs_landlock
def test_a_refusal_is_typed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", UNPREPARED, str(ABI), ":".join(sys.path)], capture_output=True, text=True
    )
    assert ended.stdout.startswith("landlock_failed "), ended.stderr
    assert "not permitted" in ended.stdout


def test_a_development_server_on_loopback_answers(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 5173));"
        "c = socket.create_connection(('localhost', 5173)); s.accept()[0].sendall(b'hello'); print(c.recv(9).decode())"
    )
    _, text = asyncio.run(output_of(backend, make_spec(inspect().python, "-c", program)))
    assert text == "hello\n"


def test_ordinary_work_goes_on(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    """Moving between folders and file systems, links, fifos, locks, terminals, /dev/shm, /proc/self."""
    script = """
set -e
mkdir -p a/b ~/c; echo x > a/file; mv a/file a/b/file; ln a/b/file hard; ln -s hard soft; mkfifo fifo
mv a/b/file /tmp/file; mv /tmp/file ~/c/file; mv ~/c/file back; cp back /dev/shm/x; rm -r a
exec 9>lock; flock 9; : > /dev/null; echo 500 > /proc/self/oom_score_adj; : > back
script -qec 'tty' /dev/null > where; grep -q pts where; chmod 700 ~/c; touch -d yesterday back
echo done
"""
    (tmp_path / "project").mkdir()
    exited, text = asyncio.run(output_of(backend, make_spec("bash", "-c", script, workspace=tmp_path / "project")))
    assert (exited.code, text) == (0, "done\n")
