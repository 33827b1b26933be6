"""Whether a secret was written where Choir's own processes write: their logs, wherever those go, and usage records."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from choir import keyless
from choir.app.audit.finding import Finding, held
from choir.app.log_sources import ROTATED
from choir.paths import State

TOKEN = re.compile(rb"choir-gt-[a-z0-9]+\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{20,}")
_CHUNK, _OVERLAP, _MOST = 1 << 20, 4096, 64 << 20
_LINES = 100_000
_SECONDS = 60.0
_UNIT = re.compile(r"/(choir(?:-[a-z]+)?\.service)(?:/|$)", re.MULTILINE)


def paths(state: State, processes: Iterable[int] = ()) -> list[Path]:
    """What Choir's own processes write; a sandbox's own output is its own.

    Args:
        processes: Choir's own; also what their standard output and error lead to.
    """
    names = ("gateway", "hypervisor", "supervisor", "telemetry", "local-model")
    files = [Path(f"{state.logs / name}.log{suffix}") for name in names for suffix in (ROTATED, "")]
    files += [state.ledger, state.ledger.with_name(state.ledger.name + "-wal"), state.journal]
    files += [Path(where) for pid in processes for fd in (1, 2) if (where := _leads_to(pid, fd)).startswith("/")]
    return [path for path in dict.fromkeys(files) if path.is_file()]


def units(processes: Iterable[int]) -> list[str]:
    """systemd's units of those processes that write to its journal, which they do through a socket."""
    found = set()
    for pid in processes:
        if _leads_to(pid, 2).startswith("socket:"):
            try:
                found.update(_UNIT.findall(Path(f"/proc/{pid}/cgroup").read_text()))
            except OSError:
                continue
    return sorted(found)


def _leads_to(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return ""


def written_secrets(files: Sequence[Path], units: Sequence[str] = ()) -> Finding:
    read = 0
    found: list[str] = []
    unread: list[str] = []
    for path in files:
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _MOST))
                size, secret = _search(file)
        except OSError:
            continue
        read += size
        found += [path.name] if secret else []
    for unit in units:
        command = ["journalctl", f"--unit={unit}", "--output=cat", "--all", "--no-pager", "--quiet", f"-n{_LINES}"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        except (OSError, subprocess.SubprocessError):
            unread.append(unit)
            continue
        read += len(done.stdout)
        found += [f"the journal of {unit}"] if _has_secret(done.stdout) else []
    journals = f" and the journal of {', '.join(units)}" if units else ""
    wrong = [
        *([f"found in {', '.join(found)}"] if found else ()),
        *([f"the journal of {', '.join(unread)} could not be read"] if unread else ()),
    ]
    return Finding(
        "provider keys",
        "logs and usage records",
        "ledger",
        f"look for anything key-shaped and any gateway token in {len(files)} files{journals}",
        "; ".join(wrong) or f"not in {read // 1024} KB",
        held(not wrong),
        "Find who wrote it (the place is named, never the value), rotate that key, and report this.",
    )


def _search(file: IO[bytes]) -> tuple[int, bool]:
    """(bytes looked at, whether a secret is in them), from where the file stands."""
    read, last = 0, b""
    while data := file.read(_CHUNK):
        read += len(data)
        if _has_secret(last + data):
            return read, True
        last = data[-_OVERLAP:]
    return read, False


def _has_secret(text: bytes) -> bool:
    return bool(TOKEN.search(text)) or keyless.has_credential_shape(text.decode("latin-1"))
