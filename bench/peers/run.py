"""Choir's gateway beside other gateways and plain proxies: one load, one upstream, one core each.

    python bench/peers/run.py [--only NAME,…] [--rounds N] [--seconds S] [--streams N]

Each proxy runs alone, with one worker, pinned to the first core; the upstream and the load to the second. Small JSON
over 32 connections and over one (wrk), and event streams of ten events a second each (bench/gateway/stream_load.py).
Choir does its whole work: token, lease, route, body policy, limits, key injection, header lists, journal, ledger. The
others only put in a key; LiteLLM also checks its own. Needs nginx, wrk, uv, npm; the peers are installed into
.cache/peers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gateway import stream_load, streams
from bench.gateway.run import ANSWER, STATIC, children, cpu_seconds, free_port, pinned, start_nginx
from bench.peers.peers import CHAT, PEERS, NotThere, Peer

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["User-Agent"] = "OpenAI/Python 3.0.0"
wrk.headers["Accept"] = "application/json"
wrk.headers["X-Stainless-Lang"] = "python"
wrk.headers["X-Stainless-Async"] = "false"
{headers}
wrk.body = '{{"messages":[{{"role":"user","content":"{content}"}}],"model":"m","temperature":0}}'
"""
_UNIT = {"us": 1.0, "ms": 1e3, "s": 1e6}


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children(pid) for below in family(child))]


def wrk(
    core: int,
    port: int,
    path: str,
    headers: dict[str, str],
    connections: int,
    seconds: int,
    root: list[int],
    folder: Path,
) -> dict[str, float]:
    """One round: requests/s, median in microseconds, CPU in microseconds per request, answers that were no 2xx."""
    script = folder / "wrk.lua"
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(SCRIPT.format(headers=lines, content="x" * 40))
    pids = [pid for each in root for pid in family(each)]
    before = cpu_seconds(pids)
    with pinned(core):
        out = subprocess.run(
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                "--timeout",
                "30s",
                "--latency",
                "-s",
                str(script),
                f"http://127.0.0.1:{port}{path}",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    used = cpu_seconds(pids) - before
    requests = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "rate": float(re.search(r"Requests/sec:\s*([\d.]+)", out)[1]),  # type: ignore[index]
        "median": float(value) * _UNIT[unit],
        "cpu": used / max(1, requests) * 1e6,
        "failed": float(failed[1]) if failed else 0.0,
    }


def wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it accepts.

    Raises:
        NotThere: it ended, or took more than a minute.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    said = log.read_text(errors="replace").strip().splitlines()
    raise NotThere(f"it did not start: {said[-1] if said else 'it said nothing'}")


