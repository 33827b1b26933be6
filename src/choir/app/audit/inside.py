"""Attacks from inside sandboxes of the audit's own, beyond the conformance suite: on neighbours, on a project, on the
sandbox's own runtime, on the machine's resources."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import choir
from choir import inside, keyfiles
from choir.app.audit import programs
from choir.app.audit.finding import Finding, held
from choir.app.audit.ground import Ground, python
from choir.errors import ChoirError
from choir.isolation.contract import SandboxLimits
from choir.isolation.tree import pids

_MB = 1024**2
_FOLDERS = ("/home", "/tmp", "/run", "/var", "/dev/shm", "/etc")  # noqa: S108 - looked through, not written
_PORT = 7091
_GONE_SECONDS = 10.0


async def attacks(ground: Ground) -> AsyncIterator[Finding]:
    """Each on a sandbox of its own; one that cannot even be tried has failed."""
    for attack in ATTACKS:
        try:
            yield await attack(ground)
        except (ChoirError, TimeoutError, OSError) as error:
            said = error.message if isinstance(error, ChoirError) else type(error).__name__
            name = attack.__name__.replace("_", " ")
            tried = "try it in a sandbox"
            yield Finding("the machine", name, "launcher", tried, said, "failed", "Look at `choir doctor`.")


async def shell_key(ground: Ground) -> Finding:
    """Named as people name keys, valued at random: nothing inside may hold it."""
    name, value = "CHOIR_VERIFY_API_KEY", f"canary-{secrets.token_hex(16)}"
    os.environ[name] = value
    try:
        output = await ground.output(ground.spec(*python(programs.ENVIRONMENTS)))
    finally:
        del os.environ[name]
    there = value.encode() in output
    return Finding(
        "provider keys",
        "a key of the launching shell",
        "keys",
        "read every /proc/*/environ inside for it",
        "there it is" if there else f"not in {len(output)} bytes",
        held(bool(output) and not there),
        "The launcher must be started with an empty environment; report this.",
    )


async def neighbour(ground: Ground) -> Finding:
    """Two sandboxes of one person at once, which is the hardest case: the same uid on the host."""
    secret, name = f"secret-{secrets.token_hex(16)}", f"choir-verify-{secrets.token_hex(8)}"
    other = ground.spec(*python(programs.NEIGHBOUR, secret[::-1], str(_PORT), name))
    facts = {"needles": [secret[::-1]], "folders": _FOLDERS, "skip": _own_code(), "ports": [_PORT], "abstract": [name]}
    async with ground.running(other) as (_, output):
        await asyncio.wait_for(asyncio.to_thread(output.readline), 30)
        found = await ground.answer(ground.spec(*python(programs.SEARCH, json.dumps(facts)))) or {"read": 0}
    places = [*(path for _, path in found.get("hits", ())), *found.get("reached", ())]
    return Finding(
        "other people's sandboxes",
        "another sandbox",
        "namespaces",
        "look for its secret in every file and process, connect to its loopback and its abstract socket",
        f"found in {', '.join(places[:3])}" if places else f"{found['read']} files read, nothing of it; not reached",
        held(not places and found["read"] > 0),
        "Two sandboxes share a folder or a namespace: see `choir run --explain`.",
    )


def _own_code() -> list[str]:
    """Folders that are shown inside because this program is in them; they may lie below the searched ones."""
    return sorted({sys.prefix, sys.base_prefix, str(Path(choir.__file__).parent)})


async def private_keys(ground: Ground, ca: str | None = None) -> Finding:
    """``ca``: instead of the gateway's certificate for a sandbox."""
    spec = ground.spec(home=ground.home())
    tls = inside.wants_tls(ground.gateway.providers)
    if ca is None:
        ca = await ground.gateway.control.authority(spec.sandbox_id) if tls else ""
    facts = {
        "needles": ["PRIVATE KEY-----"[::-1]],
        "folders": _FOLDERS,
        "skip": _own_code(),
        "ports": [],
        "abstract": [],
    }
    spec = ground.spec(*python(programs.SEARCH, json.dumps(facts)), home=spec.home, ca_certificate=ca)
    found = await ground.answer(spec) or {"read": 0, "hits": []}
    places = [path for _, path in found["hits"]]
    clean = f"{found['read']} files read, none; " + (
        "the certificate alone is inside" if ca else "no client here needs TLS, so there is no certificate either"
    )
    return Finding(
        "provider keys",
        "private keys inside",
        "files",
        "look for a private key, first that of the TLS listener's authority, in all files but the system's and Choir's",
        f"found in {', '.join(places[:3])}" if places else clean,
        held(not places and found["read"] > 0),
        "A key lies in a folder that is shown inside, or the gateway handed out more than a certificate: report this.",
    )


