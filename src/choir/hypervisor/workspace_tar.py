"""A home as a tar file and back (POSIX pax). Everything goes by descriptor: see ``beneath``.

Kept: folders, files, symbolic links as they are, hard links, modes (no setuid), times. Owners are not: a restored home
belongs to whom it is restored for. Left out: sockets, pipes, devices, and what may not be read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from typing import IO

from choir.errors import ChoirError
from choir.hypervisor.beneath import FOLDER, open_beneath

DEEPEST = 200
"""Levels; each holds a descriptor while it is walked."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def pack(home: int, out: IO[bytes]) -> int:
    """Write the folder with descriptor ``home`` to ``out``; how many entries had to be left out.

    Raises:
        ChoirError: ``too_deep``.
        OSError: ``out`` cannot be written.
    """
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errorlevel=2) as archive:
        packing = _Packing(archive)
        packing.folder(home, "", 0)
    return packing.left_out


class _Packing:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self.left_out = 0
        self._archive = archive
        self._linked: dict[tuple[int, int], str] = {}

    def folder(self, descriptor: int, prefix: str, depth: int) -> None:
        if depth >= DEEPEST:
            raise ChoirError("too_deep", f"The folders of the home are nested more than {DEEPEST} levels deep.")
        for name in sorted(os.listdir(descriptor)):
            path = f"{prefix}{name}"
            try:
                self._entry(descriptor, name, path, depth)
            except FileNotFoundError:  # gone meanwhile
                continue
            except PermissionError:
                self.left_out += 1

    def _entry(self, parent: int, name: str, path: str, depth: int) -> None:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        member = _member(path, found)
        if stat.S_ISLNK(found.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=parent)
            self._archive.addfile(member)
        elif stat.S_ISDIR(found.st_mode):
            with _opened(parent, name, FOLDER) as descriptor:
                member.type = tarfile.DIRTYPE
                self._archive.addfile(member)
                self.folder(descriptor, f"{path}/", depth + 1)
        elif stat.S_ISREG(found.st_mode):
            with _opened(parent, name, _FILE) as descriptor:
                self._file(descriptor, path)
        else:
            self.left_out += 1

    def _file(self, descriptor: int, path: str) -> None:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.left_out += 1
            return
        member, inode = _member(path, found), (found.st_dev, found.st_ino)
        if inode in self._linked:
            member.type, member.linkname = tarfile.LNKTYPE, self._linked[inode]
            self._archive.addfile(member)
            return
        if found.st_nlink > 1:
            self._linked[inode] = path
        member.size = found.st_size
        with open(descriptor, "rb", closefd=False) as file:
            self._archive.addfile(member, _Exactly(file, found.st_size))  # type: ignore[arg-type]


class _Exactly:
    """A file of exactly ``size`` bytes whatever happens to it: cut, or filled with zeros."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._file.read(size)
        data += bytes(size - len(data))
        self._left -= size
        return data


def unpack(archive: IO[bytes], home: int, owner: int | None) -> None:
    """Fill the empty folder with descriptor ``home`` from what ``pack`` wrote.

    Args:
        owner: uid and gid of everything in it; None for our own.

    Raises:
        ChoirError: ``snapshot_broken`` or ``link_refused``.
        OSError: no space.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as source:
            unpacking = _Unpacking(source, home, owner)
            for member in source:
                unpacking.entry(member)
            unpacking.finish()
    except (tarfile.TarError, FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ChoirError("snapshot_broken", f"The snapshot is damaged: {error}.") from error


class _Unpacking:
    def __init__(self, source: tarfile.TarFile, home: int, owner: int | None) -> None:
        self._source = source
        self._home = home
        self._owner = owner
        self._folders: list[tarfile.TarInfo] = []

    def entry(self, member: tarfile.TarInfo) -> None:
        with self._parent(member.name) as (parent, name):
            if member.isdir():
                os.mkdir(name, 0o700, dir_fd=parent)
                self._folders.append(member)  # its mode and time come last
                return
            if member.issym():
                os.symlink(member.linkname, name, dir_fd=parent)
            elif member.islnk():
                with self._parent(member.linkname) as (other, target):
                    os.link(target, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
                return
            elif member.isreg():
                self._file(parent, name, member)
            else:
                raise ChoirError("snapshot_broken", "The snapshot holds something that is no file, folder or link.")
            self._chown(parent, name)
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        for member in reversed(self._folders):
            with self._parent(member.name) as (parent, name), _opened(parent, name, FOLDER) as descriptor:
                self._chown(parent, name)
                os.fchmod(descriptor, member.mode & 0o777)
                os.utime(descriptor, (member.mtime, member.mtime))

    def _file(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        descriptor = open_beneath(parent, name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            content = self._source.extractfile(member)
            assert content is not None
            shutil.copyfileobj(content, file, 1 << 20)
            os.fchmod(descriptor, member.mode & 0o777)

    def _chown(self, parent: int, name: str) -> None:
        if self._owner is not None:
            os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        folder, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise ChoirError("snapshot_broken", "The snapshot holds a name that cannot be.")
        if not folder:
            yield self._home, name
            return
        with _opened(self._home, folder, os.O_PATH | os.O_DIRECTORY) as descriptor:
            yield descriptor, name


def _member(path: str, found: os.stat_result) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode, member.mtime = stat.S_IMODE(found.st_mode) & 0o777, found.st_mtime
    return member


@contextlib.contextmanager
def _opened(folder: int, path: str, flags: int) -> Iterator[int]:
    descriptor = open_beneath(folder, path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
