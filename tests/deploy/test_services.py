"""What runs with an installation. systemd is a stand-in on PATH that answers as ``systemctl`` does."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from choir.deploy import services
from choir.deploy.journal import Deployment
from choir.errors import ChoirError
from choir.installation import Installation
from choir.paths import State

# As systemd 252 prints them.
SHOWN = """\
LoadState={load}
ActiveState={active}
ExecStart={{ path={command} ; argv[]={command} up {part} --config /etc/choir/choir.toml ; ignore_errors=no ; \
start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}
Environment=CHOIR_STATE={state} PYTHONDONTWRITEBYTECODE=1
"""


class Systemd:
    """Writes the stand-in and what it is to answer; reads what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked = folder / "asked"
        folder.mkdir()
        script = folder / "systemctl"
        where = shlex.quote(str(folder))
        script.write_text(
            "#!/bin/sh\n"
            f'for unit; do :; done; echo "$@" >>{where}/asked\n'
            f'if [ "$1" = show ]; then cat {where}/"$unit" 2>/dev/null || echo LoadState=not-found; exit; fi\n'
            f'[ ! -e {where}/"$unit.fails" ] || {{ echo "Job for $unit failed." >&2; exit 1; }}\n'
        )
        script.chmod(0o755)

    def unit(self, name: str, command: object, state: object = "/var/lib/choir", active: str = "active") -> None:
        text = SHOWN.format(load="loaded", active=active, command=command, part="hypervisor", state=state)
        (self.folder / name).write_text(text)

    @property
    def restarted(self) -> list[str]:
        lines = self.asked.read_text().splitlines() if self.asked.exists() else []
        return [line.removeprefix("restart ") for line in lines if line.startswith("restart ")]


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    return made


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path / "opt")


def three(systemd: Systemd, installation: Installation) -> None:
    for name in services.UNITS:
        systemd.unit(name, installation.command, active="active" if "model" not in name else "inactive")


def test_the_units_say_what_runs_and_on_what(systemd: Systemd, installation: Installation) -> None:
    three(systemd, installation)
    found = services.find(installation, None, None)
    assert found == Deployment(
        "/var/lib/choir", "/etc/choir/choir.toml", units=("choir-gateway.service", "choir.service")
    )
    assert services.find(installation, Path("/var/lib/choir"), Path("/srv/c.toml")).config == "/srv/c.toml"


def test_the_gateway_first_and_what_did_not_run_stays_so(systemd: Systemd, installation: Installation) -> None:
    three(systemd, installation)
    services.restart(services.find(installation, None, None), "0.2.0")
    assert systemd.restarted == ["choir-gateway.service", "choir.service"]


def test_a_unit_that_does_not_start_is_named(systemd: Systemd, installation: Installation) -> None:
    three(systemd, installation)
    (systemd.folder / "choir.service.fails").touch()
    with pytest.raises(ChoirError) as caught:
        services.restart(services.find(installation, None, None), "0.2.0")
    assert caught.value.reason == "service_failed"
    assert "Job for choir.service failed." in caught.value.message


def test_units_that_name_one_version_are_not_upgraded(systemd: Systemd, installation: Installation) -> None:
    systemd.unit("choir.service", installation.prefix / "versions/0.1.0/bin/choir")
    with pytest.raises(ChoirError) as caught:
        services.find(installation, None, None)
    assert caught.value.reason == "units_name_a_version"
    assert "install systemd" in caught.value.hint


def test_units_of_another_installation_or_state_are_not_ours(
    systemd: Systemd, installation: Installation, tmp_path: Path
) -> None:
    systemd.unit("choir.service", "/opt/other/current/bin/choir")
    assert services.find(installation, tmp_path / "s", None) == Deployment(str(tmp_path / "s"))
    three(systemd, installation)
    assert services.find(installation, tmp_path / "s", None) == Deployment(str(tmp_path / "s"))


def test_without_systemd(tmp_path: Path, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CHOIR_STATE", str(tmp_path / "s"))
    assert services.find(installation, None, None) == Deployment(str(tmp_path / "s"))


# ---------------------------------------------------------------------- choir up

UP = """
import fcntl, json, os, signal, sys
state, mode = sys.argv[1:]
lock = os.open(state + "/run/up.lock", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
def say(started, choir):
    with open(state + "/run/draft", "w") as file:
        json.dump({"pid": os.getpid(), "choir": choir, "part": "all", "started": started, "prefix": "?"}, file)
    os.rename(state + "/run/draft", state + "/run/up.json")
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
say(1, "0.1.0")
print("ready", flush=True)
signal.sigwait({signal.SIGUSR2})
if mode == "ends":
    sys.exit(1)
say(2, "0.2.0" if mode == "goes on" else "0.1.0")
sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemd
    return State(tmp_path / "s").prepare()


@pytest.mark.parametrize(("mode", "reason"), [("goes on", ""), ("ends", "up_ended"), ("as before", "up_other")])
def test_a_choir_up_goes_on_in_its_place(state: State, mode: str, reason: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", UP, str(state.root), mode], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = ""
        try:
            services.restart(Deployment(str(state.root), up=True), "0.2.0")
        except ChoirError as error:
            found = error.reason
        assert found == reason
        process.kill()
    with pytest.raises(ChoirError) as caught:
        services.restart(Deployment(str(state.root), up=True), "0.2.0")
    assert caught.value.reason == "up_ended"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, ""),
        ({"environment_keys": True}, "keys_in_environment"),
        ({"prefix": "/usr"}, "other_installation"),
        ({"part": "hypervisor"}, "up_unknown"),
        (None, "up_unknown"),
    ],
)
def test_which_choir_up_can_be_restarted(
    state: State, installation: Installation, said: dict[str, object] | None, reason: str
) -> None:
    lock = os.open(state.run / "up.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if said is not None:
            usual = {"pid": 1, "part": "all", "prefix": str(installation.versions / "0.1.0"), "environment_keys": False}
            (state.run / "up.json").write_text(json.dumps(usual | said))
        found = ""
        try:
            assert services.find(installation, state.root, None) == Deployment(str(state.root), up=True)
        except ChoirError as error:
            found = error.reason
        assert found == reason
    finally:
        os.close(lock)
    assert services.find(installation, state.root, None) == Deployment(str(state.root))
