"""The /etc of sandboxes: one folder of its own, copied from the host's.

Shown as one mount. Bound file by file it would be thirty, and the launcher looks at all mounts for each: half of what a
start takes. It lies in the person's cache folder under a name that says what it was copied from, and is made anew when
the host's files have changed. Sandboxes see it read-only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping, Sequence

from choir.digest import sha256_hex
from choir.kept import stamp

_VERSION = 1  # of how it is made


def prepare(base: str, paths: Sequence[str], files: Mapping[str, str]) -> str:
    """The folder with copies of ``paths`` and the generated ``files``; "" when it cannot be made.

    Args:
        base: below which it is kept; made when missing.
        paths: of the host, below /etc. What others may not read is left out.
        files: path below /etc → content.
    """
    name = sha256_hex(repr((_VERSION, paths, stamp(paths), sorted(files.items()))).encode())[:16]
    folder = f"{base}/etc-{name}"
    draft = f"{folder}.{os.getpid()}"
    try:
        if not _is_ours(folder):
            os.makedirs(base, 0o700, exist_ok=True)
            _publish(draft, folder, paths, files)
        return folder if _is_ours(folder) else ""
    except OSError:
        return ""


def _publish(draft: str, folder: str, paths: Sequence[str], files: Mapping[str, str]) -> None:
    import shutil

    try:
        _make(draft, paths, files)
        with contextlib.suppress(OSError):  # somebody else was as quick
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_ours(folder: str) -> bool:
    try:
        info = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _make(draft: str, paths: Sequence[str], files: Mapping[str, str]) -> None:
    os.mkdir(draft, 0o755)
    for path in paths:
        real = os.path.realpath(path)
        target = draft + path.removeprefix("/etc")
        _make_folders(os.path.dirname(target))
        if real.startswith("/usr/"):
            os.symlink(real, target)
        else:
            _copy(real, target)
    for path, text in files.items():
        target = draft + path.removeprefix("/etc")
        _make_folders(os.path.dirname(target))
        _write(target, text.encode())


def _make_folders(path: str) -> None:
    if not os.path.isdir(path):
        _make_folders(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)  # noqa: S103 - as /etc is


def _copy(source: str, target: str) -> None:
    info = os.lstat(source)
    if stat.S_ISLNK(info.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISDIR(info.st_mode) and info.st_mode & 0o005 == 0o005:
        os.mkdir(target)
        os.chmod(target, 0o755)  # noqa: S103 - as /etc is
        for name in os.listdir(source):
            _copy(f"{source}/{name}", f"{target}/{name}")
    elif stat.S_ISREG(info.st_mode) and info.st_mode & 0o004:
        with open(source, "rb") as file:
            _write(target, file.read())


def _write(target: str, content: bytes) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(descriptor, 0o644)
