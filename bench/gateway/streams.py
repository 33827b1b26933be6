"""Many event streams through one gateway core: no event lost, and how late they come.

    python bench/gateway/streams.py [--streams 1000,3000] [--seconds S] [--per-second N]

The gateway, with full policy and ledger, is pinned to the first core; the upstream and the clients to the second. The
same load without a gateway is the reference: what it loses in time is the load's own.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gateway import stream_load
from bench.gateway.run import cpu_seconds, pinned

PER_SANDBOX = 100  # streams


def measure(
    streams: int,
    doors: list[tuple[int, bytes]] | None,
    load: stream_load.Load,
    seconds: float,
    per_second: float,
    pids: list[int],
) -> dict[str, float]:
    """One round. Delays in milliseconds, CPU in microseconds per event.

    Args:
        doors: where the streams are asked for, in turn; None: straight from the upstream.
    """
    load.delays.clear()
    load.sources.clear()
    load.sinks.clear()
    doors = doors or [(load.port, stream_load.request("/v1/chat/completions"))]
    for number in range(streams):
        load.connect(*doors[number % len(doors)])
        load.step(0)
    if not load.until(lambda: len(load.sources) >= streams):
        sys.exit(
            f"only {len(load.sources)} of {streams} streams could be opened: "
            f"{sorted({sink.status for sink in load.sinks if sink.status})}"
        )
    gc.collect()
    gc.freeze()
    gc.disable()
    before = cpu_seconds(pids)
    load.play(seconds, per_second)
    load.until(lambda: sum(sink.received for sink in load.sinks) >= sum(source.sent for source in load.sources), 10)
    used = cpu_seconds(pids) - before
    gc.enable()
    for number, source in enumerate(load.sources):
        source.end()
        if number % 50 == 0:
            load.step(0)
    load.until(lambda: all(sink.ended for sink in load.sinks), 20)
    sent, received = sum(source.sent for source in load.sources), sum(sink.received for sink in load.sinks)
    return {
        "sent": sent,
        "lost": sent - received,
        "unended": sum(not sink.ended for sink in load.sinks),
        "p50": stream_load.percentile(load.delays, 0.50),
        "p99": stream_load.percentile(load.delays, 0.99),
        "max": max(load.delays, default=0) / 1e6,
        "cpu_us": used / max(1, sent) * 1e6,
        "core": used / seconds * 100,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1000,3000")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--per-second", type=float, default=10, help="events of each stream")
    arguments = parser.parse_args()
    gateway_core, load_core = sorted(os.sched_getaffinity(0))[:2]
    counts = [int(count) for count in arguments.streams.split(",")]
    print(f"{'':22}{'events':>9}{'lost':>6}{'p50':>9}{'p99':>9}{'max':>9}{'CPU/event':>12}{'core':>7}")
    for count in counts:
        rows = {}
        with (
            stream_load.folder() as name,
            stream_load.Load() as load,
            stream_load.Gateway(Path(name), gateway_core, load.port, -(-count // PER_SANDBOX)) as gateway,
            pinned(load_core),
        ):
            pids = [gateway.service.pid, gateway.worker]
            for who, doors in (("direct", None), ("gateway", gateway.doors)):
                found = rows[who] = measure(count, doors, load, arguments.seconds, arguments.per_second, pids)
                cost = f"{found['cpu_us']:9.1f} us{found['core']:6.0f}%" if who == "gateway" else ""
                print(
                    f"{count:6} streams {who:8}{found['sent']:8.0f}{found['lost'] + found['unended']:6.0f}"
                    f"{found['p50']:6.2f} ms{found['p99']:6.2f} ms{found['max']:6.1f} ms{cost}",
                    flush=True,
                )
        added = rows["gateway"]["p99"] - rows["direct"]["p99"]
        print(f"{count:6} streams p99 added by the gateway {added:.2f} ms   must <= 20 ms at 1,000, aim at 3,000")


if __name__ == "__main__":
    main()
