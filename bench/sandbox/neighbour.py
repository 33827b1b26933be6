"""What a sandbox that takes too much costs its neighbour: ``python bench/sandbox/neighbour.py [SECONDS]``.

One sandbox answers one line after another; beside it, in turn: nothing, a fork bomb, a memory hog, a disk filler and
a busy loop on every processor, each held to small limits and started again when it has ended. Prints the neighbour's
median and 99th percentile in milliseconds, and the ratio to being alone; read the ratios.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from choir.isolation.bubblewrap import PROBE_UID, BubblewrapBackend
from choir.isolation.contract import SandboxLimits, SandboxSpec
from choir.isolation.host import inspect

ECHO = "import sys\nfor line in sys.stdin: print(len(line) * sum(range(20000)), flush=True)"
BESIDE = {
    "alone": "",
    "fork bomb": "import os, time\nwhile True:\n try: os.fork()\n except OSError: time.sleep(0.001)",
    "memory hog": "held = []\nwhile True: held.append(bytearray(b'x' * 2**20))",
    "disk filler": "import os\nwhile True: open(f'/home/choir/{os.urandom(8).hex()}', 'wb').write(b'x' * 10**6)",
    "busy loops": "import os\nfor _ in range(8): os.fork()\nwhile True: pass",
}
LIMITS = SandboxLimits(max_memory_bytes=64 * 1024**2, max_processes=64, max_disk_bytes=20 * 1024**2)


def spec(folder: Path, name: str, number: int, program: str) -> SandboxSpec:
    return SandboxSpec(
        sandbox_id=name,
        user_id="bench",
        role="run",
        home=folder / name,
        host_uid=PROBE_UID + number if os.geteuid() == 0 else None,
        environment={},
        command=(inspect().python, "-c", program),
        limits=LIMITS,
    )


async def again_and_again(backend: BubblewrapBackend, wanted: SandboxSpec, ends: list[str]) -> None:
    while True:
        running = await backend.start(wanted)
        try:
            await running.wait_ready()
            exited = await running.wait()
            ends.append(exited.reason or f"code {exited.code}, signal {exited.signal}")
        finally:
            running.close()
        for path in wanted.home.iterdir():
            path.unlink()


async def main(seconds: float) -> None:
    backend = BubblewrapBackend()
    alone = 0.0
    print(f"{'beside':16}{'median ms':>10}{'p99 ms':>8}{'ratio':>7}  how the other ended")
    with tempfile.TemporaryDirectory(prefix="choir-bench-") as folder:
        for name, program in BESIDE.items():
            asking, questions = os.pipe()
            answers, answering = os.pipe()
            neighbour = await backend.start(spec(Path(folder), "good", 1, ECHO), (asking, answering, answering))
            await neighbour.wait_ready()
            ends: list[str] = []
            other = None
            if program:
                other = asyncio.create_task(again_and_again(backend, spec(Path(folder), "bad", 2, program), ends))
            times = []
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                begun = time.perf_counter()
                os.write(questions, b"hello\n")
                await asyncio.to_thread(os.read, answers, 100)
                times.append((time.perf_counter() - begun) * 1000)
                await asyncio.sleep(0.01)
            if other is not None:
                other.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await other
            await neighbour.stop(0)
            neighbour.close()
            for descriptor in (asking, questions, answers, answering):
                os.close(descriptor)
            median = statistics.median(times)
            alone = alone or median
            p99 = statistics.quantiles(times, n=100)[98]
            counted = ", ".join(f"{ends.count(end)} × {end}" for end in sorted(set(ends)))
            print(f"{name:16}{median:10.2f}{p99:8.1f}{median / alone:7.2f}  {counted or '-'}")


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0))