async def planted_code(ground: Ground, command: tuple[str, ...] = ("true",)) -> Finding:
    """What an earlier agent left in the home must not run before the listener is handed out and the check is done."""
    home = ground.home()
    code = "open('/home/choir/ran', 'w').write('it ran')\n"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name in ("usercustomize.py", "sitecustomize.py"):
        ground.write(home, f".local/lib/{version}/site-packages/{name}", code)
    for name in ("json.py", "socket.py", "choir.py"):
        ground.write(home, name, code)
    exited = await ground.ended(ground.spec(*command, home=home))
    ran = (home / "ran").exists()
    return Finding(
        "provider keys",
        "code left in the home",
        "keyless",
        "leave usercustomize.py, sitecustomize.py, json.py and others in the home, and start a sandbox on it",
        "one of them ran" if ran else f"none ran (exit code {exited.code})",
        held(not ran and exited.code == 0),
        "The first process must run as `python -I -S` with nothing of the home in its path; report this.",
    )


async def project(ground: Ground, shielded: bool = True) -> Finding:
    """A folder as ``choir run`` would show it. ``shielded``: as it does, with its masks."""
    folder = Path(tempfile.mkdtemp(prefix="choir-verify-", dir=os.path.realpath(tempfile.gettempdir())))  # noqa: ASYNC240
    try:
        key = f"OPENAI_API_KEY=sk-{secrets.token_hex(24)}\n"
        for name, text in {
            ".env": key,
            "deep/er/.env.production": key,
            ".envrc": "export A=1\n",
            "main.py": "print('hello')\n",
            ".git/config": "[core]\n\tbare = false\n",
            ".git/HEAD": "ref: refs/heads/main\n",
            ".git/hooks/pre-commit": "#!/bin/sh\n",
        }.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        keys = [str(folder / ".env"), str(folder / "deep/er/.env.production")]
        traps = [str(folder / name) for name in (".git/config", ".git/hooks/pre-commit", ".git/hooks/new", ".envrc")]
        facts = {"read": keys, "write": [*traps, str(folder / "main.py")]}
        spec = ground.spec(*python(programs.PROJECT, json.dumps(facts)), workspace=folder)
        if shielded:
            masked, protected = keyfiles.find_key_files(folder), keyfiles.find_protected(folder)
            spec = ground.spec(*spec.command or (), workspace=folder, masked=tuple(masked), protected=tuple(protected))
        said = await ground.answer(spec) or {"read": {}, "written": {}}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shown = [path for path in keys if said["read"].get(path, 0) > 0]
    written = [path for path in traps if said["written"].get(path)]
    worked = bool(said["written"].get(str(folder / "main.py")))
    wrong = [path.removeprefix(f"{folder}/") for path in (*shown, *written)]
    good = f"{len(keys)} key files empty, {len(traps)} writes refused, an ordinary file written"
    return Finding(
        "the person's project",
        "key files and git's hooks in a project",
        "workspace",
        "read .env files at any depth; write git's configuration, hooks and .envrc",
        f"open: {', '.join(wrong)}" if wrong else good if worked else "the project was not there",
        held(not wrong and worked),
        "See what `choir run --explain` masks and protects in this folder; report what it missed.",
    )


async def separation(ground: Ground, separate: bool = True) -> Finding:
    """``separate``: as a run's commands are."""
    code = f"SEPARATE = {separate}\n{programs.SEPARATION}"
    said = await ground.answer(ground.spec(*python(code)))
    name, tried = "the agent and its runtime", "from an agent's command: reach the sandbox's database and runtime"
    fix = "It needs Landlock (kernel 5.19 or newer, lsm=landlock); if that is there, report this."
    if said is None:
        return Finding("a sandbox's own state", name, "separation", tried, "no answer", "failed", fix)
    if not said["abi"]:
        came_back = "this kernel has no Landlock, so nothing keeps them apart: what it says of itself is testimony"
        return Finding("a sandbox's own state", name, "separation", tried, came_back, "limit", fix)
    got = ", ".join(said["got"])
    signals = "" if said["abi"] >= 6 else "; this kernel does not scope signals (Landlock ABI 6)"
    return Finding(
        "a sandbox's own state",
        name,
        "separation",
        tried,
        f"it could {got}" if got else f"Landlock ABI {said['abi']}: refused (names of files show){signals}",
        held(not got),
        fix,
    )


LIMIT = Finding(
    "a sandbox's own state",
    "the agent is not the runtime",
    "separation",
    "keep a sandbox's desktop and its agent under separate uids",
    "not in this version. What holds: an agent's commands are kept from the state folder and the desktop's memory by "
    "Landlock (above), and nothing outside rests on a sandbox's word: usage records, limits and leases are the "
    "gateway's. What does not: the person's own terminal and `choir run` are under the same uid as the agent, so what "
    "a sandbox records about itself is testimony, not evidence",
    "limit",
    "",
)


