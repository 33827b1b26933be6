"""No core dumps, no ptrace, nothing in /proc for others, no swap: of the master and of its worker."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from choir.gateway.hardening import harden

from .harness import Gateway

NOBODY = 65534
PRIVATE = ("environ", "mem", "maps", "auxv", "io", "fd", "cwd")
_PR_SET_DUMPABLE = 4
_PTRACE_ATTACH = 16


def reached(pid: int) -> list[str]:
    """What of a process can be read by this one."""
    found = []
    for name in PRIVATE:
        path = f"/proc/{pid}/{name}"
        try:
            if name == "fd":
                for each in os.listdir(path):
                    os.readlink(f"{path}/{each}")
            elif name == "cwd":
                os.readlink(path)
            else:
                os.close(os.open(path, os.O_RDONLY))
            found.append(name)
        except PermissionError:
            pass
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(_PTRACE_ATTACH, pid, None, None) == 0:
        os.waitpid(pid, 0)
        libc.ptrace(17, pid, None, None)  # detach
        found.append("ptrace")
    return found


def in_child(act: Callable[[], object], uid: int | None) -> str:
    """What ``act`` says, in a forked child that became ``uid``."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.write(write, str(act()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        told = file.read().decode()
    os.waitpid(pid, 0)
    return told


def test_the_gateway_as_it_runs(gateway: Gateway) -> None:
    uid = NOBODY if os.geteuid() == 0 else None
    for pid in (gateway.service.pid, gateway.worker_pid):
        assert in_child(lambda pid=pid: reached(pid), uid) == "[]"
        assert Path(f"/proc/{pid}/mem").stat().st_uid == 0, "not dumpable: owned by root (proc(5))"
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        if os.geteuid() == 0:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert gateway.canary.encode() not in environment
            status = Path(f"/proc/{pid}/status").read_text()
            assert int(status.split("VmLck:")[1].split()[0]) > 0, "kept out of swap"
            assert int(status.split("VmSwap:")[1].split()[0]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user twice")
@pytest.mark.parametrize("hard", [False, True])
def test_not_even_the_same_ordinary_user(hard: bool) -> None:
    """Without ``harden`` everything can be read, so the test can tell."""
    ready, told = os.pipe()
    victim = os.fork()
    if victim == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            if hard:
                harden()
            os.write(told, b"x")
            signal.pause()
        finally:
            os._exit(0)
    try:
        assert os.read(ready, 1) == b"x"
        found = in_child(lambda: reached(victim), NOBODY)
    finally:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        os.close(ready)
        os.close(told)
    if hard:
        assert found == "[]"
    else:
        assert "'environ', 'mem'" in found
        # Whether ptrace(2) is allowed at all is the host's (yama).


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    code = "import os; from choir.gateway.hardening import harden; harden(); os.kill(os.getpid(), 3)"  # SIGQUIT
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == -signal.SIGQUIT
    assert list(tmp_path.iterdir()) == []


def test_memory_is_not_locked_where_it_is_bounded() -> None:
    """The allocation that exceeds the bound would fail."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20)); import os\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "print(lock_memory(), len(bytearray(64 << 20)))"
    )
    preload = "from choir.gateway.hardening import lock_memory; "
    done = subprocess.run([sys.executable, "-c", preload + code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(64 << 20)]
