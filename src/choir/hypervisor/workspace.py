"""The homes of sandboxes from the host's side: snapshots, restoring one, setting a file aside. Blocking.

::

    STATE/snapshots/LABEL/20261124T073011Z.tar       whole files only; one being written ends in .partial
    STATE/homes/.restoring-HOME                      a home being unpacked, then the old one being deleted
    STATE/quarantine/LABEL/20261124T073011Z-NAME     files set aside, out of the sandbox's reach

Nobody but Choir reaches these three; the homes themselves are only touched as ``beneath`` says.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from choir.errors import ChoirError, is_full
from choir.hypervisor.beneath import FOLDER, exchange, open_beneath, sync
from choir.hypervisor.workspace_tar import pack, unpack
from choir.paths import State

_NAME = re.compile(r"\d{8}T\d{6}Z(-\d+)?\Z")


@dataclass(frozen=True)
class Snapshot:
    """``name`` is when it was taken, in UTC; ``label`` the sandbox's."""

    label: str
    name: str
    bytes: int
    path: Path
    left_out: int = 0
    """Entries that could not be taken: sockets, pipes, unreadable files. Known when it is made."""


class Workspaces:
    """The homes of a deployment.

    Args:
        keep: how many snapshots of one sandbox; the oldest go.

    All methods raise:
        ChoirError: ``no_space`` or ``workspace_unusable``, and what they name.
    """

    def __init__(self, state: State, keep: int) -> None:
        self._homes = state.homes
        self._snapshots = state.root / "snapshots"
        self._quarantine = state.root / "quarantine"
        self._keep = keep

    def tidy(self) -> None:
        """Remove what an interrupted operation left."""
        with _guarded(self._homes):
            for path in self._homes.glob(".restoring-*"):
                shutil.rmtree(path)
            for path in self._snapshots.glob("*/*.partial"):
                path.unlink()

    def snapshot(self, label: str, home: str) -> Snapshot:
        """Take one of ``home`` for the sandbox ``label``; then drop the oldest beyond ``keep``."""
        folder = self._snapshots / label
        with _guarded(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = folder / f"{_next(next(iter(self.snapshots(label)), None))}.tar"
            partial = path.with_suffix(".partial")
            try:
                with _folder(self._homes / home) as descriptor, open(partial, "xb", opener=_private) as file:
                    left_out = pack(descriptor, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(partial, path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            _sync(folder)
        for old in self.snapshots(label)[self._keep :]:
            old.path.unlink(missing_ok=True)
        return Snapshot(label, path.stem, path.stat().st_size, path, left_out)

    def snapshots(self, label: str) -> list[Snapshot]:
        """Of one sandbox, newest first."""
        found = [path for path in (self._snapshots / label).glob("*.tar") if _NAME.match(path.stem)]
        return [Snapshot(label, path.stem, path.stat().st_size, path) for path in sorted(found, key=_age, reverse=True)]

    def find(self, label: str, name: str) -> Snapshot:
        """
        Raises:
            ChoirError: ``unknown_snapshot``.
        """
        for snapshot in self.snapshots(label):
            if snapshot.name == name:
                return snapshot
        raise ChoirError(
            "unknown_snapshot", f"{label} has no snapshot `{name}`.", "`choir sandbox snapshots` lists them."
        )

    def restore(self, archive: IO[bytes], home: str, owner: int | None) -> None:
        """Make ``home`` what it was when the snapshot was taken: unpacked beside it, then exchanged for it in one step.
        Its sandbox must not run.

        Args:
            owner: uid and gid of the files; None for our own.

        Raises:
            ChoirError: ``snapshot_broken``; the home is as before.
        """
        fresh, present = self._homes / f".restoring-{home}", self._homes / home
        with _guarded(self._homes):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(mode=0o700)
            try:
                with _folder(fresh) as descriptor:
                    unpack(archive, descriptor, owner)
                    if owner is not None:
                        os.fchown(descriptor, owner, owner)
                    sync(descriptor)
                present.mkdir(mode=0o700, exist_ok=True)
                exchange(str(fresh), str(present))
                _sync(self._homes)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def set_aside(self, label: str, home: str, file: str) -> Path:
        """Move ``file`` (relative to ``home``) out of the sandbox's reach; where it is now, mode 0600 and ours.

        Raises:
            ChoirError: ``link_refused``, ``file_gone``.
        """
        parent, _, name = file.rpartition("/")
        if name in ("", ".", ".."):
            raise ChoirError("link_refused", f"{file} is no file of the home.")
        folder = self._quarantine / label
        with _guarded(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            target = folder / f"{_stamp()}-{name}"
            with _folder(self._homes / home) as base:
                place = open_beneath(base, parent or ".", os.O_PATH | os.O_DIRECTORY)
                try:
                    os.rename(name, target, src_dir_fd=place)  # a link is moved itself, not what it points to
                except FileNotFoundError:
                    raise ChoirError("file_gone", f"{file} is not there any more.") from None
                finally:
                    os.close(place)
            os.chown(target, os.geteuid(), os.getegid(), follow_symlinks=False)
            with contextlib.suppress(OSError):  # a link
                descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                os.fchmod(descriptor, 0o600)
                os.close(descriptor)
        return target


def _stamp() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def _next(newest: Snapshot | None) -> str:
    """A name that sorts after the newest there is, also within its second and when the clock was set back."""
    name = _stamp()
    if newest is None:
        return name
    when, number = _age(newest.path)
    return name if name > when else f"{when}-{number + 1}"


def _age(path: Path) -> tuple[str, int]:
    when, _, number = path.stem.partition("-")
    return when, int(number or 1)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    with _folder(folder) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise ChoirError("no_space", f"No space left in {path}.", "Free some disk space.") from error
        raise ChoirError("workspace_unusable", f"Cannot work on {path}: {error.strerror or error}.") from error
