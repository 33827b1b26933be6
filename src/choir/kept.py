"""What was worked out once, kept in the person's cache folder until what it came from changes: ``choir run`` is on the
clock, and the libraries that read tables cost it more than the tables. Nothing secret is kept, and no sandbox sees the
folder.
"""

from __future__ import annotations

import os
import stat

from choir import plain_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def folder() -> str:
    """Where a person's programs keep what can be made again (XDG Base Directory Specification)."""
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "choir")


def stamp(paths: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Changes when one of ``paths`` does; of a folder only its own entries count."""
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            found.append(())
        else:
            found.append((info.st_mtime_ns, info.st_size, info.st_ino))
    return tuple(found)


def kept(name: str, sources: Sequence[str], make: Callable[[], Any]) -> Any:
    """What ``make`` makes of ``sources``, or made when they were as they are now.

    Args:
        name: of the file it is kept in.
        sources: paths, the code that makes it among them; one that is not there counts as well.
        make: its result is JSON; what it raises is raised.
    """
    path = f"{folder()}/{name}.json"
    made_of = plain_json.dumps([name, sources, stamp(sources)])
    try:
        found = plain_json.loads(_read(path))
        if found["made_of"] == made_of:
            return found["value"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    value = make()
    _write(path, plain_json.dumps({"made_of": made_of, "value": value}))
    return value


def _read(path: str) -> bytes:
    """The content of a file that nobody else can have written.

    Raises:
        OSError: it is none.
    """
    _check(os.lstat(os.path.dirname(path)), stat.S_IFDIR)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor), stat.S_IFREG)
        return file.read()


def _check(info: os.stat_result, kind: int) -> None:
    if stat.S_IFMT(info.st_mode) != kind or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise PermissionError("others may have written it")


def _write(path: str, text: str) -> None:
    """As a whole, or not at all: it is only slower next time."""
    draft = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError:
        return
