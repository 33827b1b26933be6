"""The units' text, judged by systemd's own tools where they are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from choir.deploy.units import Deployment, render
from choir.errors import ConfigError

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (systemd)")


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, text in render(Deployment(choir="/bin/true")).items():
        (tmp_path / name).write_text(text)
        paths[name] = tmp_path / name
    return paths


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


@needs_systemd
@pytest.mark.parametrize(
    ("name", "threshold"),
    [("choir-gateway.service", 20), ("choir-model.service", 10), ("choir.service", 60), ("choir-verify.service", 71)],
)
def test_exposure(units: dict[str, Path], name: str, threshold: int) -> None:
    done = analyze("security", "--offline=true", f"--threshold={threshold}", str(units[name]))
    assert done.returncode == 0, done.stdout


@needs_systemd
def test_systemd_takes_every_line(units: dict[str, Path]) -> None:
    done = analyze("verify", *map(str, units.values()))
    # A word of systemd 254 that older ones pass over.
    lines = [line for line in done.stderr.splitlines() if "tmp" in line and "DelegateSubgroup" not in line]
    assert lines == []


_LIMITED = """
import subprocess, sys
from choir.isolation.terminals import Bound
own = "mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts && echo there && exec cat"
command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", own]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sandbox:
    assert sandbox.stdout.readline() == b"there\\n"
    sys.exit(not Bound(sandbox.pid).wait())
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="gives rights up (root, setpriv)")
@pytest.mark.parametrize("name", ["choir.service", "choir-verify.service"])
def test_the_units_rights_are_enough_to_limit_a_sandboxs_terminals(name: str) -> None:
    (line,) = re.findall(r"^CapabilityBoundingSet=(CAP_.*)$", render(Deployment())[name], re.MULTILINE)
    rights = ",".join(["-all", *(f"+{word.removeprefix('CAP_').lower()}" for word in line.split())])
    command = [
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        f"--bounding-set={rights}",
        sys.executable,
        "-c",
        _LIMITED,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["choir.service", "choir-verify.service"])
def test_what_starts_sandboxes_sees_all_of_proc(name: str) -> None:
    """The kernel gives a user namespace a /proc of its own only to who sees all of one (mount_too_revealing())."""
    masks = ("ProtectKernelLogs", "ProtectKernelTunables", "ProcSubset", "ProtectProc", "InaccessiblePaths")
    assert [line for line in render(Deployment())[name].splitlines() if line.startswith(masks)] == []


def test_the_audit_may_no_more_than_the_hypervisor() -> None:
    """It starts sandboxes, too."""
    starts = ("Protect", "Restrict", "Capability", "SystemCallArch", "NoNew", "Lock", "Keyring", "UMask", "LimitCORE")
    both = [render(Deployment())[name].splitlines() for name in ("choir.service", "choir-verify.service")]
    hypervisor, audit = ({line for line in lines if line.startswith(starts)} for lines in both)
    assert audit == hypervisor


def test_only_the_gateway_is_given_provider_keys() -> None:
    for name, text in render(Deployment()).items():
        assert ("providers.env" in text) == (name == "choir-gateway.service"), name


def test_every_unit_is_told_the_same_state_and_configuration() -> None:
    units = render(Deployment(config=Path("/srv/choir.toml"), state=Path("/var/lib/team/choir")))
    for name, text in units.items():
        if name.endswith(".service") and name not in ("choir-keys.service", "choir-verify.service"):
            assert re.search(r"Environment=CHOIR_STATE=/var/lib/team/choir(/gateway|/model)?\n", text)
            assert re.search(r"ExecStart=\S+ up (gateway|hypervisor|model) --config /srv/choir\.toml\n", text), name
            # Else ProtectSystem= lets nothing be written there.
            assert re.search(r"StateDirectory=team/choir(/gateway|/model)?\n", text), name
        assert "{" not in text


@pytest.mark.parametrize("state", ["/srv/choir", "/var/lib", "/var/lib/../choir", "var/lib/choir"])
def test_a_state_folder_that_the_services_could_not_write_is_refused(state: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(Deployment(state=Path(state)))
    assert caught.value.reason == "state_elsewhere"


def test_a_link_in_the_gateways_folder_does_not_lead_root_elsewhere(tmp_path: Path) -> None:
    """The reload's first command, as root runs it in a folder that is the gateway's own."""
    (line,) = re.findall(r"^ExecReload=\+(.* -m .*)$", render(Deployment())["choir-gateway.service"], re.MULTILINE)
    program, *words = re.sub(r"-[og] \S+", "", line).split()
    folder, elsewhere, keys = (tmp_path / name for name in ("choir-gateway", "elsewhere", "providers.env"))
    folder.mkdir()
    elsewhere.mkdir()
    keys.write_text("A_KEY=1\n")
    (folder / "providers.env").symlink_to(elsewhere)
    places = {str(Deployment().keys / "providers.env"): str(keys), "%t/choir-gateway/providers.env": ""}
    words = [places.get(word, word) or str(folder / "providers.env") for word in words]
    subprocess.run([program, *words], check=True, timeout=30)
    assert list(elsewhere.iterdir()) == []
    assert (folder / "providers.env").read_text() == "A_KEY=1\n"


@pytest.mark.parametrize("choir", ["", "/opt/my choir", "/opt/choir\nExecStartPre=/bin/sh", "/opt/%h/choir", "/opt/$X"])
def test_what_a_unit_cannot_carry_is_refused(choir: str) -> None:
    with pytest.raises(ConfigError) as caught:
        render(Deployment(choir=choir))
    assert caught.value.reason == "unit_value_invalid"
