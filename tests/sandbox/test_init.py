"""The first process outside a sandbox, so that what it sends can be looked at; inside one: tests/isolation."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import choir
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import StartError
from choir.sandbox import init

BOOT = (
    "import sys; sys.path.append(sys.argv[1]); import choir.keyless; choir.keyless.check_processes = lambda: None;"
    "from choir.sandbox.init import main; main(int(sys.argv[2]))"
)
SOURCE = str(Path(choir.__file__).parent.parent)


class First:
    """A started first process; other processes of this machine are none of its business here."""

    def __init__(self, tmp_path: Path, inherit: tuple[int, ...] = (), **changes: Any) -> None:
        self.plan: dict[str, Any] = {
            "listener": ["127.0.0.1", 0],
            "desktop": None,
            "environment": {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MARK": "set"},
            "command": ["sh", "-c", "echo $MARK $PWD; ls /proc/self/fd"],
            "home": str(tmp_path),
            "cwd": str(tmp_path),
            "max_processes": 100_000,
            "max_open_files": 64,
            "max_file_bytes": 1 << 30,
            "sites": [],
            "landlock": None,
            "guards": [],
            **changes,
        }
        self.channel, theirs = Channel.pair()
        self.channel.sock.settimeout(20)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, SOURCE, str(theirs.fileno())],
            env={},
            pass_fds=(theirs.fileno(), *inherit),
            cwd="/",
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        reading, writing = os.pipe()
        self.output = open(reading, "rb")  # noqa: SIM115
        null = os.open(os.devnull, os.O_RDONLY)
        memory = os.memfd_create("choir-plan")
        os.write(memory, json.dumps(self.plan).encode())
        self.channel.send({"terminal": False}, [memory, null, writing, writing])
        for descriptor in (memory, null, writing):
            os.close(descriptor)

    def hear(self) -> tuple[Message, list[int]]:
        return self.channel.receive()

    def close(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.output.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started = []

    def make(**changes: Any) -> First:
        started.append(First(tmp_path, **changes))
        return started[-1]

    yield make
    for first in started:
        first.close()


def to_listener(first: First) -> list[int]:
    assert first.hear()[0] == {"phase": "namespace"}
    assert first.hear()[0] == {"phase": "keyless"}
    message, descriptors = first.hear()
    assert message == {"phase": "listener"}
    return descriptors


def test_hands_out_the_listener_and_becomes_the_command(start: Any, tmp_path: Path) -> None:
    first = start()
    listener, pidfd = to_listener(first)
    with socket.socket(fileno=listener) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        assert sock.getsockname()[0] == "127.0.0.1"
    first.channel.send({"op": "proceed"})
    assert first.hear()[0] == {"executing": True}
    with pytest.raises(ChannelClosed):
        first.hear()
    said, *descriptors = first.output.read().decode().split("\n")
    assert said == f"set {tmp_path}"
    assert set(descriptors) - {""} <= {"0", "1", "2", "3"}  # 3 is that of ls itself
    assert first.process.wait(20) == 0
    with pytest.raises(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, 0)
    os.close(pidfd)


def test_keeps_no_copy_of_the_listener(start: Any) -> None:
    first = start()
    listener, pidfd = to_listener(first)
    with socket.socket(fileno=listener) as sock:
        address = sock.getsockname()
    os.close(pidfd)
    deadline = time.monotonic() + 20
    while True:  # it closes its own after it has handed them out
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:  # in the instant of its closing
            pass
        assert time.monotonic() < deadline


@pytest.mark.parametrize("lost", [True, False])
def test_without_proceed_nothing_runs(start: Any, tmp_path: Path, lost: bool) -> None:
    first = start(command=["touch", str(tmp_path / "ran")])
    for descriptor in to_listener(first):
        os.close(descriptor)
    if lost:
        first.channel.close()
    else:
        first.channel.send({"op": "something else"})
    assert first.process.wait(20) == 77
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "reason", "named"),
    [
        (
            {"environment": {"PATH": "/bin", "SOME_API_KEY": "value-of-the-key"}},
            "credential_in_environment",
            "SOME_API_KEY",
        ),
        ({}, "credential_in_file", ".netrc"),
    ],
)
def test_a_credential_ends_it_before_the_listener_is_out(
    start: Any, tmp_path: Path, changes: dict[str, Any], reason: str, named: str
) -> None:
    if reason == "credential_in_file":
        (tmp_path / ".netrc").write_text("machine example.org login ada password value-of-the-key\n")
    first = start(**changes)
    assert first.hear()[0] == {"phase": "namespace"}
    message, descriptors = first.hear()
    assert (message["reason"], descriptors) == (reason, [])
    assert named in message["message"]
    assert "value-of-the-key" not in json.dumps(message)
    assert first.process.wait(20) == 77


def test_an_inherited_descriptor_ends_it(start: Any, tmp_path: Path) -> None:
    with open(tmp_path / "secret", "w") as leaked:
        first = start(inherit=(leaked.fileno(),))
    assert first.hear()[0] == {"phase": "namespace"}
    message, _ = first.hear()
    assert message["reason"] == "descriptor_inherited"
    assert str(tmp_path / "secret") in message["message"]


def test_a_command_that_is_not_there(start: Any) -> None:
    first = start(command=["no-such-command"])
    for descriptor in to_listener(first):
        os.close(descriptor)
    first.channel.send({"op": "proceed"})
    assert first.hear()[0]["reason"] == "command_not_found"
    assert first.process.wait(20) == 69


def test_a_program_for_nobody(start: Any, tmp_path: Path) -> None:
    (tmp_path / "odd").write_text("#!/no/such/interpreter\n")
    (tmp_path / "odd").chmod(0o755)
    first = start(command=[str(tmp_path / "odd")])
    for descriptor in to_listener(first):
        os.close(descriptor)
    first.channel.send({"op": "proceed"})
    assert first.hear()[0] == {"executing": True}
    message, _ = first.hear()
    assert message["reason"] == "command_not_executable"
    assert "interpreter" in message["hint"]


def test_find(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, mode in ((one, 0o644), (two, 0o755)):
        folder.mkdir()
        (folder / "tool").touch(mode=mode)
    assert init._find("tool", f"{tmp_path}/none:{one}::{two}") == str(two / "tool")
    assert init._find(str(two / "tool"), "") == str(two / "tool")
    for command, reason in (("absent", "command_not_found"), (str(one / "tool"), "command_not_executable")):
        with pytest.raises(StartError) as caught:
            init._find(command, str(one))
        assert caught.value.reason == reason
