"""The Nix modules, evaluated for real (nix-instantiate) against a stand-in of the module system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from choir.deploy.units import Deployment, render

ROOT = Path(__file__).parents[2]
MODULES = (ROOT / "nix/modules/choir.nix", ROOT / "nix/modules/choir-platform-secrets.nix")

pytestmark = pytest.mark.skipif(shutil.which("nix-instantiate") is None, reason="needs nix-instantiate (nix-bin)")


def nix(tmp_path: Path, *arguments: str) -> str:
    # A store of the test's own: an ordinary user may not make the system's.
    environment = {name: str(tmp_path / name) for name in ("NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR")}
    done = subprocess.run(
        ["nix-instantiate", *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(tmp_path: Path, settings: str) -> dict[str, Any]:
    modules = " ".join(map(str, MODULES))
    expression = f"import {ROOT}/tests/deploy/stand_in.nix {{ modules = [ {modules} ]; settings = {settings}; }}"
    answer: dict[str, Any] = json.loads(nix(tmp_path, "--eval", "--strict", "--json", "-E", expression))
    return answer


def directives(text: str) -> dict[str, dict[str, list[str]]]:
    """A unit's text as sections of directives; the order between directives of different names means nothing."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line[1:-1], {})
        elif line:
            name, _, value = line.partition("=")
            section.setdefault(name, []).append(value)
    return sections


def as_systemd(service: dict[str, Any], kind: str) -> dict[str, dict[str, list[str]]]:
    """What NixOS makes of a service's or socket's attributes."""

    def values(section: dict[str, Any]) -> dict[str, list[str]]:
        out = {}
        for name, value in section.items():
            several = value if isinstance(value, list) else [value]
            out[name] = [str(one).lower() if isinstance(one, bool) else str(one) for one in several]
        return out

    unit = {"Unit": values(service["unitConfig"]), kind: values(service[f"{kind.lower()}Config"])}
    return {**unit, "Install": {"WantedBy": service["wantedBy"]}} if service["wantedBy"] else unit


def server(extra: str = "") -> str:
    return f'services.choir = {{ enable = true; executable = "/opt/choir/current/bin/choir"; {extra} }};'


@pytest.mark.parametrize("path", [*MODULES, ROOT / "nix/units.nix", ROOT / "flake.nix"], ids=lambda path: path.name)
def test_parses(path: Path, tmp_path: Path) -> None:
    nix(tmp_path, "--parse", str(path))


def test_the_units_are_those_of_install_systemd(tmp_path: Path) -> None:
    systemd = evaluate(tmp_path, f"{{ {server()} }}")["systemd"]
    ours = render(Deployment(config=Path("/nix/store/x-choir.toml"), bin=Path("/run/current-system/sw/bin")))
    theirs = {f"{name}.service": as_systemd(service, "Service") for name, service in systemd["services"].items()}
    theirs |= {f"{name}.timer": as_systemd(unit, "Timer") for name, unit in systemd["timers"].items()}
    theirs |= {f"{name}.socket": as_systemd(unit, "Socket") for name, unit in systemd["sockets"].items()}
    assert theirs == {name: directives(text) for name, text in ours.items()}


def test_without_the_local_model(tmp_path: Path) -> None:
    settings = server("localModel = false;")
    assert set(evaluate(tmp_path, f"{{ {settings} }}")["systemd"]["services"]) == {
        "choir",
        "choir-gateway",
        "choir-keys",
        "choir-verify",
    }


def test_platform_secrets_reach_the_gateway_alone(tmp_path: Path) -> None:
    settings = server('platformSecrets = { enable = true; sopsFile = "/etc/keys.env"; };')
    answer = evaluate(tmp_path, f"{{ {settings} }}")
    secret = answer["sops"]["secrets"]["choir-providers.env"]
    assert (secret["mode"], secret["owner"]) == ("0400", "choir-gateway")
    assert secret["reloadUnits"] == ["choir-gateway.service"]
    gateway = answer["systemd"]["services"]["choir-gateway"]
    assert gateway["environment"] == {"CHOIR_ENV_FILE": "/run/secrets/choir-providers.env"}
    assert not any("providers.env" in credential for credential in gateway["serviceConfig"]["LoadCredential"])
    for name in ("choir", "choir-model"):
        assert "providers" not in json.dumps(answer["systemd"]["services"][name])
    assert answer["failed"] == []


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ('systemd.services.choir.environment.OPENAI_API_KEY = "x";', "choir.service"),
        ('systemd.services.choir.serviceConfig.EnvironmentFile = "/etc/choir/keys/providers.env";', "choir.service"),
        ('systemd.services.choir-model.serviceConfig.SetCredential = ["ANTHROPIC_API_KEY:x"];', "choir-model"),
        ('systemd.services.choir-verify.environment.AWS_SECRET_ACCESS_KEY = "x";', "choir-verify"),
        ('systemd.services.choir-verify.environment.HF_TOKEN = "x";', "choir-verify"),
        ('systemd.services.choir-keys.serviceConfig.LoadCredential = ["age.key:/etc/choir/age.key"];', "choir-keys"),
    ],
)
def test_a_key_anywhere_else_is_refused(tmp_path: Path, extra: str, word: str) -> None:
    (message,) = evaluate(tmp_path, f"{{ {server()} {extra} }}")["failed"]
    assert word in message


def test_a_state_folder_of_ones_own(tmp_path: Path) -> None:
    own, elsewhere = (server(f'stateFolder = "{folder}";') for folder in ("/var/lib/team/a", "/srv/choir"))
    services = evaluate(tmp_path, f"{{ {own} }}")["systemd"]["services"]
    assert services["choir"]["serviceConfig"]["StateDirectory"] == "team/a"
    assert services["choir-gateway"]["serviceConfig"]["StateDirectory"] == "team/a/gateway"
    (message,) = evaluate(tmp_path, f"{{ {elsewhere} }}")["failed"]
    assert "/var/lib" in message


def test_a_credential_forwarded_into_sandboxes_is_refused(tmp_path: Path) -> None:
    settings = server('settings.sandbox.forward_env = [ "GITHUB_ACCESS_TOKEN" ];')
    (message,) = evaluate(tmp_path, f"{{ {settings} }}")["failed"]
    assert "forward_env" in message
