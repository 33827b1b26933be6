"""The conformance suite: what any isolation backend must withstand, tried from inside a probe sandbox.

``run`` starts one sandbox, lets ``choir.isolation.probe`` try every way out, adds what only the host can see, and
returns one ``Result`` a check. ``choir verify`` prints them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choir.inside import GATEWAY_PORT, INHERITED
from choir.isolation import cgroup, landlock, probe
from choir.isolation.contract import Backend, Running, SandboxLimits, SandboxSpec
from choir.isolation.host import inspect
from choir.isolation.limits import describe

SpecFactory = Callable[[tuple[str, ...], dict[str, str]], SandboxSpec]
"""Makes the spec of a probe sandbox from (command, environment)."""

_NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup", "mnt")
_SET_BY_BACKEND = ("PATH", "HOME", "USER", "PORT", "SSL_CERT_FILE", "PWD", "LC_CTYPE")
_USUAL_SOCKETS = (
    "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
    "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0", "/run/snapd.socket",  # noqa: S108
)  # fmt: skip
_PROBE = os.path.abspath(probe.__file__)


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    layer: str
    tried: str
    fix: str
    """What to look at when it does not hold."""


@dataclass(frozen=True)
class Result:
    name: str
    layer: str
    tried: str
    came_back: str
    ok: bool
    fix: str


def _layer(layer: str, fix: str, **tried: str) -> tuple[Check, ...]:
    return tuple(Check(name, layer, text, fix) for name, text in tried.items())


checks: tuple[Check, ...] = (
    *_layer(
        "keys",
        "The launcher and keeper must be started with an empty environment; report this.",
        canary_in_environ="look for a canary of the host's environment in every /proc/*/environ",
        canary_in_argv="look for it in every /proc/*/cmdline",
        launcher_environ="read /proc/1/environ",
        own_environ="look for variables that nobody asked for",
        descriptors="list the open descriptors",
        host_processes="from the host: read the environment of keeper and launcher",
    ),
    *_layer(
        "namespaces",
        "The launcher runs without --unshare-…: see `choir run --explain`.",
        namespaces="compare user, pid, net, ipc, uts, cgroup and mount namespaces with the host's",
    ),
    *_layer(
        "network",
        "The sandbox shares the host's network: see `choir run --explain`.",
        interfaces="list the network interfaces",
        name_lookup="look up api.openai.com",
        ipv4="connect to 1.1.1.1 port 443",
        ipv6="connect to 2606:4700:4700::1111 port 443",
        link_local="connect to 169.254.169.254 port 80",
        dns_server="send a datagram to 8.8.8.8 port 53",
        host_loopback="connect to a listener on the host's loopback",
        abstract_socket="connect to an abstract unix socket of the host",
        gateway="connect to the gateway's listener on its own loopback (must succeed)",
    ),
    *_layer(
        "files",
        "A host folder is shown that ought not to be: see `choir run --explain`.",
        host_sockets="connect to docker, containerd, D-Bus, X11, ssh-agent and a fresh socket of the host",
        host_files="look for files of the host's home and Choir's state",
        system_read_only="look for a writable mount among /, /usr, /etc, /dev, /proc/sys",
        code_read_only="write into Choir's own code",
        kernel_settings="open core_pattern and others for writing",
        kernel_files="read kcore, keys, kallsyms, kmsg, /sys",
    ),
    *_layer(
        "rights",
        "Started by root, give each sandbox an unprivileged host uid; the launcher must be bubblewrap 0.8 or newer.",
        user="read the own uid, gid and groups",
        host_uid="from the host: read the uid of the sandbox's processes",
        capabilities="read the five capability sets",
        new_privileges="read NoNewPrivs",
        user_namespace="make a user namespace",
        set_user_id="set a set-uid bit on an own file",
        resource_limits="read the limits on processes, open files, core dumps, the size of a file",
    ),
    *_layer(
        "limits",
        "Give Choir a control group of its own (systemd: Delegate=yes, DelegateSubgroup=), or report this.",
        limits="from the host: read what holds its memory, processes, processor share and disk, and to how much",
    ),
    *_layer(
        "landlock",
        "The first process did not give up its rights: see `choir run --explain`.",
        landlock="make a file in /run and a null device in the home, which the mounts alone would allow",
    ),
    *_layer(
        "seccomp",
        "The filter is not loaded: the kernel needs CONFIG_SECCOMP_FILTER.",
        seccomp_active="read the seccomp mode",
        seccomp_calls="mount, setns, keyctl, bpf, io_uring, clone3, openat2",
        foreign_abi="make a system call through the x32 ABI",
        socket_families="make packet, vsock, alg and bluetooth sockets",
        terminal_injection="put a character into the terminal's input (TIOCSTI)",
    ),
)


@contextlib.contextmanager
def _bait() -> Iterator[dict[str, Any]]:
    """Things on the host that must not be reachable, and what the probe needs to look for them."""
    canary = "canary-" + secrets.token_hex(16)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="choir-verify-"))
        stack.enter_context(_variable("CHOIR_VERIFY_CANARY", canary))
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"{folder}/socket")
        unix.listen()
        os.chmod(folder, 0o755)  # noqa: S103 - only isolation may stand in the way
        os.chmod(f"{folder}/socket", 0o777)  # noqa: S103
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract_name = "choir-verify-" + secrets.token_hex(8)
        abstract.bind("\0" + abstract_name)
        abstract.listen()
        agent = os.environ.get("SSH_AUTH_SOCK")
        home = Path.home()
        files = [str(home / name) for name in (".ssh", ".aws", ".config/choir", ".local/state/choir")]
        with contextlib.suppress(OSError):
            files += [str(path) for path in sorted(home.iterdir()) if path.is_file()][:20]
        yield {
            "canary": canary[::-1],
            "namespaces": {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in _NAMESPACES},
            "tcp_port": tcp.getsockname()[1],
            "gateway_port": GATEWAY_PORT,
            "abstract": abstract_name,
            "sockets": [f"{folder}/socket", *_USUAL_SOCKETS, *([agent] if agent else [])],
            "files": [f"{folder}/socket", *(path for path in files if os.path.exists(path))],
        }


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _environ_size(pid: int) -> int:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return len(file.read())


def _limits(running: Running, wanted: SandboxLimits) -> tuple[bool, str]:
    """The kernel's own figures, where it holds a limit; the backend's word where a watcher does."""
    values = {"memory": wanted.max_memory_bytes, "pids": wanted.max_processes, "cpu": wanted.cpu_weight}
    wrong = [name for name in ("memory", "processes", "cpu", "disk") if name not in running.limits]
    held = cgroup.limits_of(running.pid)
    for controller, name in (("memory", "memory"), ("pids", "processes"), ("cpu", "cpu")):
        if not running.limits.get(name, "").startswith("cgroup"):
            continue
        version, value = held.get(controller, (0, 0))
        # The kernel rounds memory to pages and version 1 keeps shares of 1024.
        if f"cgroup v{version}" != running.limits[name] or abs(value - values[controller]) > values[controller] // 50:
            wrong.append(name)
    said = describe(running.limits).removeprefix("limits: ") or "nothing"
    return not wrong, f"{said}, at {_figures(held, wanted)}" if not wrong else f"{said}; not held: {', '.join(wrong)}"


def _figures(held: dict[str, tuple[int, int]], wanted: SandboxLimits) -> str:
    memory = held.get("memory", (0, wanted.max_memory_bytes))[1] // 1024**2
    processes = held.get("pids", (0, wanted.max_processes))[1]
    return f"{memory} MB of memory, {processes} processes, {wanted.max_disk_bytes // 1024**2} MB of disk"


def _from_host(running: Running, limits: SandboxLimits) -> dict[str, tuple[bool, str]]:
    """What only the host can see, while the sandbox waits to proceed."""
    sizes = [_environ_size(running.keeper_pid), _environ_size(running.pid)]
    uid = os.stat(f"/proc/{running.pid}").st_uid
    return {
        "host_processes": (sizes == [0, 0], f"{sizes[0]} and {sizes[1]} bytes"),
        "host_uid": (uid != 0, f"host uid {uid}"),
        "limits": _limits(running, limits),
    }


async def run(backend: Backend, spec_factory: SpecFactory) -> list[Result]:
    """Every check against ``backend``, in the order of ``checks``.

    Raises:
        StartError, KeylessError, IsolationError: the probe sandbox did not start.
    """
    with _bait() as facts:
        spec = spec_factory((), {})
        facts["variables"] = [*_SET_BY_BACKEND, *INHERITED, *spec.environment]
        abi = inspect().landlock
        facts["landlock"] = abi if abi >= landlock.OLDEST else 0
        facts["max_processes"] = spec.limits.max_processes
        facts["max_open_files"] = spec.limits.max_open_files
        facts["max_file_bytes"] = spec.limits.max_disk_bytes
        spec = spec_factory((inspect().python, "-I", "-S", _PROBE, json.dumps(facts)), {})
        found: dict[str, tuple[bool, str]] = {}
        output, end = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            running = await backend.start(spec, (null, end, end))
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(end)
            os.close(null)
        try:
            found.update(_from_host(running, spec.limits))
            await running.wait_ready()
            text = await asyncio.to_thread(_drain, output)
            await running.wait()
        finally:
            running.close()
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[entry["name"]] = (bool(entry["ok"]), str(entry["came_back"]))
    results = []
    for check in checks:
        ok, came_back = found.get(check.name, (False, "no answer"))
        results.append(Result(check.name, check.layer, check.tried, came_back, ok, check.fix))
    return results


def _drain(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read().decode(errors="replace")
