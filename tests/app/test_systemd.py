from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from choir.app import systemd
from choir.app.systemd import Notifier
from choir.errors import StartError


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(tmp_path: Path, abstract: bool) -> None:
    name = f"choir-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name if abstract else name)
        receiver.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": ("@" if abstract else "") + name, "WATCHDOG_USEC": "30000000"})
        notifier.send(READY=1, STATUS="serving")
        assert receiver.recv(1000) == b"READY=1\nSTATUS=serving"
        assert notifier.watchdog_seconds == 30


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "soon"}):
        notifier = Notifier(environment)
        notifier.send(READY=1)
        assert notifier.watchdog_seconds == 0
    assert systemd.listeners({}, os.getpid()) == []
    assert systemd.credential({}, "providers.env") is None


PASSED = """
import os, sys
from choir.app import systemd
from choir.errors import StartError
os.dup2(int(sys.argv[2]), 3)  # as systemd does
environment = {"LISTEN_FDS": "1", "LISTEN_PID": sys.argv[1] or str(os.getpid())}
try:
    print(systemd.listeners(environment, os.getpid()), os.get_inheritable(3))
except StartError as error:
    print(error.reason)
"""


@pytest.mark.parametrize(
    ("kind", "pid", "said"),
    [
        ("listener", "", "[3] False"),
        ("listener", "1", "[] True"),
        ("client", "", "listener_unusable"),
        ("file", "", "listener_unusable"),
    ],
)
def test_listeners(kind: str, pid: str, said: str) -> None:
    with socket.socket() as sock, open(os.devnull) as file:
        if kind == "listener":
            sock.listen()
        wanted = file.fileno() if kind == "file" else sock.fileno()
        command = [sys.executable, "-c", PASSED, pid, str(wanted)]
        done = subprocess.run(command, pass_fds=(wanted,), capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == said, done.stderr


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "token.key").write_bytes(b"x")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert systemd.credential(environment, "token.key") == tmp_path / "token.key"
    assert systemd.credential(environment, "other") is None


def test_a_listener_error_names_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError) as caught:
        systemd.listeners({"LISTEN_PID": "1", "LISTEN_FDS": "500"}, 1)
    assert "choir.socket" in caught.value.hint
