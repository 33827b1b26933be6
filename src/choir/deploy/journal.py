"""What is being changed in an installation, on disk before it is done: a killed ``choir upgrade`` can go on or back.

One JSON file, replaced whole at each step. ``under_way`` is the change that has not ended, ``last`` the upgrade that
``choir rollback`` takes back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from choir.errors import ChoirError
from choir.installation import Installation, sync_folder

Step = Literal["install", "rehearse", "backup", "switch", "restart", "verify", "back"]
BEFORE_SWITCH: tuple[Step, ...] = ("install", "rehearse", "backup")
"""In these nothing is in force that was not before."""


class Schema(msgspec.Struct, frozen=True):
    """The newest formats that a version of Choir reads, and writes: of the registry, and of a sandbox's memory."""

    registry: int
    memory: int


class Deployment(msgspec.Struct, frozen=True):
    """What runs with the installation."""

    state: str
    config: str | None = None
    units: tuple[str, ...] = ()
    """systemd's, to be restarted in this order; none: a ``choir up``, or nothing."""
    up: bool = False
    """Whether a ``choir up`` of the state folder runs from this installation."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One change from one version to another."""

    kind: Literal["upgrade", "rollback"]
    old: str
    new: str
    step: Step
    began: float
    deployment: Deployment
    schema: Schema
    """Of the older of the two, which is what the data must fit to go back."""
    written: Schema
    """Of the newer, as far as it was asked."""
    backup: str | None = None
    failing: tuple[str, ...] = ()
    """What did not hold before: no reason to go back."""
    why: str = ""
    """Why it goes back."""


class Record(msgspec.Struct, frozen=True):
    under_way: Entry | None = None
    last: Entry | None = None


class Journal:
    """Of one installation. Everything is to be done in a block of ``held``."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.record = Record()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Alone with the installation.

        Raises:
            ChoirError: ``prefix_unwritable``, ``upgrade_running``, ``journal_damaged``.
        """
        try:
            descriptor = os.open(self._installation.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ChoirError(
                "prefix_unwritable",
                f"Cannot write to {self._installation.prefix}: {error.strerror}.",
                "Run it as the account that the installation belongs to.",
            ) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ChoirError(
                    "upgrade_running", f"Another upgrade or rollback works on {self._installation.prefix}."
                ) from None
            for name in (".current.*", f".{self._installation.journal.name}.*"):  # of one that was killed
                for draft in self._installation.prefix.glob(name):
                    draft.unlink()
            self.record = read(self._installation.journal)
            yield
        finally:
            os.close(descriptor)

    def begin(self, entry: Entry) -> Entry:
        """Write down what is done next."""
        self._write(Record(under_way=entry, last=self.record.last))
        return entry

    def end(self, last: Entry | None) -> None:
        """Nothing is under way any more; ``last`` is what a rollback takes back."""
        self._write(Record(last=last))

    def _write(self, record: Record) -> None:
        path = self._installation.journal
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(draft, "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(draft, path)
            sync_folder(path.parent)
        except OSError as error:
            raise ChoirError("journal_unwritable", f"Cannot write {path}: {error.strerror}.") from error
        self.record = record


def read(path: Path) -> Record:
    """
    Raises:
        ChoirError: ``journal_damaged``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except (OSError, msgspec.MsgspecError) as error:
        raise ChoirError(
            "journal_damaged",
            f"{path} cannot be read: {error}.",
            "See that `current` names the version you want, then delete the file.",
        ) from error
