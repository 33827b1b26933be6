"""Counters of the gateway in Prometheus' text format 0.0.4 (pure). Labels are bounded: providers of the operator's
table, classes of status and kinds of outcome; never a user, a sandbox, a model or a path."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping

from choir.gateway.dialects import Counts
from choir.gateway.prices import USD

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of seconds."""
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "choir_calls_total": ("counter", "Calls that ended, refused ones too."),
    "choir_call_seconds": ("histogram", "From the call's start to the end of its answer, refused ones not counted."),
    "choir_first_byte_seconds": ("histogram", "From the call's start to the first byte of the provider's answer."),
    "choir_tokens_total": ("counter", "Tokens that providers told; cached ones are input as well."),
    "choir_cost_usd_total": ("counter", "What calls cost, as far as it is known."),
    "choir_bytes_total": ("counter", "Bytes of bodies: in from callers, out to them."),
    "choir_retries_total": ("counter", "Calls that were made again."),
    "choir_circuit_open": ("gauge", "1 while calls to the provider are refused because it fails."),
    "choir_circuit_opened_total": ("counter", "How often that began."),
    "choir_keys_resting": ("gauge", "Keys that the provider turned away and that are not used for now."),
    "choir_open_calls": ("gauge", "Calls that go on."),
    "choir_sandboxes": ("gauge", "Sandboxes attached."),
    "choir_sandboxes_warm": ("gauge", "Sandboxes that stand ready for people who may come."),
    "choir_connections": ("gauge", "Connections of sandboxes."),
    "choir_records_waiting": ("gauge", "Usage records that are not in the ledger yet."),
    "choir_ledger_failing": ("gauge", "1 while the ledger takes no records."),
    "choir_journal_failing": ("gauge", "1 while the usage journal cannot be written."),
}


class Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class _OfProvider:
    """What is counted for one provider."""

    __slots__ = ("bytes_in", "bytes_out", "cached", "calls", "cost", "first_byte", "input", "output", "seconds")

    def __init__(self) -> None:
        self.calls: defaultdict[tuple[int, str], int] = defaultdict(int)
        self.seconds = Histogram()
        self.first_byte = Histogram()
        self.input = self.output = self.cached = 0
        self.bytes_in = self.bytes_out = 0
        self.cost = 0


class Metrics:
    """Counts since the worker started."""

    def __init__(self) -> None:
        self._providers: dict[str, _OfProvider] = {}

    def call(
        self,
        provider: str,
        status: int,
        outcome: str,
        seconds: float,
        first_byte: float | None,
        bytes_in: int,
        bytes_out: int,
        counts: Counts | None,
        cost: int | None,
    ) -> None:
        """Count a call that ended. ``first_byte`` is in seconds from its start, ``cost`` in picodollars."""
        of = self._providers.get(provider)
        if of is None:
            of = self._providers[provider] = _OfProvider()
        kind = outcome if outcome == "ok" else outcome.partition(":")[0]
        of.calls[status // 100, kind] += 1
        of.bytes_in += bytes_in
        of.bytes_out += bytes_out
        if kind != "refused":
            of.seconds.add(seconds)
        if first_byte is not None:
            of.first_byte.add(first_byte)
        if counts is not None:
            if counts.input:
                of.input += counts.input
            if counts.output:
                of.output += counts.output
            if counts.cached:
                of.cached += counts.cached
        if cost:
            of.cost += cost

    def render(self, gauges: Mapping[str, int], upstreams: Mapping[str, Mapping[str, int]] | None = None) -> bytes:
        """The exposition.

        Args:
            gauges: values of the ``choir_…`` gauges.
            upstreams: of those that each provider has one of, by name and provider.
        """
        samples: dict[str, list[str]] = {name: [] for name in _HELP}
        for name, of in sorted(self._providers.items()):
            label = f'provider="{name}"'
            for (status, kind), number in sorted(of.calls.items()):
                shown = f"{status}xx" if status else "none"
                samples["choir_calls_total"].append(f'{{{label},status="{shown}",outcome="{kind}"}} {number}')
            samples["choir_call_seconds"] += _histogram(label, of.seconds)
            samples["choir_first_byte_seconds"] += _histogram(label, of.first_byte)
            for kind in ("input", "output", "cached"):
                samples["choir_tokens_total"].append(f'{{{label},kind="{kind}"}} {getattr(of, kind)}')
            samples["choir_cost_usd_total"].append(f"{{{label}}} {of.cost / USD!r}")
            samples["choir_bytes_total"].append(f'{{{label},direction="in"}} {of.bytes_in}')
            samples["choir_bytes_total"].append(f'{{{label},direction="out"}} {of.bytes_out}')
        for gauge, values in (upstreams or {}).items():
            samples[gauge] += [f'{{provider="{name}"}} {value}' for name, value in sorted(values.items())]
        for name, value in gauges.items():
            samples[name].append(f" {value}")
        lines = []
        for name, (kind, text) in _HELP.items():
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{sample}" for sample in samples[name]]
        return "\n".join(lines).encode() + b"\n"


def _histogram(label: str, histogram: Histogram) -> Iterator[str]:
    below = 0
    for bound, number in zip((*BUCKETS, "+Inf"), histogram.counts, strict=True):
        below += number
        yield f'_bucket{{{label},le="{bound}"}} {below}'
    yield f"_sum{{{label}}} {histogram.total!r}"
    yield f"_count{{{label}}} {below}"
