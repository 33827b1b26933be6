"""The file that usage records are in before they are in the ledger.

A record is one ``write`` to an ``O_APPEND`` file before the last byte of its answer is sent: it survives the death of
the process (not of the machine; there is no fsync). Two files: ``usage.journal`` is written, ``usage.journal.old`` is
the one before it and goes once the ledger has all of it. At the start both are replayed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from choir.contract import UsageRecord

ROTATE_AT = 4 * 1024 * 1024  # bytes
MAX_BYTES = 256 * 1024 * 1024
"""Of the file while the ledger cannot take records; beyond it the journal counts as unwritable."""

_record = msgspec.json.Decoder(UsageRecord)


class Journal:
    """Owned by the event loop's thread, but for ``drop_old`` and ``replay``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.old = path.with_name(path.name + ".old")
        self._fd = -1
        self.size = 0

    def open(self) -> None:
        """Open for appending. What is there already stays: replay it first.

        Raises:
            OSError: as ``open``.
        """
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self._fd).st_size

    def append(self, line: bytes) -> bool:
        """Write one line. False when it could not be written; the file then holds nothing of it."""
        if self._fd < 0:
            try:
                self.open()
            except OSError:
                return False
        if self.size + len(line) > MAX_BYTES:
            return False
        try:
            written = os.write(self._fd, line)
        except OSError:
            return False
        if written != len(line):
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self.size)
            return False
        self.size += written
        return True

    def rotate(self) -> bool:
        """Put the full file aside. False when the one before is still there."""
        if self.old.exists():
            return False
        try:
            os.rename(self.path, self.old)
        except OSError:
            return False
        self.close()
        return True

    def drop_old(self) -> None:
        """The ledger has everything of the file put aside."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.old)

    def replay(self) -> Iterator[UsageRecord]:
        """What both files hold. A line that was cut by a crash is passed over: its answer was never finished."""
        for path in (self.old, self.path):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                for line in file:
                    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                        yield _record.decode(line)

    def discard(self) -> None:
        """Remove both files; after the ledger has taken them."""
        self.close()
        for path in (self.old, self.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.size = 0
