from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from choir import tokens
from choir.deploy import install
from choir.deploy.units import Deployment
from choir.errors import StartError


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(config=tmp_path / "choir/choir.toml", keys=tmp_path / "choir/keys")


def everything(deployment: Deployment, etc: Path) -> list[install.File]:
    return install.files(deployment, etc) + install.keys(etc / "state")


def test_files_and_modes(deployment: Deployment, tmp_path: Path) -> None:
    for file in everything(deployment, tmp_path):
        assert install.write(file)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in sorted(tmp_path.rglob("*"))
        if path.is_file()
    }
    assert modes == {
        "choir/choir.toml": 0o644,
        "choir/keys/providers.env": 0o600,
        "state/local.key": 0o600,
        "state/token.key": 0o600,
        "systemd/system/choir-gateway.service": 0o644,
        "systemd/system/choir-keys.service": 0o644,
        "systemd/system/choir-model.service": 0o644,
        "systemd/system/choir-verify.service": 0o644,
        "systemd/system/choir-verify.timer": 0o644,
        "systemd/system/choir.service": 0o644,
        "systemd/system/choir.socket": 0o644,
        "sysusers.d/choir.conf": 0o644,
    }
    assert stat.S_IMODE(deployment.keys.stat().st_mode) == 0o700
    assert len((tmp_path / "state/token.key").read_bytes()) == tokens.KEY_BYTES


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_services_can_read_what_they_must_whatever_the_umask(
    umask: int, deployment: Deployment, tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        for file in everything(deployment, tmp_path):
            install.write(file)
    finally:
        os.umask(before)
    names = ("choir", "choir/keys", "state", "systemd", "systemd/system", "sysusers.d")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names}
    assert modes == {name: {"choir/keys": 0o700, "state": 0o711}.get(name, 0o755) for name in names}


def test_again_keeps_keys_and_configuration_and_renews_units(deployment: Deployment, tmp_path: Path) -> None:
    for file in everything(deployment, tmp_path):
        install.write(file)
    (deployment.keys / "providers.env").write_text("OPENAI_API_KEY=mine\n")
    key = (tmp_path / "state/token.key").read_bytes()
    unit = tmp_path / "systemd/system/choir.service"
    unit.write_text("old")
    written = {file.path.name for file in everything(deployment, tmp_path) if install.write(file)}
    units = (path for path in tmp_path.rglob("choir*") if path.suffix in (".service", ".socket", ".timer", ".conf"))
    assert written == {path.name for path in units}
    assert (tmp_path / "state/token.key").read_bytes() == key
    assert (deployment.keys / "providers.env").read_text() == "OPENAI_API_KEY=mine\n"
    assert unit.read_text().startswith("[Unit]")


def test_what_is_shown_before_never_shows_a_key(deployment: Deployment, tmp_path: Path) -> None:
    keys = [file for file in everything(deployment, tmp_path) if file.secret]
    assert len(keys) == 2
    for file in keys:
        assert "new random key" in file.describe()
        assert file.content.hex() not in file.describe()


def test_a_link_in_the_place_of_a_kept_file_is_left_alone(deployment: Deployment, tmp_path: Path) -> None:
    deployment.keys.mkdir(parents=True)
    (deployment.keys / "providers.env").symlink_to("/run/secrets/choir")
    for file in everything(deployment, tmp_path):
        install.write(file)
    assert os.readlink(deployment.keys / "providers.env") == "/run/secrets/choir"


def test_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/inside").touch()
    with pytest.raises(StartError) as caught:
        install.write(install.File(tmp_path / "taken", 0o644, b"x"))
    assert caught.value.reason == "install_failed"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("place", ["/root/venv/bin/python", "/home/ada/.venv/bin/python", "/tmp/x/bin/python"])
def test_a_venv_the_units_cannot_see_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", place)
    with pytest.raises(StartError) as caught:
        install.command()
    assert caught.value.reason == "install_in_home"
    assert "/opt/choir" in caught.value.hint
