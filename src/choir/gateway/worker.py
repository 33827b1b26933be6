"""The process that does the work: one event loop, the sandboxes' listeners, the control socket, the providers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from choir.config import Config
from choir.contract import ProviderStatus
from choir.errors import ChoirError, StartError
from choir.gateway import authority
from choir.gateway.admission import Settings
from choir.gateway.changes import sentence
from choir.gateway.control import Control, Reloaded
from choir.gateway.gateway import Gateway
from choir.gateway.journal import Journal
from choir.gateway.log import log
from choir.gateway.metrics_server import MetricsServer
from choir.gateway.orphans import replay_orphans
from choir.gateway.policy import Spending, has_money_limit
from choir.gateway.prices import USD
from choir.gateway.upstream import Upstream
from choir.gateway.usage import Recorder
from choir.inside import wants_tls
from choir.paths import State
from choir.storage.ledger import Ledger

_LOGGED_CHANGES = 20

LoadSettings = Callable[[Callable[[str], None]], tuple[Settings, list[ProviderStatus]]]
"""Reads configuration and keys. Its argument is told the name of a service to start. Raises ConfigError."""


def build_upstreams(
    config: Config, keys: Mapping[str, Mapping[str, str]], run: Path, wanted: Callable[[str], None]
) -> dict[str, Upstream]:
    """One ``Upstream`` for each provider that has a key (or needs none).

    Args:
        keys: by provider and reference.
    """
    return {
        name: Upstream(config.providers[name], found, str(run), config.timeouts, wanted, log)
        for name, found in keys.items()
    }


def load_spendings(gateway: Gateway, ledger: Ledger, complete: bool) -> None:
    """What each user has spent before, so that a restart forgets nothing.

    Args:
        complete: whether the ledger has all records.

    Raises:
        StartError: ``spending_unknown``; money is limited and what was spent cannot be read.
    """
    wall = time.time()
    today = time.strftime("%Y-%m-%d", time.gmtime(wall))
    try:
        spent = ledger.spent(today)
    except (sqlite3.Error, OSError):
        spent, complete = [], False
    config = gateway.settings.config
    if not complete and any(has_money_limit(config.limits_of(user)) for user in ("", *config.users)):
        raise StartError(
            "spending_unknown",
            f"Money is limited, and what was spent cannot be read from the ledger {ledger.path}.",
            "Make it readable and writable, or remove usd_per_day and usd_per_month.",
        )
    for user_id, day, month in spent:
        spending = gateway.registry.spendings.setdefault(user_id, Spending())
        spending.load(round(day * USD), round(month * USD), wall)


def run(
    load: LoadSettings,
    token_key: bytes,
    control_listener: socket.socket,
    state: State,
    ready: Callable[[list[ProviderStatus]], None],
    drain_seconds: float,
) -> None:
    """Serve until SIGTERM, then let open calls end.

    Args:
        drain_seconds: after which they are ended.

    Raises:
        ConfigError: from the first ``load``.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(load, token_key, control_listener, state, ready, drain_seconds))


async def _serve(
    load: LoadSettings,
    token_key: bytes,
    control_listener: socket.socket,
    state: State,
    ready: Callable[[list[ProviderStatus]], None],
    drain_seconds: float,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    wanted: list[Control] = []
    settings, providers = load(lambda service: wanted[0].want(service))
    ledger = Ledger(state.ledger)
    with contextlib.suppress(sqlite3.Error, OSError):  # the next gateway tries again
        replay_orphans(state, ledger)
    recorder = Recorder(Journal(state.journal), ledger, log)
    recorder.keep_days = settings.config.usage.keep_days
    recorder.start()
    gateway = Gateway(loop, settings, recorder, token_key)
    load_spendings(gateway, ledger, recorder.caught_up)

    def reload() -> Reloaded:
        new, providers = load(lambda service: wanted[0].want(service))
        found = gateway.replace(new)
        return providers, found

    control = Control(control_listener, gateway.registry, reload, providers, gateway.facts)
    wanted.append(control)
    recorder.subscriber = control.usage
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload_logged, control)
    control.start()
    metrics = MetricsServer(state.metrics_socket, gateway.metrics)
    try:
        await metrics.start()
    except OSError as error:
        log(f"no metrics: {state.metrics_socket}: {error.strerror}")
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    ready(providers)
    if wants_tls(settings.config.providers[name] for name in settings.upstreams):
        loop.run_in_executor(None, authority.preload)
    await stop.wait()
    await gateway.drain(drain_seconds)
    control.close()
    metrics.close()
    await loop.run_in_executor(None, recorder.stop)


def _reload_logged(control: Control) -> None:
    try:
        found = control.reload()
        log(f"configuration read again, {len(found)} changes")
        for change in found[:_LOGGED_CHANGES]:
            log(f"configuration: {sentence(change)}")
    except ChoirError as error:
        log(f"configuration not changed: {error.message}", "reload_refused", "warning", reason=error.reason)


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A defect. Its message could hold anything, so only its kind and place are told."""
    error = context.get("exception")
    where = ""
    if error is not None and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        where = f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    log(f"unexpected {type(error).__name__ if error is not None else 'event'}{where}", "unexpected", "error")