@contextlib.contextmanager
def running(peer: Peer, folder: Path, core: int, upstream: int) -> Iterator[tuple[int, int]]:
    """Its process id and its port."""
    port = free_port()
    folder.mkdir()
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "NODE_ENV": "production",
        **peer.environment,
    }
    with pinned(core), open(folder / "log", "wb") as log:
        process = subprocess.Popen(peer.command(folder, port, upstream), env=environment, stdout=log, stderr=log)
    try:
        wait(process, port, folder / "log")
        yield process.pid, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def small(
    core: int,
    port: int,
    path: str,
    headers: dict[str, str],
    root: list[int],
    folder: Path,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Medians over the rounds."""
    wrk(core, port, path, headers, 1, 1, root, folder)
    rounds = []
    for _ in range(arguments.rounds):
        many = wrk(core, port, path, headers, 32, arguments.seconds, root, folder)
        one = wrk(core, port, path, headers, 1, arguments.seconds, root, folder)
        rounds.append(
            {
                "rate": many["rate"],
                "cpu": many["cpu"],
                "median": one["median"],
                "failed": many["failed"] + one["failed"],
            }
        )
    return {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}


def stream(
    load: stream_load.Load, doors: list[tuple[int, bytes]] | None, root: list[int], arguments: argparse.Namespace
) -> dict[str, float]:
    streams.measure(5, doors, load, 1, 10, root)  # the first calls are slower
    pids = [pid for each in root for pid in family(each)]
    return streams.measure(arguments.streams, doors, load, arguments.seconds * 2, 10, pids)


def lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def print_row(name: str, row: dict[str, Any], direct: dict[str, Any]) -> None:
    cpu = event = ""
    if name != "direct":
        cpu, event = f"{row['cpu']:,.0f} µs", f"{row['stream_cpu_us']:.0f} µs"
    failed = f" ({row['failed']:.0f} failed)" if row["failed"] else ""
    print(
        f"| {name} | {row['version']} | {row['rate']:,.0f}{failed} | {cpu} | "
        f"{row['median'] - direct['median']:,.0f} µs | "
        f"{row['stream_lost'] + row['stream_unended']:.0f} of {row['stream_sent']:,.0f} | "
        f"{row['stream_p99'] - direct['stream_p99']:.2f} ms | {event} |",
        flush=True,
    )


def measure(arguments: argparse.Namespace) -> dict[str, str]:
    """Prints the figures of each; returns those that cannot be had here, and why."""
    core, load_core = sorted(os.sched_getaffinity(0))[:2]
    found: dict[str, dict[str, Any]] = {}
    missing: dict[str, str] = {}
    wanted = arguments.only.lower().split(",") if arguments.only else None
    with tempfile.TemporaryDirectory(prefix="choir-peers-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        static = free_port()
        nginx = start_nginx(folder, "upstream", load_core, static, 9, STATIC.format(answer=ANSWER))
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)

        def figures(who: str, version: str, alone: dict[str, float], streamed: dict[str, float]) -> None:
            found[who] = {"version": version, **alone, **{f"stream_{key}": value for key, value in streamed.items()}}
            print_row(who, found[who], found["direct"])

        with stream_load.Load() as load, pinned(load_core):
            figures(
                "direct",
                "",
                small(load_core, static, CHAT, {}, [os.getpid()], folder, arguments),
                stream(load, None, [os.getpid()], arguments),
            )
        if wanted is None or "choir" in wanted:
            with choir(folder, core, static) as gateway:
                port, text = gateway.doors[0]
                path = text.split(b" ", 2)[1].decode()
                token = re.search(rb"Authorization: ([^\r]+)", text)
                assert token is not None
                alone = small(
                    load_core,
                    port,
                    path,
                    {"Authorization": token[1].decode()},
                    [gateway.service.pid],
                    folder,
                    arguments,
                )
            with stream_load.Load() as load, choir(folder, core, load.port) as gateway, pinned(load_core):
                figures("Choir", _choir_version(), alone, stream(load, gateway.doors, [gateway.service.pid], arguments))
        for peer in PEERS:
            if wanted is not None and peer.name.lower() not in wanted:
                continue
            try:
                version = peer.version()
                with running(peer, folder / peer.name, core, static) as (pid, port):
                    alone = small(load_core, port, CHAT, peer.headers(static), [pid], folder, arguments)
                with (
                    stream_load.Load() as load,
                    running(peer, folder / f"{peer.name}-streams", core, load.port) as (pid, port),
                    pinned(load_core),
                ):
                    doors = [(port, stream_load.request(CHAT, *lines(peer.headers(load.port))))]
                    figures(peer.name, version, alone, stream(load, doors, [pid], arguments))
            except NotThere as reason:
                missing[peer.name] = str(reason)
    return missing


@contextlib.contextmanager
def choir(folder: Path, core: int, upstream: int) -> Iterator[stream_load.Gateway]:
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        stream_load.Gateway(Path(name), core, upstream, 10) as gateway,
    ):
        yield gateway


def _choir_version() -> str:
    import choir

    return choir.__version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, e.g. choir,envoy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--streams", type=int, default=100)
    arguments = parser.parse_args()
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin"
    lacking = [tool for tool in ("nginx", "wrk") if shutil.which(tool) is None]
    if lacking:
        sys.exit(f"missing: {', '.join(lacking)} (Debian: apt install nginx-light wrk)")
    print(
        "| | version | requests/s, 32 connections | CPU per request | added median, 1 connection | "
        f"{arguments.streams} streams: lost | p99 added | CPU per event |"
    )
    print("|---|---|---|---|---|---|---|---|")
    missing = measure(arguments)
    for name, reason in missing.items():
        print(f"{name}: not measured: {reason}")


if __name__ == "__main__":
    main()
