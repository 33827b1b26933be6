"""The memory that an open event stream costs while nothing passes.

    python bench/gateway/idle.py [--streams N]

Unique set size of the gateway's worker with N open streams, each having had its first event, against the same worker
without any, after a warm-up. What the kernel holds for the sockets is not in it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gateway import stream_load

PER_SANDBOX = 100  # streams


def open_streams(load: stream_load.Load, gateway: stream_load.Gateway, count: int) -> None:
    """Each has sent its first event, and its client has it."""
    load.sources.clear()
    load.sinks.clear()
    for number in range(count):
        load.connect(*gateway.doors[number % len(gateway.doors)])
        load.step(0)
    if not load.until(lambda: len(load.sources) >= count):
        sys.exit(f"only {len(load.sources)} of {count} streams could be opened")
    for source in load.sources:
        source.event()
    if not load.until(lambda: all(sink.received for sink in load.sinks)):
        sys.exit("an event was lost")


def end_streams(load: stream_load.Load) -> None:
    for source in load.sources:
        source.end()
        load.step(0)
    if not load.until(lambda: all(sink.ended for sink in load.sinks)):
        sys.exit("a stream did not end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=2000)
    arguments = parser.parse_args()
    count = arguments.streams
    with (
        stream_load.folder() as name,
        stream_load.Load() as load,
        stream_load.Gateway(Path(name), 0, load.port, -(-count // PER_SANDBOX)) as gateway,
    ):
        open_streams(load, gateway, 100)
        end_streams(load)
        before = gateway.memory()[0]
        open_streams(load, gateway, count)
        during = gateway.memory()[0]
        end_streams(load)
        after = gateway.memory()[0]
    for label, size in (("before", before), (f"{count} idle streams", during), ("after they ended", after)):
        print(f"{label:24}{size / 1e6:8.1f} MB")
    print(f"{'per idle open stream':24}{(during - before) / count / 1024:8.1f} KB   must <= 40 KB, aim 20 KB")


if __name__ == "__main__":
    main()
