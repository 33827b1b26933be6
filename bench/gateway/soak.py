"""The gateway's memory while 100,000 event streams come and go.

    python bench/gateway/soak.py [--streams N] [--open N] [--per-second N]

At most so many streams are open at once, each on a connection of its own, with five events. Of ten, eight end as they
should, one is cut by the provider and one is left by its client. Prints the worker's memory over time. It is flat when
the second half adds less than 20 bytes per stream. Limits count what was used in the last minute, so that at the given
rate memory grows until one has passed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gateway import stream_load

EVENTS = 5
SAMPLES = 20
FLAT = 20.0  # bytes for each stream of the second half


class Soak:
    """Opens a stream whenever one has ended."""

    def __init__(self, load: stream_load.Load, gateway: stream_load.Gateway, streams: int) -> None:
        self.load, self.gateway, self.streams = load, gateway, streams
        self.started = self.asked = self.ended = self.whole = 0
        load.on_open, load.on_end = self.answer, self.end

    def run_until(self, ended: int, began: float, per_second: float, at_once: int) -> None:
        """Open streams as they are due."""
        while self.ended < ended:
            due = min(self.streams, int((time.perf_counter() - began) * per_second) + 1)
            while self.started < due and self.started - self.ended < at_once:
                self.start()
            self.load.step(0.002)

    def start(self) -> None:
        sink = self.load.connect(*self.gateway.doors[self.started % len(self.gateway.doors)])
        sink.leaves = self.started % 10 == 5
        self.started += 1

    def answer(self, source: stream_load.Source) -> None:
        self.load.sources.clear()
        for _ in range(EVENTS):
            source.event()
        if self.asked % 10 == 0:
            self.load.close(source.sock)
        else:
            source.end()
        self.asked += 1

    def end(self, sink: stream_load.Sink) -> None:
        self.load.sinks.clear()
        self.load.delays.clear()
        self.ended += 1
        self.whole += sink.ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=64)
    parser.add_argument("--per-second", type=float, default=800)
    arguments = parser.parse_args()
    streams = arguments.streams
    samples: list[tuple[int, int]] = []
    with (
        stream_load.folder() as name,
        stream_load.Load() as load,
        stream_load.Gateway(Path(name), 0, load.port, 4) as gateway,
    ):
        soak = Soak(load, gateway, streams)
        began = time.perf_counter()
        print(f"{'streams':>9}{'whole':>9}{'seconds':>9}{'unique MB':>11}{'resident MB':>13}")
        for turn in range(SAMPLES + 1):
            soak.run_until(streams * turn // SAMPLES, began, arguments.per_second, arguments.open)
            unique, resident = gateway.memory()
            samples.append((soak.ended, unique))
            seconds = time.perf_counter() - began
            print(f"{soak.ended:9}{soak.whole:9}{seconds:9.1f}{unique / 1e6:11.2f}{resident / 1e6:13.2f}", flush=True)
    (middle, then), (last, now) = samples[SAMPLES // 2], samples[-1]
    grown = (now - then) / (last - middle)
    verdict = "flat" if grown < FLAT else "not flat"
    print(f"second half: {(now - then) / 1e6:+.2f} MB, {grown:+.1f} bytes per stream: {verdict}")


if __name__ == "__main__":
    main()
