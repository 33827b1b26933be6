"""What runs with an installation and how it is restarted: systemd's units, or a ``choir up``.

systemd is asked by its own ``systemctl``, so drop-ins and NixOS' units count as they are. A ``choir up`` writes
STATE/run/up.json (``choir.app.supervise``) and restarts in place at SIGUSR2.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from choir.deploy.journal import Deployment
from choir.errors import ChoirError, StartError
from choir.installation import Installation
from choir.paths import State, default_state

UNITS = ("choir-gateway.service", "choir-model.service", "choir.service")
"""In the order of restart: calls wait at the sandboxes' listeners while the gateway is away; then the hypervisor adopts
its sandboxes."""
SECONDS = 240.0
_PATH = re.compile(r"path=([^ ;]+)")
_CONFIG = re.compile(r"--config[= ]([^ ;]+)")
_STATE = re.compile(r'CHOIR_STATE=([^ "]+)')


def find(installation: Installation, state: Path | None, config: Path | None) -> Deployment:
    """What is served from ``installation``: systemd's, when its units start it from there, else of ``state``.

    Args:
        state, config: as the person says; they win over what the units say.

    Raises:
        ChoirError: ``units_name_a_version``, ``keys_in_environment``, ``other_installation``, ``up_unknown``.
    """
    shown = show(UNITS)
    own = shown.get("choir.service", {})
    command = _first(_PATH, own.get("ExecStart", ""))
    if command and command != str(installation.command) and Path(command).is_relative_to(installation.prefix):
        raise ChoirError(
            "units_name_a_version",
            f"choir.service starts {command}, one version for ever.",
            f"Run {installation.command} install systemd, then this again.",
        )
    units_state = state_of(shown)
    if command == str(installation.command) and units_state and (state is None or str(state) == units_state):
        named = _first(_CONFIG, own.get("ExecStart", ""))
        active = [
            name for name in UNITS if shown.get(name, {}).get("ActiveState") in ("active", "activating", "failed")
        ]
        return Deployment(units_state, str(config) if config else named or None, units=tuple(active))
    where = State(state) if state else default_state()
    return Deployment(str(where.root), str(config) if config else None, up=_is_up(installation, where))


def show(units: tuple[str, ...]) -> dict[str, Mapping[str, str]]:
    """What systemd knows of each unit that is loaded; {} where systemd does not run."""
    out: dict[str, Mapping[str, str]] = {}
    for unit in units:
        try:
            done = subprocess.run(
                ["systemctl", "show", "--property=LoadState,ActiveState,ExecStart,Environment", unit],
                capture_output=True, text=True, errors="replace", timeout=30.0,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return {}
        if done.returncode:
            return {}
        properties = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if properties.get("LoadState") == "loaded":
            out[unit] = properties
    return out


def state_of(shown: Mapping[str, Mapping[str, str]]) -> str:
    """The state folder that choir.service is told; "": there is none."""
    return _first(_STATE, shown.get("choir.service", {}).get("Environment", ""))


def restart(deployment: Deployment, version: str) -> None:
    """Start everything that ran, with the version in force; returns when it is ready.

    Args:
        version: the one in force.

    Raises:
        StartError: ``service_failed``, ``up_ended``, ``up_silent``.
    """
    for unit in deployment.units:
        try:
            done = subprocess.run(
                ["systemctl", "restart", unit], capture_output=True, text=True, errors="replace", timeout=SECONDS
            )
            said = " ".join(done.stderr.split())[:300]
            failed = done.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, failed = str(error), True
        if failed:
            raise StartError(
                "service_failed", f"{unit} did not start: {said}", f"Look: choir logs, journalctl -u {unit}"
            )
    if deployment.up:
        _restart_up(State(Path(deployment.state)), version)


def described(deployment: Deployment) -> str:
    if deployment.units:
        return f"{', '.join(unit.removesuffix('.service') for unit in deployment.units)} by systemd; sandboxes go on"
    return "`choir up`, in its place; its sandboxes are stopped" if deployment.up else "nothing runs here"


def up_of(state: State) -> dict[str, Any] | None:
    """What the ``choir up`` that holds this state folder says of itself; {}: nothing. None: there is none."""
    try:
        descriptor = os.open(state.run / "up.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    try:
        said = json.loads((state.run / "up.json").read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _is_up(installation: Installation, state: State) -> bool:
    up = up_of(state)
    if up is None:
        return False
    if up.get("part") != "all":
        raise ChoirError(
            "up_unknown", f"What runs on {state.root} cannot be restarted from here.", "Stop it, then run this again."
        )
    if Path(str(up.get("prefix"))).parent != installation.versions:
        raise ChoirError(
            "other_installation",
            f"The `choir up` of {state.root} runs from {up.get('prefix')}, not from {installation.versions}.",
            "Choose the state folder with --state DIR, or stop it.",
        )
    if up.get("environment_keys"):
        raise ChoirError(
            "keys_in_environment",
            "The running `choir up` was given provider keys in its environment and has forgotten them, as it should.",
            f"Put them into the file of keys, or stop it, run this, and start {installation.command} up again.",
        )
    return True


def _restart_up(state: State, version: str) -> None:
    """SIGUSR2, and wait for the same process to be ready as ``version``; the next start when it has ended."""
    before = up_of(state)
    if not before:
        raise StartError("up_ended", "`choir up` has ended.", "Start it again.")
    pid = int(before["pid"])
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise StartError("up_ended", "`choir up` has ended.", "Start it again.") from None
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGUSR2)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if select.select([pidfd], [], [], 0.1)[0]:
                raise StartError(
                    "up_ended", f"`choir up` ended at its restart as {version}.", "It said why where it ran."
                )
            now = up_of(state)
            if now and now.get("started") != before.get("started"):
                if now.get("choir") != version:
                    raise StartError("up_other", f"`choir up` runs {now.get('choir')} now, not {version}.")
                return
    except ProcessLookupError:
        raise StartError("up_ended", "`choir up` has ended.", "Start it again.") from None
    finally:
        os.close(pidfd)
    raise StartError("up_silent", f"`choir up` was not ready within {SECONDS:.0f} s.", "It says why where it runs.")


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1] if match else ""
