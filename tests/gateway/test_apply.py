"""``choir config apply`` as a process, at a gateway with an open stream."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys

from .conftest import StartGateway
from .harness import EVENTS, Client, Double, Gateway, provider


def choir(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "choir.cli.main", "config", *words),
            *("--config", str(gateway.config), "--state", str(gateway.state.root)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_apply_changes_what_is_in_force_and_keeps_streams(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port), folder="gw")
    key = gateway.folder / "key"
    key.write_text("first\n")
    key.chmod(0o600)
    text = provider("mock", double.port).replace('key = "env:MOCK_KEY"', f'keys = ["file:{key}", "env:MOCK_KEY"]')
    gateway.config.write_text(text)
    assert choir(gateway, "apply").returncode == 0
    sandbox = gateway.sandbox()
    with contextlib.closing(Client(sandbox.port)) as client:
        client.send(sandbox.request(behave="hold"))
        client.until(EVENTS[0])
        key.write_text("second\n")
        gateway.config.write_text(
            text + provider("more", double.port) + "[limits]\nrequests_per_minute = 5\n"
            '[prices]\n"mock/*" = { input = 1 }\n[users.ann]\nproviders = ["mock"]\n[sandbox]\nkeep_snapshots = 2\n'
        )
        done = choir(gateway, "apply")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            f"{gateway.config}: in force",
            f"  [providers.mock] file:{key}: a key → another key",
            f"  [providers.more]: added (http://127.0.0.1:{double.port}/v1)",
            "  [limits] requests_per_minute: 600 → 5",
            "  [users.ann]: added (set)",
            '  [prices."mock/*"]: added (set)',
            "  [sandbox] keep_snapshots: 5 → 2  (at the next start of Choir)",
        ]
        assert sandbox.call(provider="more").status == 200
        assert sandbox.call().status == 200
        assert b"Bearer second\r" in double.requests[-1][0]
        double.release.set()
        client.until(EVENTS[3])
        client.until(b"0\r\n\r\n")
    assert [record.outcome for record in sandbox.records(3)] == ["ok"] * 3
    again = json.loads(choir(gateway, "apply", "--json").stdout)
    assert again["gateways"] == [{"pid": gateway.worker_pid, "changes": [], "change_count": 0}]
    assert "nothing changed" in choir(gateway, "apply").stdout
    for told in (gateway.log.read_text(), done.stdout):
        assert "first" not in told
        assert "second" not in told


def test_apply_refuses_what_is_wrong_and_keeps_what_was(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port) + "[limits]\nrequests_per_minute = 2\n", folder="gw")
    sandbox = gateway.sandbox()
    gateway.config.write_text(provider("mock", double.port) + "[limits]\nrequests_per_minute = 'all'\n")
    done = choir(gateway, "apply")
    assert done.returncode == 78
    assert f"{gateway.config}:8:1: Expected `int`, got `str`" in done.stderr
    # Only the gateway can see that this one is wrong.
    key = gateway.folder / "key"
    key.write_text("secret-value\n")
    key.chmod(0o644)
    gateway.config.write_text(provider("mock", double.port).replace("env:MOCK_KEY", f"file:{key}"))
    done = choir(gateway, "apply", "--json")
    assert done.returncode == 78
    assert json.loads(done.stdout)["error"]["reason"] == "key_file_exposed"
    assert "keeps what it had" in done.stderr
    assert "secret-value" not in done.stdout + done.stderr
    assert [sandbox.call().status for _ in range(3)] == [200, 200, 429]


def test_apply_where_nothing_runs_or_another_file_is_used(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port), folder="gw")
    own, gateway.config = gateway.config, gateway.folder / "other.toml"
    gateway.config.write_text("")
    done = choir(gateway, "apply")
    assert done.returncode == 1
    assert f"uses {own}, not {gateway.config}" in done.stderr
    gateway.config = own
    gateway.stop()
    done = choir(gateway, "apply")
    assert done.returncode == 69
    assert "takes effect at the next start" in done.stderr
    assert choir(gateway, "check").returncode == 0
