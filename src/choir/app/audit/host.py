"""What of a deployment can be seen from the host: its processes, and by `files` and `logs` the rest. Reads only."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from choir import keyless
from choir.app.audit import files, logs
from choir.app.audit.finding import Finding, held
from choir.app.run import Gateway
from choir.channel import ChannelClosed, connect, peer_credentials
from choir.config import Config
from choir.errors import ChoirError
from choir.isolation.tree import pids
from choir.paths import State
from choir.places import KEPT

_MODULES = {
    "choir.gateway.main": "gateway",
    "choir.app.hypervisor": "hypervisor",
    "choir.hypervisor.main": "hypervisor",
    "choir.app.supervise": "supervisor",
    "choir.app.telemetry": "telemetry",
    "choir.local_model.main": "local model",
    "choir.isolation.template": "template of keepers",
    "choir.isolation.keeper": "keeper",
}
_NOBODY = 65534

_NEIGHBOUR = """
import os, sys
uid, names = int(sys.argv[1]), ("mem", "environ", "maps")
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
for pid in sys.argv[2:]:
    for name in names:
        try:
            open(f"/proc/{pid}/{name}", "rb").read(1)
            print(f"{name} of {pid}")
        except OSError:
            pass
print("tried")
"""


def findings(config: Config, state: State, gateway: Gateway, gateway_pid: int) -> Iterator[Finding]:
    found = deployment(state, gateway_pid)
    for name, group in sorted(found.items()):
        yield started_with(name, group)
    keepers = found.get("gateway", [gateway_pid])
    yield memory_of(keepers)
    yield core_dumps(keepers)
    yield files.private(state, config)
    yield files.code()
    everybody = [pid for group in found.values() for pid in group]
    yield logs.written_secrets(logs.paths(state, everybody), logs.units(everybody))


# ---------------------------------------------------------------------------- processes


def deployment(state: State, gateway_pid: int) -> dict[str, list[int]]:
    """The pids of Choir's own processes of this deployment, by kind. Those inside sandboxes are not among them."""
    roots = {gateway_pid, _parent(gateway_pid)}
    try:
        channel = connect(str(state.hypervisor_socket))
        hypervisor = peer_credentials(channel.sock)[0]
        channel.close()
        roots |= {hypervisor, _parent(hypervisor)}
    except ChannelClosed:
        pass
    found: dict[str, list[int]] = {}
    for pid in sorted({pid for root in roots if root > 1 and root != os.getpid() for pid in pids(root)}):
        kind = _kind(pid)
        if kind:
            found.setdefault(kind, []).append(pid)
    return found


def _kind(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    return next((kind for module, kind in _MODULES.items() if f"{module} " in f"{line} "), "")


def _parent(pid: int) -> int:
    try:  # proc_pid_stat(5): the fourth field is the parent
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def started_with(name: str, group: list[int]) -> Finding:
    """No process of Choir's own may have been started with a key in its environment or its arguments."""
    variables, unreadable, problem = 0, 0, ""
    for pid in group:
        try:
            data = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except PermissionError:
            unreadable += 1
            continue
        except OSError:
            continue  # it has ended
        environment = dict(item.split("=", 1) for item in data.split("\0") if "=" in item)
        variables += len(environment)
        try:
            # CREDENTIALS_DIRECTORY and its like only say where things are.
            keyless.check_environment({k: v for k, v in environment.items() if k not in KEPT or not v.startswith("/")})
        except ChoirError as error:
            problem = error.message
        if keyless.has_credential_shape(line) or logs.TOKEN.search(line.encode()):
            problem = f"An argument of process {pid} holds a credential."
    read = f"{len(group)} of them, {variables} variables, no credential"
    kept = "not to be read, even by its own uid" if unreadable == len(group) else read
    return Finding(
        "provider keys",
        f"environment of the {name}",
        "keys",
        f"read /proc/PID/environ and cmdline of {', '.join(map(str, group[:4]))}{' …' if len(group) > 4 else ''}",
        problem or kept,
        held(not problem),
        "Start Choir with `choir up` or its units; do not put keys into other units' Environment=.",
    )


def memory_of(group: list[int]) -> Finding:
    """Tried as another program of the gateway's own uid, which is why it makes itself not dumpable. Root may read
    everything: a gateway that runs as root is tried as nobody."""
    uids = {pid: os.stat(f"/proc/{pid}").st_uid for pid in group if os.path.exists(f"/proc/{pid}")}
    # The files of one that is not dumpable belong to root; its real uid is in its status.
    uid = next((_uid(pid) for pid in uids), 0) or _NOBODY
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _NEIGHBOUR, str(uid), *map(str, uids)],
        env={},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    opened = done.stdout.split("\n")[:-1]
    tried = bool(opened) and opened[-1] == "tried"
    return Finding(
        "provider keys",
        "memory of the gateway",
        "processes",
        f"as another program of uid {uid}: open mem, environ and maps of {', '.join(map(str, uids)) or 'nobody'}",
        f"opened {', '.join(opened[:-1])}" if len(opened) > 1 else "refused" if tried else "it could not be tried",
        held(tried and len(opened) == 1 and bool(uids)),
        "The gateway must make itself not dumpable (prctl PR_SET_DUMPABLE); give it a uid of its own; report this.",
    )


def _uid(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))


def core_dumps(group: list[int]) -> Finding:
    allowed = []
    for pid in group:
        try:
            lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        except PermissionError:
            continue  # not dumpable: the kernel writes no core
        except OSError:
            continue
        allowed += [pid for line in lines if line.startswith("Max core file size") and line.split()[4:6] != ["0", "0"]]
    return Finding(
        "provider keys",
        "core dumps of the gateway",
        "processes",
        "read its limit on core files",
        f"allowed for {', '.join(map(str, allowed))}" if allowed else "none is ever written",
        held(not allowed and bool(group)),
        "LimitCORE=0 in the gateway's unit; report this.",
    )
