from __future__ import annotations

import os
from pathlib import Path

import pytest

from choir.isolation import etc

from .conftest import ROOT

FILES = {"/etc/passwd": "choir\n", "/etc/choir/ca.pem": ""}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "ssl"
    (folder / "certs").mkdir(parents=True)
    (folder / "certs" / "one.pem").write_text("certificate")
    (folder / "certs" / "hash.0").symlink_to("one.pem")
    (folder / "private.key").write_text("secret")
    (folder / "private.key").chmod(0o600)
    (folder / "private").mkdir(0o700)
    (folder / "private" / "key").write_text("secret")
    return folder


def prepare(tmp_path: Path, *paths: Path, files: dict[str, str] = FILES) -> Path:
    """As if ``paths`` lay in /etc: their targets keep the whole path."""
    folder = etc.prepare(str(tmp_path / "cache"), [str(path) for path in paths], files)
    assert folder
    return Path(folder)


def test_copies_what_everybody_may_read_and_nothing_else(tmp_path: Path, source: Path) -> None:
    made = prepare(tmp_path, source)
    copied = Path(f"{made}{source}")
    assert (copied / "certs" / "one.pem").read_text() == "certificate"
    assert os.readlink(copied / "certs" / "hash.0") == "one.pem"
    assert sorted(os.listdir(copied)) == ["certs"]
    assert (made / "passwd").read_text() == "choir\n"
    assert (made / "choir" / "ca.pem").read_text() == ""
    for path in (made, copied, copied / "certs"):
        assert path.stat().st_mode & 0o777 == 0o755


def test_is_made_once_and_anew_when_something_changed(tmp_path: Path, source: Path) -> None:
    first = prepare(tmp_path, source)
    assert prepare(tmp_path, source) == first
    (source / "more").write_text("x")
    (source / "more").chmod(0o644)
    second = prepare(tmp_path, source)
    assert second != first
    assert Path(f"{second}{source}/more").exists()
    assert prepare(tmp_path, source, files={}) not in (first, second)
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {first.name, second.name}
    assert not [path for path in (tmp_path / "cache").iterdir() if "." in path.name]  # no draft is left


def test_links_into_usr_stay_links(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/bin/env")
    made = prepare(tmp_path, link)
    assert os.readlink(f"{made}{link}") == os.path.realpath("/usr/bin/env")


def test_a_folder_that_others_can_change_is_not_taken(tmp_path: Path, source: Path) -> None:
    made = prepare(tmp_path, source)
    made.chmod(0o777)
    assert etc.prepare(str(tmp_path / "cache"), [str(source)], FILES) == ""


@pytest.mark.skipif(ROOT, reason="root may write anywhere")
def test_where_nothing_can_be_kept_there_is_none(tmp_path: Path, source: Path) -> None:
    (tmp_path / "cache").mkdir(0o500)
    assert etc.prepare(str(tmp_path / "cache"), [str(source)], FILES) == ""
    assert etc.prepare("/proc/nowhere", [str(source)], FILES) == ""
