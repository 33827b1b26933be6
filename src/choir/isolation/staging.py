"""Root's preparation of a sandbox: every source bound onto a stage that an unprivileged launcher can reach.

Started by root, the launcher runs under the sandbox's own uid, which may not look into ``/root`` or another's 0700
folder. So the keeper enters a private mount namespace, clones each source's mount and puts it on a tmpfs there; folders
the sandbox may write are idmapped, so that their owner outside is the sandbox's uid inside and no file ever changes
hands. mount_setattr(2), open_tree(2) and move_mount(2), Linux 5.12. Standard library only: the keeper imports this.
"""

from __future__ import annotations

import ctypes
import os
import stat

from choir.errors import IsolationError
from choir.isolation import guards

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STAGES = ("/mnt", "/media", "/srv", "/tmp")  # noqa: S108 - only this mount namespace sees what is put there
"""Folders every system has and everybody may search. The stage hides one of them from the keeper."""

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_AT_FDCWD = -100
_AT_EMPTY_PATH, _AT_RECURSIVE = 0x1000, 0x8000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns", ctypes.c_uint64),
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _identity_map(uid: int, gid: int, host_uid: int) -> int:
    """A descriptor of a user namespace that maps ``uid`` and ``gid`` on disk to ``host_uid`` as seen by processes."""
    ready, told = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if _libc.unshare(_CLONE_NEWUSER) == 0:
                code = 0
            os.write(ready[1], b"1" if code == 0 else b"0")
            os.close(told[1])
            os.read(told[0], 1)
        finally:
            os._exit(code)
    try:
        if os.read(ready[0], 1) != b"1":
            raise OSError(1, "a user namespace for the identity map was refused")
        for name, inner in (("uid_map", uid), ("gid_map", gid)):
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(f"{inner} {host_uid} 1\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for descriptor in (*ready, *told):
            os.close(descriptor)
        os.waitpid(pid, 0)


def _clone_mount(path: str, host_uid: int | None, seen: guards.Identity | None) -> int:
    """A detached copy of the mount at ``path``; idmapped to ``host_uid`` when it belongs to another."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # whatever becomes of the path now
    try:
        info = os.fstat(place)
        if seen is not None and (info.st_dev, info.st_ino) != seen:
            raise guards.changed(path)
        flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
        mapped = host_uid is not None and info.st_uid != host_uid
        if not mapped:  # else what is mounted below would keep its own identities
            flags |= _AT_RECURSIVE
        tree = _check(_libc.syscall(_OPEN_TREE, place, b"", flags), f"open_tree {path}")
    finally:
        os.close(place)
    if host_uid is None or not mapped:
        return tree
    userns = _identity_map(info.st_uid, info.st_gid, host_uid)
    attributes = _MountAttributes(set=_MOUNT_ATTR_IDMAP, userns=userns)
    try:
        _check(
            _libc.syscall(
                _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes)
            ),
            f"idmap {path}",
        )
    except OSError as error:
        os.close(tree)
        raise IsolationError(
            "folder_not_mappable",
            f"The file system of {path} cannot be mapped to the sandbox's own user ({error.strerror}).",
            f"Use a folder on ext4, xfs, btrfs or tmpfs, give it to uid {host_uid}, or run Choir as an ordinary user.",
        ) from error
    finally:
        os.close(userns)
    return tree


def stage_folder(needed: tuple[str, ...]) -> str:
    """The first of ``STAGES`` in which nothing of ``needed`` lies: this process still imports after the stage is up.

    Raises:
        IsolationError: ``no_stage``.
    """
    for folder in STAGES:
        real = os.path.realpath(folder)
        if os.path.isdir(real) and not any(os.path.realpath(path).startswith(f"{real}/") for path in needed):
            return real
    raise IsolationError("no_stage", f"None of {', '.join(STAGES)} can be mounted on.", "Make a folder /mnt, mode 755.")


def _target(folder: str, index: int, tree: int) -> str:
    path = f"{folder}/{index}"
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return path


def stage(
    sources: list[tuple[str, bool]], host_uid: int, seen: Mapping[str, guards.Identity | None] | None = None
) -> list[str]:
    """Enter a private mount namespace and put every source on the stage.

    Args:
        sources: (host path, whether it is to belong to the sandbox's uid).
        host_uid: the sandbox's uid on the host.
        seen: what some of the paths were when the plan was made, and must still be.

    Returns:
        Where each source is now, in order.

    Raises:
        IsolationError: ``root_without_mounts``, ``no_stage``, ``source_missing`` or ``folder_not_mappable``.
        StartError: ``workspace_changed``.
    """
    folder = stage_folder((__file__, os.__file__))
    try:
        _check(_libc.unshare(_CLONE_NEWNS), "unshare")
        _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    except OSError as error:
        raise IsolationError(
            "root_without_mounts",
            f"Root may not make a mount namespace here ({error.strerror}).",
            "Give the container CAP_SYS_ADMIN, or run Choir as an ordinary user.",
        ) from error
    trees, seen = [], seen or {}
    for path, owned in sources:
        try:
            trees.append(_clone_mount(path, host_uid if owned else None, seen.get(path)))
        except OSError as error:
            raise IsolationError("source_missing", f"Cannot show {path} in the sandbox: {error.strerror}.") from error
    # Last, because it hides the folder that it is mounted on.
    _check(_libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, b"mode=755,size=1m"), "mount the stage")
    staged = []
    for index, tree in enumerate(trees):
        path = _target(folder, index, tree)
        moved = _libc.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, path.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
        _check(moved, f"move_mount {path}")
        os.close(tree)
        staged.append(path)
    return staged
