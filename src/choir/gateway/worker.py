"""The process that does the work: one event loop, the sandboxes' listeners, the control socket, the providers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvloop

from choir.config import Config
from choir.contract import ProviderStatus, UsageRecord
from choir.errors import ChoirError, StartError
from choir.gateway.admission import Denied, Settings
from choir.gateway.control import Control
from choir.gateway.dialects import Counts
from choir.gateway.journal import Journal
from choir.gateway.metrics import Metrics
from choir.gateway.metrics_server import MetricsServer
from choir.gateway.orphans import replay_orphans
from choir.gateway.policy import Spending, has_money_limit
from choir.gateway.prices import USD
from choir.gateway.refusals import Refusal, refused
from choir.gateway.relay import Call
from choir.gateway.request import Connection
from choir.gateway.sandboxes import Registry, Sandbox
from choir.gateway.upstream import Upstream
from choir.gateway.usage import Recorder, RequestIds, Timestamps
from choir.paths import State
from choir.storage.ledger import Ledger

DRAIN_SECONDS = 3.0
"""Open calls may go on for so long when the gateway is told to stop; a service is killed after 5."""

LoadSettings = Callable[[Callable[[str], None]], tuple[Settings, list[ProviderStatus]]]
"""Reads configuration and keys. Its argument is told the name of a service to start. Raises ConfigError."""


def log(line: str) -> None:
    """To the operator. Never a token, a key or anything of a call's content."""
    with contextlib.suppress(OSError, ValueError):
        print(f"gateway: {line}", file=sys.stderr, flush=True)


