"""Files beneath one folder, for a person to look at and change: reached by descriptor, never through a link.

Whoever else writes there may exchange any part of a path at any moment. Each folder of a path is therefore opened from
the descriptor of the one above, and none that is a link (openat(2), O_NOFOLLOW; openat2(2) is not there inside).
Everything blocks; to be called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from choir.errors import ChoirError

MAX_ENTRIES = 5_000
OWN = ".choir"
"""Where Choir's database is. Who opens and closes it here gives up SQLite's locks (``choir.storage.wal``)."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 200

Kind = Literal["folder", "file", "link", "other"]


class FileError(ChoirError):
    """``file_missing``, ``file_exists``, ``file_changed``, ``link_refused``, ``bad_path``, ``not_a_file``,
    ``not_a_folder``, ``no_space``, ``not_permitted`` or ``file_unusable``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``size`` in bytes; ``modified`` in Unix seconds."""

    name: str
    kind: Kind
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Entry, ...]
    truncated: bool


class Files:
    """The folder ``root``. Paths are relative to it, with ``/`` between names; ``""`` is the folder itself."""

    def __init__(self, root: str) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def list(self, path: str) -> Listing:
        """What is in a folder: folders first, by name."""
        entries: list[Entry] = []
        truncated = False
        with _told(path), self._folder(names(path)) as folder, os.scandir(folder) as found:
            for each in found:
                if not path and each.name == OWN:
                    continue
                if len(entries) >= MAX_ENTRIES:
                    truncated = True
                    break
                with contextlib.suppress(FileNotFoundError):
                    status = each.stat(follow_symlinks=False)
                    entries.append(Entry(each.name, _kind(status), status.st_size, status.st_mtime))
        entries.sort(key=lambda entry: (entry.kind != "folder", entry.name.casefold(), entry.name))
        return Listing(tuple(entries), truncated)

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """A descriptor to read a file with; the caller's to close. Never one that could block, as a pipe does."""
        with self._parent(path) as (folder, name), _told(path):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FileError("not_a_file", f"{path} is not a file.")
        return descriptor, status

    def write(self, path: str) -> Draft:
        """Begin a file that takes the place of ``path`` only when it is whole."""
        parts = names(path)
        if not parts:
            raise FileError("bad_path", "That is no name of a file.")
        with _told(path):
            return Draft(path, self._descend(parts[:-1]), parts[-1])

    def make_folder(self, path: str) -> None:
        with self._parent(path) as (folder, name), _told(path):
            os.mkdir(name, 0o755, dir_fd=folder)

    def rename(self, path: str, to: str) -> None:
        """Never over something: ``file_exists``."""
        with self._parent(path) as (folder, name), self._parent(to) as (other, new):
            with _told(to), contextlib.suppress(FileNotFoundError):
                os.stat(new, dir_fd=other, follow_symlinks=False)
                raise FileExistsError(errno.EEXIST, "")
            with _told(path):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            with _told(to):
                if stat.S_ISREG(status.st_mode):  # atomic: nothing that appears meanwhile is replaced
                    os.link(name, new, src_dir_fd=folder, dst_dir_fd=other, follow_symlinks=False)
                    os.unlink(name, dir_fd=folder)
                else:
                    os.rename(name, new, src_dir_fd=folder, dst_dir_fd=other)

    def delete(self, path: str) -> None:
        """A file, a link (not what it leads to), or a folder with all in it."""
        with self._parent(path) as (folder, name), _told(path):
            _delete(folder, name, _DEPTH)

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        descriptor = self._descend(parts)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        parts = names(path)
        if not parts:
            raise FileError("bad_path", "That is the folder everything is in.")
        with _told(path):
            folder = self._descend(parts[:-1])
        try:
            yield folder, parts[-1]
        finally:
            os.close(folder)

    def _descend(self, parts: tuple[str, ...]) -> int:
        descriptor = os.open(".", _FOLDER, dir_fd=self._root)
        for part in parts:
            try:
                below = os.open(part, _FOLDER, dir_fd=descriptor)
            except NotADirectoryError:  # what a link gives too, with O_DIRECTORY
                if stat.S_ISLNK(os.stat(part, dir_fd=descriptor, follow_symlinks=False).st_mode):
                    raise OSError(errno.ELOOP, "") from None
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor


