"""What many desktops cost: ``python bench/sandbox/density.py [SANDBOXES] [SVG]``.

A real ``choir up`` with a user per sandbox. First 50 starts at once, while somebody keeps asking the hypervisor; then
one after another up to SANDBOXES, and at some numbers of them: the median of the last starts, the memory of a sandbox
with its keeper and launcher (PSS), and the processor time of everything while nobody does anything. At the end every
desktop is asked for its page. SVG is a file for the plot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from plot import Series, draw

from choir.channel import Channel, connect
from choir.isolation.tree import pids
from choir.paths import State
from choir.storage.registry import Registry

CHOIR = Path(sys.executable).parent / "choir"
STORM = 50
POINTS = (1, 10, 25, 50, 100, 150, 200, 300, 400, 500)
QUIET = 5.0
"""Seconds of doing nothing, for the processor's time."""
TICK = os.sysconf("SC_CLK_TCK")


def ask(state: State, op: str, **fields: object) -> dict:
    channel = connect(str(state.hypervisor_socket))
    with contextlib.closing(channel):
        channel.send({"op": op, **fields})
        return channel.receive()[0]


def start(state: State, user: str) -> tuple[float, float]:
    """(seconds that the start took, seconds with the waiting for a place)."""
    asked = time.perf_counter()
    while True:
        begun = time.perf_counter()
        answer = ask(state, "start", user=user, role="live")
        if answer.get("ok") and answer["sandbox"]["state"] == "ready":
            return time.perf_counter() - begun, time.perf_counter() - asked
        assert answer.get("reason") == "too_many_starting", answer
        time.sleep(0.05)


def storm(state: State, users: list[str]) -> None:
    took: list[tuple[float, float]] = []
    waits: list[float] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            ask(state, "status")
            waits.append(time.perf_counter() - begun)
            time.sleep(0.02)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    begun = time.perf_counter()
    starting = [threading.Thread(target=lambda user=user: took.append(start(state, user))) for user in users]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()
    whole = time.perf_counter() - begun
    over.set()
    asking.join()
    own, waited = zip(*took, strict=True)
    median = statistics.median(own)
    print(
        f"{len(users)} at once: all ready after {whole:.1f} s; a start {median * 1000:.0f} ms, the slowest "
        f"{max(own) / median:.1f} × that; with waiting for a place {statistics.median(waited):.1f} s\n"
        f"    the hypervisor answered {len(waits)} times meanwhile: median {statistics.median(waits) * 1000:.0f} ms, "
        f"slowest {max(waits) * 1000:.0f} ms"
    )


def pss(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return 0


def ticks(processes: set[int]) -> int:
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total


def keepers(state: State) -> list[Channel]:
    return [connect(str(path)) for path in state.run.glob("*.keeper")]


def page(channel: Channel) -> None:
    """Ask the desktop for its page, over the socket that its keeper hands out."""
    while True:
        message, descriptors = channel.receive()
        if message.get("phase") == "listener":
            break
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"/proc/self/fd/{descriptors[1]}")
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
    for descriptor in descriptors:
        os.close(descriptor)


def main(number: int, svg: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="choir-") as folder:
        state = State(Path(folder) / "s").prepare()
        users = [f"user{each}" for each in range(number)]
        with contextlib.closing(Registry(state.registry)) as registry:
            for user in users:
                registry.ensure_user(user, admin=False, now=time.time())
        (Path(folder) / "choir.toml").write_text("[sandbox]\nidle_stop = 0\n")
        environment = {"HOME": folder, "PATH": os.environ["PATH"]}
        words = [CHOIR, "up", "--port", "0", "--config", f"{folder}/choir.toml", "--state", str(state.root)]
        up = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert up.stdout is not None
        while "isolation  " not in (line := up.stdout.readline()):
            assert line, "choir up did not start"
        threading.Thread(target=up.stdout.read, daemon=True).start()
        try:
            measure(state, users, up.pid, svg)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait()


def measure(state: State, users: list[str], up: int, svg: str | None) -> None:
    first = users[: min(STORM, len(users))]
    storm(state, first)
    for user in first:
        ask(state, "stop", user=user, role="live")
    starts: list[float] = []
    rows: list[tuple[int, float, float, float]] = []
    for count, user in enumerate(users, 1):
        starts.append(start(state, user)[0])
        if count not in POINTS and count != len(users):
            continue
        time.sleep(1.0)  # the last one is still importing
        everybody = set(pids(up))
        own = sorted(everybody)
        before, begun = ticks(everybody), time.perf_counter()
        time.sleep(QUIET)
        busy = (ticks(everybody) - before) / TICK / (time.perf_counter() - begun) / (os.cpu_count() or 1)
        services = {up, *(int(pid) for pid in Path(f"/proc/{up}/task/{up}/children").read_text().split())}
        memory = sum(pss(pid) for pid in own if pid not in services) / count
        rows.append((count, statistics.median(starts[-10:]) * 1000, memory / 1e6, busy * 100))
        print(
            f"{count:4} sandboxes: a start {rows[-1][1]:6.1f} ms, {rows[-1][2]:5.1f} MB each (PSS, with keeper and "
            f"launcher), idle {rows[-1][3]:.2f} % of {os.cpu_count()} processors",
            flush=True,
        )
    channels = keepers(state)
    assert len(channels) == len(users), f"{len(channels)} of {len(users)} live"
    begun = time.perf_counter()
    for channel in channels:
        page(channel)
        channel.close()
    print(f"all {len(channels)} answered, in {time.perf_counter() - begun:.1f} s")
    if svg:
        counts = [row[0] for row in rows]
        draw(
            svg,
            "What desktops cost, from 1 to many",
            "sandboxes",
            [
                Series("a start, ms", counts, [row[1] for row in rows]),
                Series("memory each, MB (PSS)", counts, [row[2] for row in rows]),
                Series("idle, % of the machine", counts, [row[3] for row in rows]),
            ],
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2] if len(sys.argv) > 2 else None)
