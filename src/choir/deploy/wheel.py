"""A wheel of Choir, looked into before it is installed."""

from __future__ import annotations

import email
import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from choir.errors import ChoirError
from choir.installation import VERSION

_CONDITION = re.compile(r"\s*(>=|<=|>|<)\s*(\d+(?:\.\d+)*)\s*\Z")
_EXTRA = re.compile(r"""\bextra\s*==\s*['"]([^'"]+)['"]""")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Wheel:
    """``extras`` are the requirements of all its extras, as the wheel writes them; ``lock`` is the release's
    requirements.lock beside it, if there is one."""

    path: Path
    version: str
    requires_python: str
    extras: tuple[str, ...]
    sha256: str
    lock: Path | None


def look(path: Path) -> Wheel:
    """
    Raises:
        ChoirError: ``wheel_unusable``: it is none of Choir, or not what SHA256SUMS beside it says.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
            metadata = email.message_from_bytes(archive.read(names[0])) if len(names) == 1 else None
            broken = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise _unusable(path, str(error)) from error
    if metadata is None or broken is not None:
        raise _unusable(path, "it is no wheel" if broken is None else f"{broken} in it is damaged")
    version = str(metadata.get("Version", ""))
    if str(metadata.get("Name", "")).lower() != "choir" or not VERSION.match(version):
        raise _unusable(path, "it is not of Choir")
    if f"choir-{version}-" != path.name[: len(version) + 7]:
        raise _unusable(path, f"its name does not say {version}, its version")
    _check_sum(path, digest)
    lock = path.with_name("requirements.lock")
    return Wheel(
        path=path.absolute(),
        version=version,
        requires_python=str(metadata.get("Requires-Python", "")),
        extras=tuple(found for line in metadata.get_all("Requires-Dist", []) if (found := _of_extra(str(line)))),
        sha256=digest,
        lock=lock.absolute() if lock.is_file() else None,
    )


def fits(requires_python: str, version: tuple[int, ...]) -> bool:
    """Whether a Python is one of ``>=3.11,<4`` and the like. What is not of these forms is left to the installer."""
    for part in filter(None, requires_python.split(",")):
        match = _CONDITION.match(part)
        if match is None:
            continue
        bound = tuple(map(int, match[2].split(".")))
        length = max(len(bound), len(version))
        have, want = (each + (0,) * (length - len(each)) for each in (version, bound))
        if not {">=": have >= want, "<=": have <= want, ">": have > want, "<": have < want}[match[1]]:
            return False
    return True


def name_of(requirement: str) -> str:
    """``xllamacpp`` of ``xllamacpp>=2026.10``, as packages are compared."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def _of_extra(line: str) -> str:
    requirement, _, marker = line.partition(";")
    return requirement.strip() if _EXTRA.search(marker) else ""


def _check_sum(path: Path, digest: str) -> None:
    sums = path.with_name("SHA256SUMS")
    if not sums.is_file():
        return
    for line in sums.read_text(errors="replace").splitlines():
        said, _, name = line.partition(" ")
        if name.lstrip(" *").removeprefix("./") == path.name and said != digest:
            raise _unusable(path, "it is not the file that SHA256SUMS beside it names")


def _unusable(path: Path, why: str) -> ChoirError:
    return ChoirError("wheel_unusable", f"{path} cannot be installed: {why}.", "Nothing was changed.")
