"""A real ``choir up``: its processes by kind, their memory and descriptors, and one that kills them."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.hypervisor.orphans import Family

CHOIR = Path(sys.executable).parent / "choir"
KINDS = {
    "supervisor": r"choir\.app\.supervise",
    "gateway": r"choir\.gateway\.main",
    "hypervisor": r"choir\.app\.hypervisor|choir\.hypervisor\.main",
    "local model": r"choir\.local_model\.main",
    "template": r"choir\.isolation\.template",
    "keeper": r"choir\.isolation\.keeper",
    "launcher": r"bwrap",
    "desktop": r"-I -S -c|choir\.sandbox",
}
"""In this order: the first that matches a command line is the kind. A desktop is its sandbox's first process."""
VICTIMS = ("gateway master", "gateway worker", "hypervisor", "keeper", "launcher", "desktop", "local model", "template")


class Deployment:
    """``keys``: name and key of the provider ``soak``; it reads it from a file."""

    def __init__(self, root: Path, family: Family, origin: str, key: str, local: bool) -> None:
        self.root, self.family = root, family
        self.state_root = root / "s"
        self.said = ""
        with socket.create_server(("localhost", 0)) as free:  # the same after a restart, as the cookies' name is
            self.port = free.getsockname()[1]
        (root / "home").mkdir()
        path = root / "key"
        path.write_text(key)
        path.chmod(0o600)
        self.config = root / "choir.toml"
        self.config.write_text(
            f'[providers.soak]\nlike = "openai"\nbase_url = "{origin}"\nkey = "file:{path}"\nmodels = ["m"]\n'
            f"[providers.local]\nenabled = {str(local).lower()}\n"
        )

    def up(self) -> None:
        self.process = subprocess.Popen(
            [CHOIR, "up", "--port", str(self.port), "--config", self.config, "--state", self.state_root],
            env={"HOME": str(self.root / "home"), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.family.mine.add(self.process.pid)
        assert self.process.stdout is not None
        deadline = time.monotonic() + 60
        while "isolation  " not in self.said:
            if not select.select([self.process.stdout], [], [], deadline - time.monotonic())[0]:
                raise RuntimeError(f"it does not start:\n{self.said}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f"it ended:\n{self.said}")
            self.said += data.decode(errors="replace")
        self._log = (self.root / "up.log").open("wb")
        self._draining = threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True)
        self._draining.start()

    def _drain(self, output: Any) -> None:
        for line in output:
            self._log.write(line)

    def down(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        self._draining.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        self.family.mine.discard(self.process.pid)
        return code

    def by_kind(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for pid, line in self.family.living().items():
            kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, line)), "inside sandboxes")
            found.setdefault(kind, []).append(pid)
        return found

    def victims(self, kind: str) -> list[int]:
        found = self.by_kind()
        if kind.startswith("gateway"):
            both = sorted(found.get("gateway", ()))
            worker = [pid for pid in both if _parent(pid) in both]
            return worker if kind == "gateway worker" else [pid for pid in both if pid not in worker]
        return found.get(kind, [])


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def weigh(pid: int) -> tuple[int, int]:
    """(bytes of memory of its own, open descriptors); (0, 0) when it is gone or not ours to look at."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return kilobytes * 1024, len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ValueError):
        return 0, 0
