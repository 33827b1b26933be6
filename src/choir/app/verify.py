"""``choir verify``: the proof that a deployment is keyless. Attacks it from inside a sandbox and says what came back.

Against the running ``choir up`` of this state folder, else against a gateway started for the purpose.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from choir import __version__, contract, ids, keyless, tokens
from choir import config as configuration
from choir.app import canary
from choir.app.run import Gateway, gateway_for, own_uid
from choir.app.secrets import stored_key
from choir.channel import ChannelClosed, connect, peer_credentials
from choir.config import Config, Provider
from choir.errors import EXIT_FAILED, ChoirError
from choir.isolation import backends, self_check
from choir.isolation.contract import Backend, SandboxLimits, SandboxSpec
from choir.paths import State
from choir.storage.ledger import Ledger


@dataclass(frozen=True)
class Line:
    """One finding."""

    name: str
    tried: str
    came_back: str
    ok: bool


async def verify(config_path: Path | None, state: State, as_json: bool) -> int:
    """Run every check; 0 when all held, EXIT_FAILED when one did not.

    Raises:
        ChoirError: it could not be tried at all.
    """
    config = configuration.load(config_path)
    state.prepare()
    backend = backends.choose(config.sandbox.backend)
    lines: list[Line] = []

    def found(line: Line) -> None:
        lines.append(line)
        if not as_json:
            print(f"  {'ok  ' if line.ok else 'FAIL'}  {line.name}: {line.tried} → {line.came_back}", flush=True)

    async with gateway_for(config, state) as gateway:
        if not as_json:
            which = "a gateway started for this" if gateway.own else f"the running deployment in {state.root}"
            print(f"choir {__version__}  verifying {which}", flush=True)
        async for line in findings(config, state, backend, gateway):
            found(line)
    failed = [line.name for line in lines if not line.ok]
    if as_json:
        print(json.dumps({"version": __version__, "ok": not failed, "checks": [asdict(line) for line in lines]}))
    elif failed:
        print(f"choir: {len(failed)} of {len(lines)} checks failed: {', '.join(failed)}", file=sys.stderr)
    else:
        print(f"all {len(lines)} checks held")
    return EXIT_FAILED if failed else 0


async def findings(config: Config, state: State, backend: Backend, gateway: Gateway) -> AsyncIterator[Line]:
    """Every check, in an order that a reader can follow."""
    try:
        yield Line("isolation", "run the launcher", await backend.probe(), True)
    except ChoirError as error:
        yield Line("isolation", "run the launcher", f"{error.message} {error.hint}", False)
        return
    pids = {"gateway": (await gateway.control.status())["pid"], **running_processes(state)}
    for name, pid in pids.items():
        yield environment_of(name, pid)
    with probe_home(state) as (home, host_uid):
        factory = spec_factory(config, gateway, home, host_uid, stored_key(state.token_key))
        # Named as people name keys, valued at random: nothing inside may hold it.
        name, value = "CHOIR_VERIFY_API_KEY", f"canary-{secrets.token_hex(16)}"
        os.environ[name] = value
        try:
            for result in await self_check.run(backend, factory):
                yield Line(result.name, result.tried, result.came_back, result.ok)
            yield await no_canary_inside(backend, factory, value)
        finally:
            del os.environ[name]
        for line in await through_the_gateway(state, backend, gateway, factory):
            yield line
        yield await crash_is_reported(backend, factory)
    yield Line(
        "known limit",
        "keep a desktop and its agent's commands under separate uids",
        "not in this version: what a sandbox says of itself is testimony, not evidence",
        True,
    )
    for outcome in await canary.run():
        yield Line(f"canary key, provider {outcome.failure}", outcome.tried, outcome.came_back, outcome.ok)


@contextlib.contextmanager
def probe_home(state: State) -> Iterator[tuple[Path, int | None]]:
    """An empty home for probe sandboxes, gone afterwards."""
    host_uid = own_uid(state, "choir/verify")
    with tempfile.TemporaryDirectory(prefix="verify-", dir=state.homes) as folder:
        home = Path(folder)
        if host_uid is not None:
            os.chown(home, host_uid, host_uid)
        yield home, host_uid


def spec_factory(
    config: Config, gateway: Gateway, home: Path, host_uid: int | None, key: bytes
) -> Callable[..., SandboxSpec]:
    """Makes specs of probe sandboxes that differ in their command only."""

    def make(command: tuple[str, ...], environment: dict[str, str] | None = None) -> SandboxSpec:
        sandbox_id = ids.new_id()
        token = tokens.sign(key, sandbox_id)
        return SandboxSpec(
            sandbox_id=sandbox_id,
            user_id=getpass.getuser(),
            role="probe",
            home=home,
            host_uid=host_uid,
            environment=contract.identity_environment(sandbox_id, getpass.getuser(), "probe", token)
            | contract.provider_environment(gateway.providers, token)
            | (environment or {}),
            command=command,
            limits=SandboxLimits(max_processes=config.sandbox.max_processes),
            start_timeout=config.sandbox.start_timeout,
        )

    return make


def environment_of(name: str, pid: int) -> Line:
    """No process of Choir's own may have been started with a key in its environment."""
    name, tried = f"environment of the {name}", f"read /proc/{pid}/environ"
    try:
        data = Path(f"/proc/{pid}/environ").read_bytes()
    except PermissionError:
        return Line(name, tried, "permission denied", True)
    except OSError as error:
        return Line(name, tried, error.strerror or "gone", False)
    variables = dict(item.split("=", 1) for item in data.decode(errors="replace").split("\0") if "=" in item)
    try:
        keyless.check_environment(variables)
    except ChoirError as error:
        return Line(name, tried, error.message, False)
    return Line(name, tried, f"{len(variables)} variables, no credential", True)