class Draft:
    """A file being written beside its place. End it with ``keep`` or ``drop``."""

    def __init__(self, path: str, folder: int, name: str) -> None:
        self._path, self._folder, self._name = path, folder, name
        self._draft = f".{name[:80]}.{secrets.token_hex(4)}.part"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self._draft, flags, 0o644, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise

    def add(self, data: bytes) -> None:
        with _told(self._path):
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]

    def keep(self, *, replaces: str | None) -> str:
        """Put it in its place; returns its mark.

        Args:
            replaces: the mark of the file that it is a new version of; None: there must be none.

        Raises:
            FileError: ``file_changed``, there is another version now; ``file_exists``; ``not_a_file``.
        """
        try:
            with _told(self._path):
                if replaces is None:
                    os.link(self._draft, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
                    os.unlink(self._draft, dir_fd=self._folder)
                else:
                    self._replace(replaces)
                return mark(os.fstat(self._file))
        except BaseException:
            self._forget()
            raise
        finally:
            self._close()

    def drop(self) -> None:
        self._forget()
        self._close()

    def _replace(self, replaces: str) -> None:
        try:
            present = os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            raise FileError("file_changed", f"{self._path} was deleted meanwhile.") from None
        if not stat.S_ISREG(present.st_mode):
            raise FileError("not_a_file", f"{self._path} is not a file.")
        if mark(present) != replaces:
            raise FileError(
                "file_changed", f"{self._path} was changed meanwhile.", "Load it again, or save under another name."
            )
        os.fchmod(self._file, stat.S_IMODE(present.st_mode) & 0o777)
        os.rename(self._draft, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._draft, dir_fd=self._folder)

    def _close(self) -> None:
        os.close(self._file)
        os.close(self._folder)


def names(path: str) -> tuple[str, ...]:
    """The names in a path.

    Raises:
        FileError: ``bad_path``: absolute, or with ``.``, ``..``, NUL, or an empty or too long name in it;
            ``not_permitted``: Choir's own folder.
    """
    if path == "":
        return ()
    parts = tuple(path.split("/"))
    if len(parts) > _DEPTH or any(
        part in ("", ".", "..") or "\0" in part or len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts
    ):
        raise FileError("bad_path", "That is no path beneath the folder.")
    if parts[0] == OWN:
        raise FileError("not_permitted", "Choir keeps there what the sandbox remembers.", "See Memory and Activity.")
    return parts


def mark(status: os.stat_result) -> str:
    """What changes with a file's content: the identity of this version."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def is_text(content: bytes) -> bool:
    """Whether it is text in UTF-8, all of it: what is edited goes back as it came."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _kind(status: os.stat_result) -> Kind:
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "link" if stat.S_ISLNK(status.st_mode) else "other"


def _delete(folder: int, name: str, depth: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
        return
    except IsADirectoryError:
        pass
    if depth == 0:
        raise FileError("bad_path", "The folders in it are too deep.")
    below = os.open(name, _FOLDER, dir_fd=folder)
    try:
        for each in os.listdir(below):
            _delete(below, each, depth - 1)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=folder)


_WORDS = {
    errno.ENOENT: ("file_missing", "{} is not there."),
    errno.EEXIST: ("file_exists", "There is something named {} already."),
    errno.ENOTEMPTY: ("file_exists", "There is something named {} already."),
    errno.ELOOP: ("link_refused", "{} is a link, or leads through one. Links are not followed here."),
    errno.ENOTDIR: ("not_a_folder", "{} is not in a folder."),
    errno.EISDIR: ("not_a_file", "{} is a folder."),
    errno.EACCES: ("not_permitted", "{} may not be opened or changed."),
    errno.EPERM: ("not_permitted", "{} may not be opened or changed."),
    errno.EROFS: ("not_permitted", "{} may not be changed."),
    errno.ENOSPC: ("no_space", "There is no room left for {}."),
    errno.EDQUOT: ("no_space", "There is no room left for {}."),
    errno.EFBIG: ("no_space", "{} is larger than a file may be here."),
    errno.ENAMETOOLONG: ("bad_path", "{} is too long a name."),
    errno.EINVAL: ("bad_path", "{} cannot be moved there."),
}


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason, words = _WORDS.get(error.errno or 0, ("file_unusable", "{} cannot be used: " + str(error.strerror)))
        raise FileError(reason, words.format(path.rpartition("/")[2] or "The folder")) from error