async def memory(ground: Ground, limits: SandboxLimits | None = None) -> Finding:
    limits = limits or SandboxLimits(max_memory_bytes=96 * _MB)
    program = python(programs.MEMORY, "256")
    return await _limit(ground, limits, "memory", program, "256 MB", "out_of_memory", "96 MB")


async def disk(ground: Ground, limits: SandboxLimits | None = None, patience: int = 150) -> Finding:
    """``patience``: seconds. A watcher that sees others free space meanwhile looks again after 2 minutes."""
    limits = limits or SandboxLimits(max_disk_bytes=16 * _MB)
    program = python(programs.DISK, "64", str(patience))
    return await _limit(ground, limits, "disk", program, "64 MB", "disk_quota", "16 MB")


async def _limit(
    ground: Ground, limits: SandboxLimits, what: str, program: tuple[str, ...], most: str, reason: str, allowed: str
) -> Finding:
    async with ground.running(ground.spec(*program, limits=limits)) as (running, output):
        text = await asyncio.wait_for(asyncio.to_thread(output.read), 200)
        exited = await asyncio.wait_for(running.wait(), 20)
    got = int((text.split() or [b"0"])[-1])
    return Finding(
        "the machine",
        f"a sandbox that takes too much {what}",
        "limits",
        f"take up to {most} of {what} where {allowed} are allowed",
        f"ended at {got} MB: {exited.reason or f'exit code {exited.code}'}",
        held(exited.reason == reason),
        "Give Choir a control group of its own (systemd: Delegate=yes, DelegateSubgroup=), or report this.",
    )


async def processes(ground: Ground, limits: SandboxLimits | None = None) -> Finding:
    limits = limits or SandboxLimits(max_processes=24)
    async with ground.running(ground.spec(*python(programs.PROCESSES, "64"), limits=limits)) as (running, output):
        text = await asyncio.wait_for(asyncio.to_thread(output.read), 60)
        exited = await asyncio.wait_for(running.wait(), 60)
    count = int(text) if text.strip().isdigit() else -1
    refused = exited.reason == "too_many_processes" or 0 <= count < 24
    return Finding(
        "the machine",
        "a sandbox that forks without end",
        "limits",
        "make 64 processes where 24 are allowed",
        f"{count} made, then refused" if count >= 0 else f"ended: {exited.reason}",
        held(refused),
        "Give Choir a control group of its own (systemd: Delegate=yes, DelegateSubgroup=), or report this.",
    )


async def keeper(ground: Ground) -> Finding:
    """SIGKILL for the process that holds a sandbox: nothing of it may live on unwatched."""
    async with ground.running(ground.spec(*python(programs.FAMILY))) as (running, output):
        await asyncio.wait_for(asyncio.to_thread(output.readline), 30)
        tree = [pid for pid in pids(running.keeper_pid) if pid != running.keeper_pid]
        os.kill(running.keeper_pid, signal.SIGKILL)
        left = await gone(tree)
    return Finding(
        "the machine",
        "a sandbox whose keeper was killed",
        "launcher",
        f"SIGKILL its keeper; look for its {len(tree)} processes",
        f"{len(left)} live on" if left else "all gone",
        held(len(tree) > 3 and not left),
        "Kill what is left (its processes run under the sandbox's uid) and report this.",
    )


async def gone(tree: list[int], seconds: float = _GONE_SECONDS) -> list[int]:
    """Those of ``tree`` that still live after a moment."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in tree if _lives(pid)]) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return left


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def credential(ground: Ground) -> Finding:
    """A sandbox that cannot start must say so at once."""
    home = ground.home()
    ground.write(home, ".aws/credentials", f"[default]\naws_secret_access_key = {secrets.token_hex(20)}\n")
    began = time.monotonic()
    try:
        await ground.output(ground.spec("true", home=home))
        came_back, named = "it started", False
    except ChoirError as error:
        came_back, named = f"{error.reason}: {error.message}", ".aws/credentials" in error.message
    seconds = time.monotonic() - began
    return Finding(
        "provider keys",
        "crash at start",
        "keyless",
        "leave ~/.aws/credentials in the home, and start a sandbox on it",
        f"after {seconds:.2f} s: {came_back}",
        held(named),
        "The first process must refuse a home with a credential in it, and name the file; report this.",
    )


ATTACKS: tuple[Callable[[Ground], Awaitable[Finding]], ...] = (
    shell_key, neighbour, private_keys, planted_code, project, separation, memory, processes, disk, keeper, credential,
)  # fmt: skip
