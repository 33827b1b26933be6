"""What an agent can leave in a folder so that somebody's git, run there later, does as the agent likes.

Git obeys a repository's own configuration (``core.fsmonitor``, ``filter.*``, aliases …) and runs its hooks, in every
repository that it comes across: one that was made anew, one whose ``.git`` is a file or holds a ``commondir`` that
points elsewhere, one that lies bare in a folder (git-config(1), gitrepository-layout(5)). Nothing here runs git.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

MAX_ENTRIES = 100_000
MAX_DEPTH = 12
_MAX_FILE = 256 * 1024

_POINTERS = ("commondir", "gitdir")
_CONFIGURATION = ("config", "config.worktree")
# Sections whose settings can neither run anything nor read other files; everything else is a trap.
_HARMLESS_SECTIONS = frozenset(("user", "branch", "pull", "push", "fetch", "advice", "color", "commit", "log"))
_HARMLESS = frozenset((
    "core.repositoryformatversion", "core.filemode", "core.bare", "core.logallrefupdates", "core.ignorecase",
    "core.precomposeunicode", "core.symlinks", "core.autocrlf", "core.eol", "core.safecrlf", "core.quotepath",
    "core.sparsecheckout", "core.sparsecheckoutcone", "core.compression", "core.commitgraph", "core.multipackindex",
    "extensions.objectformat", "extensions.refstorage", "extensions.worktreeconfig", "extensions.partialclone",
    "remote.url", "remote.fetch", "remote.push", "remote.pushurl", "remote.tagopt", "remote.prune", "remote.mirror",
    "remote.promisor", "remote.partialclonefilter", "submodule.url", "submodule.active", "submodule.branch",
    "gc.auto", "init.defaultbranch", "merge.conflictstyle", "merge.ff", "diff.algorithm", "diff.renames",
    "rerere.enabled", "status.showuntrackedfiles",
))  # fmt: skip

Places = Mapping[Path, int]
"""Where git looks, and when each was last changed (ctime, nanoseconds: the kernel's word)."""


def git_places(folder: Path) -> dict[Path, int]:
    """Every place in ``folder`` from which git takes orders: what to hand to ``find_git_traps`` afterwards.

    At most 100,000 entries, 12 levels deep; links are not followed.
    """
    return {path: changed for path, changed, _ in _places(folder)}


def find_git_traps(folder: Path, before: Places) -> list[Path]:
    """The places that are new or changed since ``before`` and would make git run something, or look elsewhere.

    New repositories as ``git init`` and ``git clone`` make them are none. What cannot be read or understood is one.
    """
    return sorted(path for path, changed, harmless in _places(folder) if before.get(path) != changed and not harmless)


def _places(folder: Path) -> Iterator[tuple[Path, int, bool]]:
    """(path, when it was changed, whether its content is harmless)."""
    budget = MAX_ENTRIES
    for root, folders, files, descriptor in os.fwalk(folder, follow_symlinks=False):
        budget -= len(folders) + len(files)
        if budget < 0:
            return
        here = Path(root)
        depth = len(here.relative_to(folder).parts)
        if depth >= MAX_DEPTH:
            folders.clear()
        if ".git" in files or _is_link(".git", descriptor):
            yield here / ".git", _changed(".git", descriptor), _points_inside(_read(".git", descriptor), here, folder)
        bare = "HEAD" in files and ({"objects", "refs"} <= {*folders, *files} or "commondir" in files)
        if here.name != ".git" and not bare:
            continue
        # In .git/worktrees and of submodules a pointer is how git itself works; there it is judged by what it says.
        inside = ".git" in here.relative_to(folder).parts[:-1]
        for name in (*_CONFIGURATION, *_POINTERS):
            if name in files:
                harmless = _harmless(name, _read(name, descriptor), inside)
                yield here / name, _changed(name, descriptor), harmless
        if "hooks" in files or _is_link("hooks", descriptor):
            yield here / "hooks", _changed("hooks", descriptor), False
        elif "hooks" in folders:
            yield from _hooks(here / "hooks", descriptor)


def _points_inside(text: str | None, here: Path, folder: Path) -> bool:
    """Whether a ``.git`` file points to the part of a ``.git`` of this folder that git makes for a worktree or
    submodule. That is judged as a place of its own."""
    word, _, target = (text or "").strip().partition(": ")
    if word != "gitdir":
        return False
    found = Path(os.path.realpath(here / target))
    top = os.path.realpath(folder)
    if not found.is_relative_to(top):
        return False
    parts = itertools.pairwise(found.relative_to(top).parts)
    return any(pair in ((".git", "worktrees"), (".git", "modules")) for pair in parts)


def _hooks(path: Path, git: int) -> Iterator[tuple[Path, int, bool]]:
    try:
        descriptor = os.open("hooks", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=git)
    except OSError:
        return
    try:
        for name in sorted(os.listdir(descriptor)):
            if not name.endswith(".sample"):
                yield path / name, _changed(name, descriptor), False
    finally:
        os.close(descriptor)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _changed(name: str, folder: int) -> int:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_ctime_ns
    except OSError:
        return 0


def _read(name: str, folder: int) -> str | None:
    """A regular file's text; None for what is none, or too long to be judged."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
            return None
        return os.read(descriptor, _MAX_FILE).decode(errors="replace")
    finally:
        os.close(descriptor)


def _harmless(name: str, text: str | None, inside: bool) -> bool:
    if text is None:
        return False
    if name == "commondir":
        return inside and text.strip() == "../.."
    if name == "gitdir":
        return inside
    return harmless_configuration(text)


def harmless_configuration(text: str) -> bool:
    """Whether a configuration, as git-config(1) describes it, holds only settings that cannot run anything."""
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            header, closed, rest = line[1:].partition("]")
            section = header.split()[0].split(".")[0].lower() if header.split() else ""
            if not closed or rest.strip():  # a setting on the same line: legal, but nobody writes it
                return False
            continue
        if line.endswith("\\"):
            return False
        key, _, value = line.partition("=")
        name = f"{section}.{key.strip().lower()}"
        if section not in _HARMLESS_SECTIONS and name not in _HARMLESS:
            return False
        if "::" in value or value.strip().startswith("-"):  # ext::sh -c …, --upload-pack=…
            return False
    return True
