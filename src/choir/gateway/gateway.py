"""What the connections of all sandboxes share: settings, sandboxes, open calls and their records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from choir.contract import UsageRecord
from choir.gateway.admission import Denied, Settings
from choir.gateway.changes import Change, changes
from choir.gateway.dialects import Counts
from choir.gateway.endings import Endings
from choir.gateway.log import log
from choir.gateway.metrics import Metrics
from choir.gateway.prices import USD
from choir.gateway.refusals import Refusal, refused
from choir.gateway.relay import Call
from choir.gateway.request import Connection
from choir.gateway.sandboxes import Registry, Sandbox
from choir.gateway.upstream import Upstream
from choir.gateway.usage import Recorder, RequestIds, Timestamps

_NO_COUNTS = Counts()


class Gateway:
    """Of one worker."""

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
                "choir_sandboxes_warm": self.registry.warm(now),
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


def _rekeyed(old: Mapping[str, Upstream], new: Mapping[str, Upstream]) -> dict[str, set[str]]:
    """References behind which another key is found now, by provider."""
    found = {}
    for name, upstream in new.items():
        if name in old:
            before = dict(zip(old[name].references, old[name].secrets, strict=True))
            after = zip(upstream.references, upstream.secrets, strict=True)
            found[name] = {reference for reference, key in after if before.get(reference, key) != key}
    return found
