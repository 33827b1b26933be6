"""One finding of the audit, and what the layers are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["held", "failed", "limit"]
"""``limit``: nothing failed; a reader must know where this layer ends."""

LAYERS = {
    "launcher": "bubblewrap, really run",
    "keys": "every process of Choir's starts with an empty environment; keys are in the gateway alone",
    "namespaces": "user, pid, network, ipc, uts, cgroup and mount namespaces",
    "network": "a network namespace with a loopback of its own and nothing else",
    "files": "mounts: only what is named is there, read-only; the rest does not exist",
    "rights": "an unprivileged uid, no capability, no new privileges, resource limits",
    "limits": "control groups, else a watcher outside",
    "landlock": "Landlock, on top of the mounts",
    "seccomp": "a seccomp filter on system calls",
    "keyless": "the first process refuses to start where a credential is",
    "separation": "Landlock around an agent's commands, inside its sandbox",
    "workspace": "key files covered, git's hooks and configuration read-only",
    "identity": "the listener a call comes in on, and a signed token; both must agree",
    "gateway": "the gateway's table, policy and header lists",
    "ledger": "records are written by the gateway before an answer ends",
    "processes": "not dumpable, no core, private descriptors",
    "host files": "file modes and owners",
    "web": "sessions, host and origin checks, cookies that never reach a sandbox",
    "canary": "the whole gateway, with a key made for this and providers that fail",
}
"""By a finding's ``layer``: what holds it, in words."""


@dataclass(frozen=True)
class Finding:
    """``target``: what was attacked. ``tried``: how. ``came_back``: the evidence; never a secret. ``fix``: what to do
    when it does not hold."""

    target: str
    name: str
    layer: str
    tried: str
    came_back: str
    outcome: Outcome
    fix: str

    @property
    def ok(self) -> bool:
        return self.outcome != "failed"


def held(ok: bool) -> Outcome:
    return "held" if ok else "failed"
