"""Mounts of a workspace and over paths of it, to which somebody else may be doing something at this very moment.

The launcher follows links, in what it mounts as in what it mounts it on: a link that one sandbox leaves in a shared
folder would show the host's files in the next. So nothing with a link in its path is mounted; and since it can become
one while the launcher works, the sandbox's first process looks at every such mount before anything else runs. Each must
be a mount of its own and show what was seen before. There are as many mounts as paths, so none of them is elsewhere.
The workspace is one of them: it may lie in the workspace of another sandbox.
Standard library only: the sandbox's first process imports this.
"""

from __future__ import annotations

import os
import stat

from choir.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Identity = tuple[int, int]
"""Device and inode."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def changed(path: str) -> StartError:
    return StartError(
        "workspace_changed",
        f"{path} is a link, or something is exchanging it right now; it cannot be protected.",
        "See what it is, and what else is running in this folder.",
    )


def identity(folder: str, path: str) -> Identity | None:
    """What ``path`` below ``folder`` is; None: it is not there.

    Raises:
        StartError: ``workspace_changed``: it is a link, or leads through one.
    """
    *parents, last = os.path.relpath(path, folder).split("/")
    try:
        descriptor = os.open(folder, _FOLDER)
    except OSError:
        raise changed(folder) from None
    try:
        for name in parents:
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        found = os.stat(last, dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:  # ENOTDIR: O_DIRECTORY and O_NOFOLLOW on a link
        raise changed(path) from None
    finally:
        os.close(descriptor)
    if stat.S_ISLNK(found.st_mode):
        raise changed(path)
    return found.st_dev, found.st_ino


def check(guards: Iterable[tuple[str, Identity | None]]) -> None:
    """Refuse a sandbox whose guards are not where they should be.

    Args:
        guards: (path, what is mounted there; None: something that was made for it).

    Raises:
        StartError: ``workspace_changed``.
    """
    mounts = set()
    for path, wanted in guards:
        try:
            mount, found = _mount(path)
        except OSError:
            raise changed(path) from None
        if mount in mounts or (wanted is not None and found != tuple(wanted)):
            raise changed(path)
        mounts.add(mount)


def _mount(path: str) -> tuple[int, Identity]:
    """The id of the mount that ``path`` lies in (proc_pid_fdinfo(5)), and what it is, seen at one moment."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:
            mount = next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))
        info = os.fstat(descriptor)
        return mount, (info.st_dev, info.st_ino)
    finally:
        os.close(descriptor)
