from __future__ import annotations

import re

from choir.gateway.dialects import Counts
from choir.gateway.metrics import BUCKETS, Metrics

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\\\n]*"(,[a-z_]+="[^"\\\n]*")*\})? [0-9.e+-]+\Z')


def counts(read: int, output: int | None) -> Counts:
    made = Counts()
    made.input, made.output = read, output
    return made


def test_counts_and_renders() -> None:
    metrics = Metrics()
    metrics.call("p", 200, "ok", 0.03, 0.02, 10, 20, counts(7, 3), 1_500_000_000_000)
    metrics.call("p", 200, "ok", 1000.0, 0.02, 10, 20, counts(1, None), None)
    metrics.call("p", 502, "upstream:reset", 0.005, None, 0, 5, None, None)
    metrics.call("", 401, "refused:token_missing", 0.001, None, 0, 5, None, None)
    metrics.call("p", 0, "client_gone", 0.001, None, 0, 0, None, None)
    text = metrics.render({"choir_open_calls": 3}, {"choir_circuit_open": {"q": 0, "p": 1}}).decode()
    lines = text.splitlines()
    assert text.endswith("\n")
    for line in (
        'choir_calls_total{provider="",status="4xx",outcome="refused"} 1',
        'choir_calls_total{provider="p",status="2xx",outcome="ok"} 2',
        'choir_calls_total{provider="p",status="5xx",outcome="upstream"} 1',
        'choir_calls_total{provider="p",status="none",outcome="client_gone"} 1',
        'choir_call_seconds_bucket{provider="p",le="0.005"} 2',
        'choir_call_seconds_bucket{provider="p",le="0.05"} 3',
        'choir_call_seconds_bucket{provider="p",le="300.0"} 3',
        'choir_call_seconds_bucket{provider="p",le="+Inf"} 4',
        'choir_call_seconds_count{provider="p"} 4',
        'choir_call_seconds_count{provider=""} 0',
        'choir_first_byte_seconds_count{provider="p"} 2',
        'choir_tokens_total{provider="p",kind="input"} 8',
        'choir_tokens_total{provider="p",kind="output"} 3',
        'choir_cost_usd_total{provider="p"} 1.5',
        'choir_bytes_total{provider="p",direction="out"} 45',
        "choir_open_calls 3",
        'choir_circuit_open{provider="p"} 1',
        'choir_circuit_open{provider="q"} 0',
        "# TYPE choir_call_seconds histogram",
    ):
        assert line in lines
    assert all(SAMPLE.match(line) for line in lines if not line.startswith("# "))
    assert len(BUCKETS) == len(set(BUCKETS))


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for n in range(1000):
        metrics.call("p", 400 + n % 100, f"refused:r{n}", 0.0, None, 0, 0, None, None)
    assert metrics.render({}).count(b"choir_calls_total{") == 1
