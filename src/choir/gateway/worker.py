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

import msgspec
import uvloop

from choir import logs
from choir.config import Config
from choir.contract import ProviderStatus, UsageRecord, wants_tls
from choir.errors import ChoirError, StartError
from choir.gateway import authority
from choir.gateway.admission import Denied, Settings
from choir.gateway.changes import Change, changes, sentence
from choir.gateway.control import Control, Reloaded
from choir.gateway.dialects import Counts
from choir.gateway.endings import Endings
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

"""Open calls may go on for so long when the gateway is told to stop; a service is killed after 5."""

_LOGGED_CHANGES = 20
_NO_COUNTS = Counts()

LoadSettings = Callable[[Callable[[str], None]], tuple[Settings, list[ProviderStatus]]]
"""Reads configuration and keys. Its argument is told the name of a service to start. Raises ConfigError."""


def log(line: str, event: str = "note", level: str = "info", **fields: str) -> None:
    """To the operator, as ``choir.logs`` says. Never a token, a key or anything of a call's content."""
    logs.write("gateway", level, event, {"message": line, **fields})


class Gateway:
    """What the connections of all sandboxes share."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: Settings, recorder: Recorder, token_key: bytes
    ) -> None:
        self.loop = loop
        self.settings = settings
        self.calls: set[Call] = set()
        self.request_ids = RequestIds()
        self.registry = Registry(token_key, settings.config, lambda sandbox: Connection(self, sandbox), log, self._left)
        self._timestamps = Timestamps()
        self._recorder = recorder
        self.endings = Endings(loop, recorder)
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
            return refused(503, "ledger_full", "no place is left for usage records, neither on disk nor in memory.", 5)
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
        took = now - started
        waited = None if first_byte is None else first_byte - started
        self._metrics.call(provider, status, outcome, took, waited, bytes_in, bytes_out, counts, cost)
        if counts is None and outcome.startswith("refused:"):
            scarce = not self._recorder.accepting
            if not sandbox.floods.count(outcome, status, bytes_out, wall, now, scarce):
                return
        if counts is None:
            counts = _NO_COUNTS
        self.endings.record(
            UsageRecord(  # by position: by name it takes five times as long
                self._timestamps.format(wall),
                request_id,
                sandbox.sandbox_id,
                sandbox.user_id,
                provider,
                model,
                route,
                status,
                outcome,
                int(took * 1e6) / 1e3,
                None if waited is None else int(waited * 1e6) / 1e3,
                bytes_in,
                bytes_out,
                counts.input,
                counts.output,
                counts.cached,
                None if cost is None else cost / USD,
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
        sandboxes, recorder, now = self.registry.sandboxes.values(), self._recorder, time.perf_counter()
        standings = {name: upstream.standing for name, upstream in self.settings.upstreams.items()}
        return self._metrics.render(
            {
                "choir_open_calls": len(self.calls),
                "choir_sandboxes": len(sandboxes),
                "choir_connections": sum(len(sandbox.connections) for sandbox in sandboxes),
                "choir_records_waiting": recorder.waiting,
                "choir_ledger_failing": int(recorder.ledger_failing),
                "choir_journal_failing": int(recorder.journal_failing),
            },
            {
                "choir_circuit_open": {name: int(not each.breaker.closed) for name, each in standings.items()},
                "choir_circuit_opened_total": {name: each.breaker.opened for name, each in standings.items()},
                "choir_keys_resting": {name: each.keyring.resting(now) for name, each in standings.items()},
                "choir_retries_total": {name: each.retries for name, each in standings.items()},
            },
        )

    def _record_floods(self, sandbox: Sandbox, now: float, at_once: bool = False) -> None:
        for summary in sandbox.floods.due(now, at_once):
            self.endings.record(
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

    def replace(self, settings: Settings) -> list[Change]:
        """Put new settings in force; what they change. Open calls keep theirs."""
        old = self.settings
        for name, upstream in old.upstreams.items():
            new = settings.upstreams.get(name)
            if new is not None and upstream.same_as(new):
                settings.upstreams[name] = upstream
            else:
                upstream.close()
        self.settings = settings
        self._recorder.keep_days = settings.config.usage.keep_days
        self.registry.configure(settings.config)
        return changes(old.config, settings.config, _rekeyed(old.upstreams, settings.upstreams))

    def facts(self) -> dict[str, Any]:
        """What a control client is told beside the sandboxes."""
        recorder, path, now = self._recorder, self.settings.config.path, time.perf_counter()
        upstreams = self.settings.upstreams
        return {
            "config": str(path) if path else None,
            "circuits": {
                name: each.standing.breaker.state(now)
                for name, each in upstreams.items()
                if not each.standing.breaker.closed
            },
            "keys": {
                name: msgspec.to_builtins(each.standing.keyring.states(now))
                for name, each in upstreams.items()
                if len(each.references) > 1
            },
            "ledger": {
                "waiting": recorder.waiting,
                "failing": recorder.ledger_failing,
                "journal_failing": recorder.journal_failing,
                "full": not recorder.accepting,
            },
        }

    async def drain(self, seconds: float) -> None:
        """Take no new calls, let the open ones end for a while, then end them."""
        self._draining = True
        self.registry.close_listeners()
        deadline = self.loop.time() + seconds
        while self.calls and self.loop.time() < deadline:  # noqa: ASYNC110 - bounded, once in a life
            await asyncio.sleep(0.02)
        for call in list(self.calls):
            call.cut("gateway_stopping", "the gateway is being stopped.")
        self.endings.flush()
        if any(sandbox.connections for sandbox in self.registry.sandboxes.values()):
            await asyncio.sleep(0.05)  # what was written may leave
        self._ticker.cancel()
        for sandbox in self.registry.sandboxes.values():
            self._left(sandbox)
            for connection in list(sandbox.connections):
                connection.close()
        for upstream in self.settings.upstreams.values():
            upstream.close()
        self.endings.flush()

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
        for upstream in self.settings.upstreams.values():
            upstream.sweep(now)
        self._ticker = self.loop.call_later(self._tick_seconds(), self._tick)


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


def _rekeyed(old: Mapping[str, Upstream], new: Mapping[str, Upstream]) -> dict[str, set[str]]:
    """References behind which another key is found now, by provider."""
    found = {}
    for name, upstream in new.items():
        if name in old:
            before = dict(zip(old[name].references, old[name].secrets, strict=True))
            after = zip(upstream.references, upstream.secrets, strict=True)
            found[name] = {reference for reference, key in after if before.get(reference, key) != key}
    return found


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
