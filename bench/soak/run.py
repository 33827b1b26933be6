"""The whole system for as long as asked, with processes killed at random; at the end, counts.

    python bench/soak/run.py [--minutes N] [--people N] [--every SECONDS] [--seed N] [--json FILE]

A real ``choir up``; people with browsers' sessions, each with a desktop in a sandbox: prompts, a terminal, event
streams, and from inside the sandbox calls to a provider and to the local model. Every so many seconds one process of a
random kind gets SIGKILL: the gateway's master or worker, the hypervisor, a keeper, a launcher, a desktop, the local
model, the template of keepers. Exit code 0 when all of these held:

- every answer that was received whole has its record in the ledger, once;
- everybody's desktop is ready again at the end, with nobody killing;
- no process is left after ``choir up`` has ended, nor a keeper's socket, and no sandbox is leased but the ready ones;
- private memory and descriptors of each kind are flat: most in the last quarter is at most a quarter (and 12 MB, 16
  descriptors) more than most in the second (the first is for warming up);
- the provider saw its key on every call and never a sandbox's token, and neither is in any log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.soak.deployment import VICTIMS, Deployment, weigh
from bench.soak.person import Person, Trouble, ask
from bench.soak.provider import Provider

from choir.channel import connect
from choir.inside import GATEWAY_PORT
from choir.paths import State
from choir.storage.registry import Registry
from tests.hypervisor.orphans import Family

SAMPLE_SECONDS = 2.0
QUIET_SECONDS = 15.0
"""Without kills, at the end, for everything to be whole again."""
QUARTERS = 4
MORE_MEMORY, MORE_DESCRIPTORS, PART = 12e6, 16, 1.25


class Soak:
    def __init__(self, arguments: argparse.Namespace, here: Deployment, provider: Provider) -> None:
        self.arguments, self.here, self.provider = arguments, here, provider
        self.state = State(here.state_root)
        self.chance = random.Random(arguments.seed)
        self.seconds = arguments.minutes * 60
        self.began = time.monotonic()
        self.killed: Counter[str] = Counter()
        self.samples: list[tuple[int, str, int, int]] = []
        """(quarter, kind, bytes, descriptors)"""
        self.people: list[Person] = []

    async def run(self) -> None:
        until = self.began + self.seconds
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), connector=connector, timeout=timeout
        ) as client:
            self.people = [
                Person(self.state, f"p{number}", client, until, not self.arguments.no_local)
                for number in range(self.arguments.people)
            ]
            async with asyncio.TaskGroup() as tasks:
                for person in self.people:
                    tasks.create_task(person.live())
                tasks.create_task(self._kill(until - max(QUIET_SECONDS, self.seconds * 0.1)))
                tasks.create_task(self._sample(until))

    async def _kill(self, until: float) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * self.arguments.every)
            kind = self.chance.choice(VICTIMS)
            victims = await asyncio.to_thread(self.here.victims, kind)
            if victims and time.monotonic() < until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.chance.choice(victims), signal.SIGKILL)
                    self.killed[kind] += 1

    async def _sample(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            quarter = min(QUARTERS - 1, int((now - self.began) / self.seconds * QUARTERS))
            self.samples += [(quarter, *each) for each in await asyncio.to_thread(self._weighed)]
            await asyncio.sleep(SAMPLE_SECONDS)

    def _weighed(self) -> list[tuple[str, int, int]]:
        return [
            (kind, *weigh(pid))
            for kind, group in self.here.by_kind().items()
            if kind != "inside sandboxes"
            for pid in group
        ]

    # ---------------------------------------------------------------- the end

    async def settle(self) -> dict[str, Any]:
        """Everybody ready again, and the ledger caught up."""
        states: list[str] = []
        for person in self.people:
            deadline = time.monotonic() + 60
            state = ""
            while state != "ready" and time.monotonic() < deadline:
                with contextlib.suppress(Trouble):
                    answer = await ask(self.state, "start", user=person.name)
                    state = (answer.get("sandbox") or {}).get("state") or str(answer.get("reason"))
                await asyncio.sleep(0.1)
            states.append(state)
        listed = (await ask(self.state, "list"))["sandboxes"]
        deadline = time.monotonic() + 20
        while True:  # a lease is made again a moment after the sandbox is ready
            gateway = await self._gateway_status()
            leased = {each["sandbox_id"] for each in gateway.get("sandboxes", ())}
            ready = {each["id"] for each in listed if each["state"] == "ready"}
            if leased == ready or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        sockets = {path.stem for path in self.state.run.glob("*.keeper")}
        return {"states": states, "leased": leased == ready, "sockets": sockets == ready, "gateway": gateway["ledger"]}

    async def _gateway_status(self) -> dict[str, Any]:
        with contextlib.closing(connect(str(self.state.gateway_socket))) as channel:
            channel.send({"op": "status"})
            return (await channel.receive_async(asyncio.get_running_loop()))[0]

    def answered(self) -> tuple[list[str], Counter[str], Counter[str]]:
        """(request ids, by kind, errors by reason) as the callers wrote them down."""
        ids, kinds, errors = [], Counter[str](), Counter[str]()
        for home in {home for person in self.people for home in person.homes}:
            with contextlib.suppress(OSError):
                for line in (home / "answered.txt").read_text().splitlines():
                    request_id, _, kind = line.partition(" ")
                    ids.append(request_id)
                    kinds[kind] += 1
            with contextlib.suppress(OSError):
                errors.update((home / "errors.txt").read_text().splitlines())
        return ids, kinds, errors

    def flat(self) -> tuple[dict[str, dict[str, list[float]]], list[str]]:
        """({kind: {"MB": most by quarter, "fds": ...}}, the kinds that are not)."""
        most: dict[str, list[list[float]]] = defaultdict(lambda: [[0.0] * QUARTERS, [0.0] * QUARTERS])
        for quarter, kind, memory, descriptors in self.samples:
            for which, value in enumerate((memory, descriptors)):
                most[kind][which][quarter] = max(most[kind][which][quarter], value)
        wrong = []
        for kind, (memory, descriptors) in most.items():
            if memory[3] > memory[1] * PART + MORE_MEMORY:
                wrong.append(f"{kind} memory")
            if descriptors[3] > descriptors[1] * PART + MORE_DESCRIPTORS:
                wrong.append(f"{kind} descriptors")
        table = {
            kind: {"MB": [round(value / 1e6, 1) for value in memory], "fds": descriptors}
            for kind, (memory, descriptors) in sorted(most.items())
        }
        return table, wrong


def records(path: Path) -> dict[str, str]:
    """Request id and outcome of every record."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        table = next(
            name
            for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if "request_id" in {row[1] for row in ledger.execute(f'PRAGMA table_info("{name}")')}
        )
        return dict(ledger.execute(f'SELECT request_id, outcome FROM "{table}"'))


