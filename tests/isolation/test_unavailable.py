"""A host that lacks something: the start is refused at once, with the reason and the fix, never downgraded."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest

from choir.errors import ChoirError, IsolationError, StartError
from choir.isolation import begin, host
from choir.isolation.bubblewrap import BubblewrapBackend

from .conftest import MakeSpec, output_of


def with_launcher(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> BubblewrapBackend:
    """A backend whose launcher is ``script``, in a folder that every user may enter."""
    path = folder / "bwrap"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    changed = host.inspect()._replace(launcher=host.Launcher(str(path), str(path)))
    monkeypatch.setattr(begin, "inspect", lambda: changed)
    return BubblewrapBackend()


@pytest.mark.parametrize(
    ("script", "reason", "hint"),
    [
        (
            "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1",
            "user_namespaces_unavailable",
            "apparmor_restrict_unprivileged_userns",
        ),
        ("kill -9 $$", "launcher_failed", ""),
        ("exit 0", "launcher_failed", ""),
    ],
)
def test_a_launcher_that_cannot(
    monkeypatch: pytest.MonkeyPatch, make_spec: MakeSpec, tmp_path: Path, script: str, reason: str, hint: str
) -> None:
    backend = with_launcher(monkeypatch, tmp_path, script)
    for attempt in (backend.probe(), output_of(backend, make_spec("true"))):
        with pytest.raises(IsolationError) as caught:
            asyncio.run(attempt)
        assert caught.value.reason == reason
        assert hint in caught.value.hint


def test_user_namespaces_really_switched_off(make_spec: MakeSpec) -> None:
    """In a user namespace of our own that allows no further ones, as a distribution's setting would."""
    import subprocess
    import sys

    program = """
import asyncio, sys
from pathlib import Path
open('/proc/sys/user/max_user_namespaces', 'w').write('0')
import os
os.geteuid = lambda: 1  # not root on this machine: it has no other uids
from choir.errors import ChoirError
from choir.isolation.bubblewrap import BubblewrapBackend
try:
    asyncio.run(BubblewrapBackend().probe())
except ChoirError as error:
    print(type(error).__name__, error.reason, error.hint)
"""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1)")
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert ended.stdout.startswith("IsolationError user_namespaces_unavailable "), ended.stderr
    assert "max_user_namespaces" in ended.stdout


def test_no_launcher_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_bundled", lambda: None)
    monkeypatch.setattr(host, "_system", lambda: None)
    with pytest.raises(IsolationError) as caught:
        host.find_launcher()
    assert caught.value.reason == "launcher_missing"


@pytest.mark.parametrize(
    ("system", "bundled", "chosen"),
    [((0, 12, 0), (0, 11, 0), "system"), ((0, 11, 0), (0, 11, 0), "bundled"), ((0, 8, 0), None, "system")],
)
def test_a_newer_launcher_of_the_system_wins(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    system: tuple[int, ...],
    bundled: tuple[int, ...] | None,
    chosen: str,
) -> None:
    (tmp_path / "bwrap").touch(mode=0o755)
    own = str(tmp_path / "bwrap")
    versions = {own: system, "/bundled": bundled or ()}
    monkeypatch.setattr(host, "_version", versions.__getitem__)
    monkeypatch.setattr(host, "_bundled", lambda: host.Launcher("/bundled", "/") if bundled else None)
    monkeypatch.setattr(host, "_system", lambda: own)
    assert host.find_launcher().path == (own if chosen == "system" else "/bundled")


def test_a_set_uid_launcher_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bwrap").touch(mode=0o755)
    (tmp_path / "bwrap").chmod(0o4755)
    monkeypatch.setattr(host, "_bundled", lambda: host.Launcher("/bundled", "/"))
    monkeypatch.setattr(host, "_system", lambda: str(tmp_path / "bwrap"))
    assert host.find_launcher().path == "/bundled"


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "no_space"), (errno.EACCES, "home_unwritable")])
def test_a_home_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, backend: BubblewrapBackend, make_spec: MakeSpec, number: int, reason: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    spec = make_spec("true")
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(backend, spec))
    assert caught.value.reason == reason


def test_a_folder_that_is_gone(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    from choir.isolation.contract import Mount

    with pytest.raises(ChoirError) as caught:
        asyncio.run(output_of(backend, make_spec("true", mounts=(Mount(tmp_path / "gone"),))))
    assert caught.value.reason in ("source_missing", "mount_failed")
    assert str(tmp_path / "gone") in caught.value.message