class Gateway:
    """What the connections of all sandboxes share."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, recorder: Recorder, token_key: bytes
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.calls: set[Call] = set()
        self.request_ids = RequestIds()
        self.registry = Registry(
            token_key, settings.config.limits, lambda sandbox: Connection(self, sandbox), log, self._left
        )
        self._timestamps = Timestamps()
        self._recorder = recorder
        self._metrics = Metrics()
        self._draining = False
        self._told_refusing = False
        self._ticker = loop.call_later(self._tick_seconds(), self._tick)

    @property
    def refusal(self) -> Refusal | None:
        """Why no call at all is taken just now."""
        if self._draining:
            return refused(503, "gateway_stopping", "the gateway is being stopped.", 1)
        if not self._recorder.accepting:
            return refused(503, "ledger_unavailable", "usage records can be stored neither on disk nor in memory.", 5)
        return None

    def new_request_id(self) -> str:
        return self.request_ids.new(time.time())

    def record(
        self,
        sandbox: Sandbox,
        wall: float,
        started: float,
        request_id: str,
        provider: str,
        model: str | None,
        route: str,
        status: int,
        outcome: str,
        bytes_in: int,
        bytes_out: int,
        first_byte: float | None = None,
        counts: Counts | None = None,
        cost: int | None = None,
    ) -> None:
        """Write the record of a call. ``started`` and ``first_byte`` are of ``time.perf_counter``, ``cost`` is in
        picodollars."""
        now = time.perf_counter()
        waited = None if first_byte is None else first_byte - started
        self._metrics.call(provider, status, outcome, now - started, waited, bytes_in, bytes_out, counts, cost)
        if outcome.startswith("refused:") and not sandbox.floods.count(outcome, status, bytes_out, wall, now):
            return
        self._recorder.record(
            UsageRecord(
                ts=self._timestamps.format(wall),
                request_id=request_id,
                sandbox_id=sandbox.sandbox_id,
                user_id=sandbox.user_id,
                provider=provider,
                model=model,
                route=route,
                status=status,
                outcome=outcome,
                latency_ms=int((now - started) * 1e6) / 1e3,
                ttft_ms=None if waited is None else int(waited * 1e6) / 1e3,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
                input_tokens=counts.input if counts is not None else None,
                output_tokens=counts.output if counts is not None else None,
                cached_tokens=counts.cached if counts is not None else None,
                cost_usd=None if cost is None else cost / USD,
            )
        )

    def record_refusal(self, sandbox: Sandbox, denied: Denied, request_id: str, started: float, bytes_out: int) -> None:
        refusal = denied.refusal
        self.record(
            *(sandbox, time.time(), started, request_id, denied.provider, denied.model, denied.route),
            *(refusal.status, refusal.outcome, 0, bytes_out),
        )

    def metrics(self) -> bytes:
        """See ``choir.gateway.metrics``."""
        sandboxes, recorder = self.registry.sandboxes.values(), self._recorder
        return self._metrics.render(
            {
                "choir_open_calls": len(self.calls),
                "choir_sandboxes": len(sandboxes),
                "choir_connections": sum(len(sandbox.connections) for sandbox in sandboxes),
                "choir_records_waiting": recorder.waiting,
                "choir_ledger_failing": int(recorder.ledger_failing),
                "choir_journal_failing": int(recorder.journal_failing),
            }
        )

    def _record_floods(self, sandbox: Sandbox, now: float, at_once: bool = False) -> None:
        for summary in sandbox.floods.due(now, at_once):
            self._recorder.record(
                UsageRecord(
                    ts=self._timestamps.format(summary.since),
                    request_id=self.new_request_id(),
                    sandbox_id=sandbox.sandbox_id,
                    user_id=sandbox.user_id,
                    provider="",
                    model=None,
                    route="",
                    status=summary.status,
                    outcome=summary.outcome,
                    latency_ms=0.0,
                    bytes_out=summary.bytes_out,
                    count=summary.count,
                )
            )

    def _left(self, sandbox: Sandbox) -> None:
        self._record_floods(sandbox, time.perf_counter(), at_once=True)

    def replace(self, settings: Settings) -> None:
        """Put new settings in force. Open calls keep theirs."""
        old, self.settings = self.settings, settings
        self.registry.set_limits(settings.config.limits)
        for upstream in old.upstreams.values():
            upstream.close()

    async def drain(self) -> None:
        """Take no new calls, let the open ones end for a while, then end them."""
        self._draining = True
        self.registry.close_listeners()
        deadline = self.loop.time() + DRAIN_SECONDS
        while self.calls and self.loop.time() < deadline:  # noqa: ASYNC110 - bounded, once in a life
            await asyncio.sleep(0.02)
        for call in list(self.calls):
            call.cut("gateway_stopping", "the gateway is being stopped.")
        if any(sandbox.connections for sandbox in self.registry.sandboxes.values()):
            await asyncio.sleep(0.05)  # what was written may leave
        self._ticker.cancel()
        for sandbox in self.registry.sandboxes.values():
            self._left(sandbox)
            for connection in list(sandbox.connections):
                connection.close()
        for upstream in self.settings.upstreams.values():
            upstream.close()

    def _tick_seconds(self) -> float:
        timeouts = self.settings.config.timeouts
        return min(1.0, max(0.02, min(timeouts.first_byte, timeouts.idle) / 8))

    def _tick(self) -> None:
        now = time.perf_counter()
        self.registry.expire(now)
        for call in list(self.calls):
            call.tick(now)
        for sandbox in list(self.registry.sandboxes.values()):
            self._record_floods(sandbox, now)
            for connection in list(sandbox.connections):
                connection.tick(now)
        loop_now = self.loop.time()
        for upstream in self.settings.upstreams.values():
            upstream.sweep(loop_now)
        self._ticker = self.loop.call_later(self._tick_seconds(), self._tick)


def build_upstreams(
    config: Config, keys: Mapping[str, str], run: Path, wanted: Callable[[str], None]
) -> dict[str, Upstream]:
    """One ``Upstream`` for each provider that has its key (or needs none)."""
    return {
        name: Upstream(config.providers[name], key, str(run), config.timeouts, wanted) for name, key in keys.items()
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
    if not complete and has_money_limit(gateway.settings.config.limits):
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
) -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigError: from the first ``load``.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(load, token_key, control_listener, state, ready))


async def _serve(
    load: LoadSettings,
    token_key: bytes,
    control_listener: socket.socket,
    state: State,
    ready: Callable[[list[ProviderStatus]], None],
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    wanted: list[Control] = []
    settings, providers = load(lambda service: wanted[0].want(service))
    ledger = Ledger(state.ledger)
    with contextlib.suppress(sqlite3.Error, OSError):  # the next gateway tries again
        replay_orphans(state, ledger)
    recorder = Recorder(Journal(state.journal), ledger, log)
    recorder.start()
    gateway = Gateway(loop, settings, recorder, token_key)
    load_spendings(gateway, ledger, recorder.caught_up)

    def reload() -> list[ProviderStatus]:
        new, providers = load(lambda service: wanted[0].want(service))
        gateway.replace(new)
        return providers

    control = Control(control_listener, gateway.registry, reload, providers)
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
    await stop.wait()
    await gateway.drain()
    control.close()
    metrics.close()
    await loop.run_in_executor(None, recorder.stop)


def _reload_logged(control: Control) -> None:
    try:
        control.reload()
        log("configuration read again")
    except ChoirError as error:
        log(f"configuration not changed: {error.message}")


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A defect. Its message could hold anything, so only its kind and place are told."""
    error = context.get("exception")
    where = ""
    if error is not None and error.__traceback__ is not None:
        last = error.__traceback__
        while last.tb_next is not None:
            last = last.tb_next
        where = f" at {Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}"
    log(f"unexpected {type(error).__name__ if error is not None else 'event'}{where}")