def leaks(root: Path, key: str) -> list[str]:
    """Log files, the ledger and the registry in which the key is, or a whole gateway token."""
    import re

    token = re.compile(rb"choir-gt-[a-z0-9]+\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{20,}")
    files = [root / "up.log", *(root / "s/logs").glob("*"), *(root / "s").glob("*.db*")]
    return [path.name for path in files if key.encode() in (data := path.read_bytes()) or token.search(data)]


def tell(report: dict[str, Any]) -> None:
    print(f"{report['minutes']:g} minutes, {report['people']} people, seed {report['seed']}")
    for name in ("killed", "people's", "answers", "call errors", "people's errors"):
        counted = ", ".join(f"{count} {what}" for what, count in sorted(report[name].items(), key=lambda it: -it[1]))
        print(f"  {name:16} {counted or 'none'}")
    print(f"  {'records':16} {report['records']} of {report['answered']} whole answers: {report['missing']} missing, ")
    print(f"  {'':16} {report['ledger']} records in all; the provider saw {report['provider calls']} calls")
    print(f"  {'at the end':16} {report['end']}")
    print(f"  {'orphans':16} {report['orphans'] or 'none'}; exit code of choir up {report['exit']}")
    print(f"  {'most by quarter':16} MB of its own memory / descriptors")
    for kind, values in report["flat"].items():
        pairs = "  ".join(f"{mb:7.1f}/{int(fds):<4}" for mb, fds in zip(values["MB"], values["fds"], strict=True))
        print(f"    {kind:14} {pairs}")
    print("held" if not report["broken"] else f"BROKEN: {'; '.join(report['broken'])}")


