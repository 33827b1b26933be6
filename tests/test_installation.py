from __future__ import annotations

import os
from pathlib import Path

import pytest

from choir.errors import StartError
from choir.installation import Installation, find


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    for version in ("0.1.0", "0.2.0"):
        (tmp_path / f"versions/{version}/bin").mkdir(parents=True)
        (tmp_path / f"versions/{version}/bin/python").touch()
    (tmp_path / "current").symlink_to("versions/0.1.0")
    return Installation(tmp_path)


def test_an_environment_knows_the_installation_it_is_a_version_of(installation: Installation) -> None:
    assert find(str(installation.environment("0.2.0"))) == installation
    assert find(str(installation.prefix)) is None
    assert find(str(installation.prefix / "versions/not-a-version")) is None
    installation.link.unlink()
    assert find(str(installation.environment("0.2.0"))) is None


def test_the_link_is_switched_and_leaves_nothing_beside_it(installation: Installation) -> None:
    assert installation.in_force() == "0.1.0"
    installation.switch("0.2.0")
    assert installation.in_force() == "0.2.0"
    assert os.readlink(installation.link) == "versions/0.2.0"
    assert {path.name for path in installation.prefix.iterdir()} == {"versions", "current"}


def test_a_switch_that_fails_changes_nothing(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StartError, match="No space left"):
        installation.switch("0.2.0")
    assert installation.in_force() == "0.1.0"
    assert {path.name for path in installation.prefix.iterdir()} == {"versions", "current"}


@pytest.mark.parametrize("target", ["versions/0.3.0", "../elsewhere/versions/0.1.0", "/usr", "versions"])
def test_a_link_to_anything_else_is_no_version(installation: Installation, target: str) -> None:
    installation.link.unlink()
    installation.link.symlink_to(target)
    with pytest.raises(StartError) as caught:
        installation.in_force()
    assert caught.value.reason == "no_version_in_force"


@pytest.mark.parametrize("version", ["", "..", "a", "1/../2", "-1", "1\n"])
def test_a_version_is_never_a_path(installation: Installation, version: str) -> None:
    with pytest.raises(StartError) as caught:
        installation.environment(version)
    assert caught.value.reason == "version_invalid"
