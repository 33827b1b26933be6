"""The real thing: ``choir`` as a person runs it, with a state folder and a home of its own."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHOIR = Path(sys.executable).parent / "choir"


@dataclass
class World:
    """One person's machine: home, state, project folder."""

    root: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def state(self) -> Path:
        return self.root / "s"

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def config(self) -> Path:
        return self.home / ".config" / "choir" / "choir.toml"

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{CHOIR.parent}:/usr/local/bin:/usr/bin:/bin",
            "CHOIR_STATE": str(self.state),
            "LANG": "C.UTF-8",
            **more,
        }

    def choir(
        self, *arguments: str, seconds: float = 60.0, stdin: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CHOIR, *arguments],
            cwd=self.project,
            env=self.environment(**more),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def configure(self, text: str) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def up(self, *arguments: str, seconds: float = 60.0, **more: str) -> Up:
        process = subprocess.Popen(
            [CHOIR, "up", "--port", "0", *arguments],
            cwd=self.project,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.processes.append(process)
        up = Up(process)
        up.wait_for(r"isolation  ", seconds)
        return up


class Up:
    """A running ``choir up`` and what it has said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said = ""

    def wait_for(self, pattern: str, seconds: float = 30.0) -> re.Match[str]:
        """Until its output matches; fails with all of the output."""
        deadline = time.monotonic() + seconds
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while not (match := re.search(pattern, self.said)):
            readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(fd, 65536) if readable else b""
            if not data:
                raise AssertionError(f"waited in vain for {pattern!r}; it said:\n{self.said}")
            self.said += data.decode(errors="replace")
        return match

    @property
    def login_url(self) -> str:
        return self.wait_for(r"desktop    (\S+)")[1]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def world() -> Iterator[World]:
    # Not tmp_path: a unix socket's path has 107 bytes, and the sandbox's uid must be able to reach it.
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    made = World(root)
    for folder in (made.home, made.project):
        folder.mkdir()
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()
    shutil.rmtree(root)
