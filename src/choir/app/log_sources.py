"""Where the lines are: files of a state folder, the rotated ones first, or systemd's journal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from choir import logs
from choir.app.log_entries import Entry, Origin, entry
from choir.errors import ChoirError
from choir.paths import State

ROTATED = ".1"
_SANDBOX = re.compile(r"sandbox-(.+)\.log\Z")
_TS = re.compile(rb'"ts": ?"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})')
_LOOK = 65536
_LONGEST = 1 << 20  # bytes of a line; the rest of a longer one is another


class Files:
    """One log, with the one before it. Reads on where it was: also what is appended, and what follows a rotation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        label = _SANDBOX.match(path.name)
        self.origin = Origin("sandbox", label[1]) if label else Origin(path.stem)
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._before: Entry | None = None
        self._begun = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, since: str = "") -> Iterator[Entry]:
        """What there is that was not read yet; at first from the rotated file on.

        Args:
            since: what is older may be left out.
        """
        if not self._begun:
            self._begun = True
            with contextlib.suppress(OSError), open(f"{self.path}{ROTATED}", "rb") as rotated:
                seek(rotated, since)
                yield from self._entries(rotated)
        if self._file is None:
            self._open(since)
        while self._file is not None:
            yield from self._entries(self._file)
            if not self._exchanged(self._file):
                return

    def _open(self, since: str = "") -> None:
        self._rest = b""
        try:
            self._file = open(self.path, "rb")  # noqa: SIM115 - it is read on
        except OSError:
            self._file = None
        else:
            seek(self._file, since)

    def _entries(self, file: IO[bytes]) -> Iterator[Entry]:
        written = logs.timestamp(os.fstat(file.fileno()).st_mtime)
        while data := file.read(_LOOK):
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LONGEST:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                if line.strip():
                    at = "" if self._before is not None else written
                    self._before = entry(line.decode(errors="replace"), self.origin, self._before, at)
                    yield self._before

    def _exchanged(self, file: IO[bytes]) -> bool:
        """Whether another file is in its place; then that is read next. One that was cut is read anew."""
        have = os.fstat(file.fileno())
        try:
            there = os.stat(self.path)
        except OSError:
            return False
        if (have.st_dev, have.st_ino) == (there.st_dev, there.st_ino):
            if file.tell() > have.st_size:
                file.seek(0)
            return False
        file.close()
        self._open()
        return self._file is not None


def seek(file: IO[bytes], since: str) -> None:
    """Go to a line near the first that is not older than ``since``, by halving: times in a log hardly ever go back."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while since and high - low > 4 * _LOOK:
        middle = (low + high) // 2
        file.seek(middle)
        times = _TS.findall(file.read(_LOOK))
        if not times or max(times).decode() >= since[:23]:
            high = middle
        else:
            low = middle
    file.seek(low)
    if low:
        file.readline()


def files(state: State) -> list[Path]:
    """The logs of a state folder and of the parts that have one of their own below it."""
    folders = [State(state.root / name).logs for name in ("", "gateway", "model")]
    found = {path for folder in folders for path in folder.glob("*.log")}
    return sorted(found | {path.with_suffix("") for folder in folders for path in folder.glob(f"*.log{ROTATED}")})


class Journal:
    """systemd's, of some units: ``journalctl --output=json`` (https://systemd.io/JOURNAL_EXPORT_FORMATS/)."""

    def __init__(self, units: tuple[str, ...]) -> None:
        self._command = ["journalctl", "--output=json", "--no-pager", "--quiet", *(f"--unit={unit}" for unit in units)]
        self._cursor = ""
        self._following: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def close(self) -> None:
        if self._following is not None:
            self._following.kill()
            self._following.wait()
            if self._following.stdout is not None:
                self._following.stdout.close()

    def read(self, since: str = "") -> Iterator[Entry]:
        """As ``Files.read``.

        Raises:
            ChoirError: ``journal_unreadable``.
        """
        if self._cursor or self._following is not None:
            yield from self._new()
            return
        command = [*self._command, *([f"--since=@{_epoch(since)}"] if since else [])]
        try:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stdout is not None
                assert process.stderr is not None
                for line in process.stdout:
                    yield from self._entry(line)
                said = process.stderr.read().decode(errors="replace").strip()
        except OSError as error:
            raise _unreadable(error.strerror or "") from error
        if process.returncode:
            raise _unreadable(said)

    def follow(self) -> None:
        """From now on ``read`` gives what is new, and never waits."""
        after = [f"--after-cursor={self._cursor}"] if self._cursor else ["--lines=0"]
        self._following = subprocess.Popen([*self._command, *after, "--follow"], stdout=subprocess.PIPE)
        assert self._following.stdout is not None
        os.set_blocking(self._following.stdout.fileno(), False)

    def _new(self) -> Iterator[Entry]:
        if self._following is None or self._following.stdout is None:
            return
        while True:
            try:
                data = os.read(self._following.stdout.fileno(), _LOOK)
            except BlockingIOError:
                return
            if not data:
                raise _unreadable("journalctl ended")
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                yield from self._entry(line)

    def _entry(self, line: bytes) -> Iterator[Entry]:
        try:
            found = json.loads(line)
            at = logs.timestamp(int(found["__REALTIME_TIMESTAMP"]) / 1e6)
        except (ValueError, KeyError, TypeError):
            return
        self._cursor = str(found.get("__CURSOR", ""))
        said = found.get("MESSAGE")
        if isinstance(said, list):  # bytes that are no UTF-8
            said = bytes(said).decode(errors="replace")
        unit = str(found.get("_SYSTEMD_UNIT", "")).removesuffix(".service")
        services = {"choir": "hypervisor", "choir-gateway": "gateway", "choir-model": "local-model"}
        if isinstance(said, str) and said.strip():
            yield entry(said, Origin(services.get(unit, "systemd")), at=at)


def _epoch(ts: str) -> int:
    return int(datetime.fromisoformat(ts).astimezone(UTC).timestamp())


def _unreadable(why: str) -> ChoirError:
    return ChoirError(
        "journal_unreadable",
        f"systemd's journal cannot be read: {why or 'no reason given'}.",
        "As root, or as a member of the group systemd-journal.",
    )