def running_processes(state: State) -> dict[str, int]:
    """The hypervisor's and supervisor's pids, when ``choir up`` runs here."""
    found: dict[str, int] = {}
    try:
        channel = connect(str(state.hypervisor_socket))
    except ChannelClosed:
        return found
    found["hypervisor"] = pid = peer_credentials(channel.sock)[0]
    channel.close()
    # proc_pid_stat(5): the fourth field is the parent.
    found["supervisor"] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


async def inside(
    backend: Backend, gateway: Gateway | None, spec: SandboxSpec, seconds: float = 90.0
) -> tuple[bytes, int | None]:
    """Run ``spec``'s command to its end; its output and exit code."""
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    try:
        running = await backend.start(spec, (null, write, null))
    finally:
        os.close(write)
        os.close(null)
    try:
        if gateway is not None:
            await gateway.control.attach(spec.sandbox_id, spec.user_id, spec.role, running.listener, lease_s=seconds)
        await running.wait_ready()
        output = await asyncio.wait_for(asyncio.to_thread(_read_all, read), seconds)
        exited = await running.wait()
    finally:
        if gateway is not None:
            await gateway.control.detach(spec.sandbox_id)
        await running.stop(0.0)
        running.close()
    return output, exited.code


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


ENVIRONMENTS = """
import glob, sys
for path in glob.glob("/proc/[0-9]*/environ"):
    try:
        sys.stdout.buffer.write(open(path, "rb").read())
    except OSError:
        pass
"""


async def no_canary_inside(backend: Backend, factory: Callable[..., SandboxSpec], value: str) -> Line:
    output, _ = await inside(backend, None, factory((sys.executable, "-I", "-c", ENVIRONMENTS)))
    return Line(
        "a key of the launching shell",
        "read every /proc/*/environ for it",
        f"not in {len(output)} bytes" if value.encode() not in output else "there it is",
        bool(output) and value.encode() not in output,
    )


CALL = """
import http.client, json, os, sys
port, method, path, body = json.loads(sys.argv[1])
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=80)
connection.request(method, path, body, {"Authorization": "Bearer " + os.environ["CHOIR_PROVIDER_GATEWAY_TOKEN"],
    "content-type": "application/json", "anthropic-version": "2023-06-01"})
answer = connection.getresponse()
answer.read()
print(json.dumps([answer.status, answer.getheader("x-choir-request-id")]))
"""


def cheap_call(providers: list[Provider]) -> tuple[str, str, str, str | None] | None:
    """(provider, method, path, body) of a call that costs nothing or next to it."""
    for provider in sorted(providers, key=lambda item: not item.start_on_use):
        base = f"/provider/v1/{provider.name}"
        if provider.start_on_use:
            body = json.dumps({"model": "local", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]})
            return provider.name, "POST", f"{base}/v1/chat/completions", body
        for pattern in provider.allow:
            method, path = pattern.split(" ", 1)
            if method == "GET" and path.endswith("/models"):
                return provider.name, "GET", base + path, None
    return None


async def through_the_gateway(
    state: State, backend: Backend, gateway: Gateway, factory: Callable[..., SandboxSpec]
) -> list[Line]:
    """The one allowed way works, and nowhere else; and it is written down."""
    call = cheap_call(gateway.providers)
    if call is None:
        return [Line("call through the gateway", "find a provider to call", "none is enabled", False)]
    provider, method, path, body = call
    command = (sys.executable, "-I", "-c", CALL, json.dumps([contract.GATEWAY_PORT, method, path, body]))
    spec = factory(command)
    output, _ = await inside(backend, gateway, spec)
    try:
        status, request_id = json.loads(output)
    except ValueError:
        status, request_id = 0, None
    lines = [
        Line("call through the gateway", f"{method} {path}", f"status {status}", status == 200),
    ]
    stolen = replace(factory(command), environment=spec.environment)
    output, _ = await inside(backend, gateway, stolen)
    with contextlib.suppress(ValueError):
        status, _ = json.loads(output)
    lines.append(Line("a stolen token", "use it in another sandbox", f"status {status}", status == 401))
    records = Ledger(state.ledger).query(sandbox_id=spec.sandbox_id, limit=5)
    match = next((record for record in records if record.request_id == request_id), None)
    lines.append(
        Line(
            "usage log",
            f"look for call {request_id}",
            f"{match.provider} {match.status} {match.latency_ms:.0f} ms" if match else f"not among {len(records)}",
            match is not None and match.provider == provider,
        )
    )
    return lines


async def crash_is_reported(backend: Backend, factory: Callable[..., SandboxSpec]) -> Line:
    """A sandbox that cannot start must say so at once."""
    spec = factory(("true",))
    planted = spec.home / ".aws" / "credentials"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"[default]\naws_secret_access_key = {secrets.token_hex(20)}\n")
    if spec.host_uid is not None:
        for path in (planted.parent, planted):
            os.chown(path, spec.host_uid, spec.host_uid)
    began = time.monotonic()
    try:
        await inside(backend, None, spec)
        came_back, named = "it started", False
    except ChoirError as error:
        came_back, named = f"{error.reason}: {error.message}", ".aws/credentials" in error.message
    seconds = time.monotonic() - began
    planted.unlink()
    return Line(
        "crash at start", "plant ~/.aws/credentials", f"after {seconds:.2f} s: {came_back}", named and seconds < 1.0
    )
