"""``choir up``: the gateway gets the keys, then this process forgets them and supervises.

``choir up gateway``, ``hypervisor`` and ``model`` are one part each, for services under accounts of their own.

Dropping keys in place does not work: ``/proc/PID/environ`` keeps what a process was started with. So after the
gateway has its keys, ``up`` replaces itself (execve) by ``choir.app.supervise`` with a clean environment; the gateway
stays its child.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import Literal, NoReturn

from choir import config as configuration
from choir.app import systemd
from choir.app.local import LocalModel
from choir.app.secrets import environment_secrets, gateway_start_message, label
from choir.config import Config
from choir.errors import StartError
from choir.inside import INHERITED
from choir.paths import HELD, State
from choir.places import clean_environment
from choir.service import Service

Part = Literal["all", "gateway", "hypervisor", "model"]


def up(config_path: Path | None, state: State, port: int | None, part: Part = "all") -> NoReturn:
    """Start everything, or one part; returns never, ``supervise`` goes on in this process.

    Raises:
        ConfigError, StartError: nothing was left running.
    """
    started = time.time()
    config = configuration.load(config_path)
    state.prepare()
    lock = take_lock(state)
    if (state.root / HELD).is_dir():  # by `choir rollback`
        from choir.hypervisor import putback

        putback.release(state)
    listeners = systemd.listeners(os.environ, os.getpid())
    keep = [lock, *listeners]
    gateway, secrets = None, {}
    if part in ("all", "gateway"):
        secrets = environment_secrets(config, os.environ)
        gateway = asyncio.run(start_gateway(config, state, secrets, drain_seconds=drain(part)))
        keep.append(gateway.channel.fileno())
    handover = os.memfd_create("choir-up", 0)
    keep.append(handover)
    wanted = (*INHERITED, *config.sandbox.forward_env)
    os.write(
        handover,
        json.dumps(
            {
                "state": str(state.root),
                "config": str(config.path) if config.path else None,
                "port": port,
                "started": started,
                "part": part,
                "gateway": [gateway.pid, gateway.channel.fileno()] if gateway else None,
                "environment_keys": bool(secrets),
                "listeners": listeners,
                "systemd": {name: os.environ[name] for name in systemd.VARIABLES if name in os.environ},
                "environment": {name: os.environ[name] for name in wanted if name in os.environ},
            }
        ).encode(),
    )
    for fd in keep:
        os.set_inheritable(fd, True)
    os.execve(  # noqa: S606 - replacing this process is the point
        sys.executable,
        [sys.executable, "-I", "-m", "choir.app.supervise", str(handover)],
        clean_environment(os.environ),
    )


def drain(part: Part) -> float | None:
    """As a service the gateway is restarted under people's streams: they may end. At a terminal nobody waits."""
    return 30.0 if part == "gateway" else None


def take_lock(state: State) -> int:
    """Hold the state folder as its one ``choir up``.

    Raises:
        StartError: ``already_running``.
    """
    fd = os.open(state.run / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise StartError(
            "already_running",
            f"Another `choir up` already uses {state.root}.",
            "Stop it first, or choose another state folder with --state DIR.",
        ) from None
    return fd


async def start_gateway(
    config: Config,
    state: State,
    secrets: dict[str, str],
    log: Path | None = None,
    drain_seconds: float | None = None,
) -> Service:
    """A new gateway process, ready.

    Args:
        log: where its usage records and messages go; None: this process's stdout and stderr.
        drain_seconds: how long open calls may go on when it is stopped; None: not long.

    Raises:
        StartError, ConfigError: the gateway's own reason.
    """
    gateway = Service.spawn(
        "gateway",
        "choir.gateway.main",
        label(state),
        environment=clean_environment(os.environ),
        log=log or log_for(state, "gateway"),
    )
    await gateway.start(gateway_start_message(config, state, secrets, LocalModel.available(), drain_seconds))
    return gateway


def log_for(state: State, name: str) -> Path | None:
    """A log file when a person sits at the terminal; None, so the journal gets it, when not."""
    return state.logs / f"{name}.log" if sys.stdout.isatty() else None
