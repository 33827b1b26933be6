"""What a sandbox costs, beside bubblewrap alone: ``python bench/sandbox/run.py [ROUNDS]``.

Rounds of four in turn, so that a busy machine hits all alike: the launcher with ``true`` and with ``python -c pass``,
``backend.start`` of ``true`` to its end, and of a desktop to its first answer. Prints medians in milliseconds and
ratios to ``bwrap … python -c pass``; read the ratios.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from choir import inside
from choir.isolation.bubblewrap import PROBE_UID, BubblewrapBackend
from choir.isolation.contract import PhaseReached, Running, SandboxSpec
from choir.isolation.host import inspect

BARE = (
    "--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--new-session", "--die-with-parent",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin",
    "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
)  # fmt: skip


def bare(*command: str) -> None:
    """bwrap with the flags of the design, and nothing else."""
    host = inspect()
    binds = [word for folder in host.code for word in ("--ro-bind", folder, folder)]
    subprocess.run([host.launcher.path, *BARE, *binds, "--", *command], env={}, check=True)


async def end(running: Running) -> None:
    await running.wait_ready()
    assert (await running.wait()).code == 0


async def answer(running: Running) -> None:
    await running.wait_ready()
    assert running.desktop is not None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(running.desktop)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        assert (await asyncio.to_thread(sock.recv, 100)).startswith(b"HTTP/1.1 200")


async def main(rounds: int) -> None:
    backend = BubblewrapBackend()
    times: dict[str, list[float]] = defaultdict(list)
    phases: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def timed(name: str, run: Callable[[], None]) -> None:
        begun = time.perf_counter()
        run()
        times[name].append(time.perf_counter() - begun)

    async def sandbox(name: str, spec: SandboxSpec, until: Callable[..., object]) -> None:
        begun = time.perf_counter()
        running = await backend.start(spec)
        try:
            await until(running)  # type: ignore[misc]
            times[name].append(time.perf_counter() - begun)
            async for event in running.events():
                if isinstance(event, PhaseReached):
                    phases[name][event.phase].append(event.at)
                    if event.phase == "ready":
                        break
            await running.stop(0)
        finally:
            running.close()

    with tempfile.TemporaryDirectory(prefix="choir-bench-") as folder:

        def spec(*command: str) -> SandboxSpec:
            environment = inside.identity_environment("bench", "bench", "run", "")
            return SandboxSpec(
                sandbox_id="bench",
                user_id="bench",
                role="run",
                home=Path(folder) / "home",
                host_uid=PROBE_UID if os.geteuid() == 0 else None,
                environment=environment | {"DATABASE_URL": "sqlite:////home/choir/choir.db"},
                command=command or None,
            )

        for number in range(rounds + 1):
            timed("bwrap … true", lambda: bare("true"))
            timed("bwrap … python -c pass", lambda: bare(sys.executable, "-c", "pass"))
            await sandbox("choir: true, to its end", spec("true"), end)
            await sandbox("choir: desktop, to its first 200", spec(), answer)
            if number == 0:  # caches are warm now
                times.clear()
                phases.clear()

    unit = statistics.median(times["bwrap … python -c pass"])
    print(f"{rounds} rounds, uid {os.geteuid()}, {os.cpu_count()} cores\n")
    print(f"{'':36}{'median ms':>10}{'ratio':>8}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:36}{median * 1000:10.1f}{median / unit:8.2f}")
        if name in phases:
            reached = (f"{phase} {statistics.median(at) * 1000:.0f}" for phase, at in phases[name].items())
            print(f"{'':4}{' · '.join(reached)}")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 15))