async def soak(arguments: argparse.Namespace, root: Path, family: Family) -> dict[str, Any]:
    key = f"sk-soak-{secrets.token_hex(20)}"
    provider = Provider(key)
    runner = await provider.start()
    here = Deployment(root, family, provider.origin, key, not arguments.no_local)
    state = State(here.state_root).prepare()
    with contextlib.closing(Registry(state.registry)) as registry:
        for number in range(arguments.people):
            registry.ensure_user(f"p{number}", admin=False, now=time.time())
    await asyncio.to_thread(here.up)
    run = Soak(arguments, here, provider)
    try:
        await run.run()
        end = await run.settle()
    finally:
        code = await asyncio.to_thread(here.down)
    deadline = time.monotonic() + 15
    while (left := family.living()) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    await runner.cleanup()
    ids, kinds, errors = run.answered()
    ledger = records(state.ledger)
    table, wrong = run.flat()
    missing = [each for each in ids if each not in ledger]
    leaked = leaks(root, key)
    people_errors = sum((person.errors for person in run.people), Counter[str]())
    broken = [
        *([f"{len(missing)} answers without a record"] if missing else []),
        *([f"{len(ids) - len(set(ids))} answers with one request id"] if len(set(ids)) != len(ids) else []),
        *([f"desktops at the end: {end['states']}"] if set(end["states"]) != {"ready"} else []),
        *(["leases are not the ready sandboxes"] if not end["leased"] else []),
        *(["keeper sockets are not the ready sandboxes"] if not end["sockets"] else []),
        *([f"left: {left}"] if left else []),
        *([f"choir up ended with {code}"] if code else []),
        *[f"not flat: {each}" for each in (wrong if arguments.minutes >= 1 else [])],
        *([f"{provider.strangers} calls without the key"] if provider.strangers else []),
        *(["a sandbox's token reached the provider"] if provider.tokens_seen else []),
        *([f"a secret is in {', '.join(leaked)}"] if leaked else []),
        *(["nothing was called"] if not ids else []),
    ]
    return {
        "minutes": arguments.minutes,
        "people": arguments.people,
        "seed": arguments.seed,
        "killed": run.killed,
        "people's": sum((person.counts for person in run.people), Counter[str]()),
        "people's errors": people_errors,
        "answers": kinds,
        "call errors": errors,
        "answered": len(ids),
        "records": len(set(ids)) - len(set(missing)),
        "missing": len(missing),
        "missing ids": missing[:20],
        "ledger": len(ledger),
        "provider calls": provider.calls,
        "end": end,
        "orphans": left,
        "exit": code,
        "flat": table,
        "broken": broken,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two kills, about")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--no-local", action="store_true", help="without the local model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--keep", action="store_true", help="leave the state folder for looking at")
    arguments = parser.parse_args()
    assert GATEWAY_PORT == 7070  # as caller.py has it
    root = Path(tempfile.mkdtemp(prefix="choir-soak-"))
    root.chmod(0o711)
    try:
        with Family() as family:
            report = asyncio.run(soak(arguments, root, family))
    finally:
        if not arguments.keep:
            shutil.rmtree(root, ignore_errors=True)
    tell(report)
    if arguments.keep:
        print(f"state: {root}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1, default=str))
    return 1 if report["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
