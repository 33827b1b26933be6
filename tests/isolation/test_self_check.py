"""The conformance suite is green on a real sandbox, and red for every layer that is taken away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choir.errors import ChoirError
from choir.isolation import cgroup, landlock, probe, seccomp, self_check
from choir.isolation import plan as planning
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec
from choir.isolation.plan import Plan
from choir.isolation.running import KeptSandbox
from choir.isolation.steps import Bind, Empty, Flags, Freeze, Step

from .conftest import ROOT, MakeSpec

Weaken = Callable[[Plan], Plan]


class Weakened(BubblewrapBackend):
    def __init__(self, weaken: Weaken) -> None:
        super().__init__()
        self._weaken = weaken

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        return self._weaken(super().plan(spec, terminal))


def run(backend: BubblewrapBackend, make_spec: MakeSpec) -> list[self_check.Result]:
    def factory(command: tuple[str, ...], environment: dict[str, str]) -> SandboxSpec:
        return make_spec(*command, role="probe", environment=environment)

    return asyncio.run(self_check.run(backend, factory))


def test_every_layer_holds(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    results = run(backend, make_spec)
    assert [result for result in results if not result.ok] == []
    assert [result.name for result in results] == [check.name for check in self_check.checks]
    assert all(result.tried and result.came_back and result.fix for result in results)


def test_every_check_of_the_probe_is_listed() -> None:
    listed = {check.name for check in self_check.checks}
    assert {check.__name__ for check in probe.CHECKS} == listed - {"host_uid", "host_processes", "limits"}


def without_options(*options: str) -> Weaken:
    def weaken(plan: Plan) -> Plan:
        steps: list[Step] = []
        for step in plan.steps:
            if isinstance(step, Flags):
                kept = tuple(option for option in step.options if option not in options)
                step = step._replace(options=kept)
            steps.append(step)
        return plan._replace(steps=tuple(steps))

    return weaken


def without(drop: Callable[[Step], bool]) -> Weaken:
    return lambda plan: plan._replace(steps=tuple(step for step in plan.steps if not drop(step)))


def showing(path: str) -> Weaken:
    """Before the root is frozen."""
    return lambda plan: plan._replace(steps=(*plan.steps[:-1], Bind(path, path), plan.steps[-1]))


def writable_code(plan: Plan) -> Plan:
    steps = [
        step._replace(access="read-write") if isinstance(step, Bind) and step.purpose == "Python and Choir" else step
        for step in plan.steps
    ]
    return plan._replace(steps=tuple(steps))


def no_filter(plan: Plan) -> Plan:
    return plan._replace(filter=None)


def filter_without(first: int, count: int = 1, instead: bytes = b"") -> Weaken:
    """The filter with the verdict of instruction ``first`` changed, or ``count`` of them left out."""

    def weaken(plan: Plan) -> Plan:
        assert plan.filter is not None
        program = plan.filter.program
        program = program[: first * 8] + instead + program[(first + count) * 8 :]
        return plan._replace(filter=plan.filter._replace(program=program))

    return weaken


def adding(*options: str) -> Weaken:
    return lambda plan: plan._replace(steps=(Flags(options, "weakened"), *plan.steps))


def both(*weakenings: Weaken) -> Weaken:
    def weaken(plan: Plan) -> Plan:
        for each in weakenings:
            plan = each(plan)
        return plan

    return weaken


def the_hosts_proc(plan: Plan) -> Plan:
    """Of a process namespace that is not its own nobody can mount a /proc."""
    steps = [
        Bind("/proc", "/proc", "read-write") if isinstance(step, Flags) and "--proc" in step.options else step
        for step in plan.steps
    ]
    return plan._replace(steps=tuple(steps))


def told(**changes: object) -> Weaken:
    return lambda plan: plan._replace(first_process={**plan.first_process, **changes})


def held_to(**changes: object) -> Weaken:
    return lambda plan: plan._replace(limits={**plan.limits, **changes})


def through_a_shell(plan: Plan) -> Plan:
    """One that leaves a descriptor open; what is open at the start is refused by the first process."""
    command = ["sh", "-c", 'exec 7</etc/passwd; exec "$@"', "sh", *plan.first_process["command"]]
    return plan._replace(first_process={**plan.first_process, "command": command})


def leaked_variable(plan: Plan) -> Plan:
    canary = os.environ["CHOIR_VERIFY_CANARY"]
    return told(environment={**plan.first_process["environment"], "LEAKED": canary})(plan)


def leaked_argument(plan: Plan) -> Plan:
    return told(command=[*plan.first_process["command"], os.environ["CHOIR_VERIFY_CANARY"]])(plan)


def writable(*more: str) -> Weaken:
    def weaken(plan: Plan) -> Plan:
        landlock = plan.first_process["landlock"]
        return told(landlock={**landlock, "writable": [*landlock["writable"], *more]})(plan)

    return weaken


def is_bind(step: Step, start: str) -> bool:
    return isinstance(step, Bind) and step.path.startswith(start)


_X32 = 0x40000000
_NO_X32 = probe._call(_X32 | probe._CALLS["getpid"]) == "ENOSYS"
_HELD = set(cgroup.places())
_SECCOMP = {"seccomp_active", "seccomp_calls", "socket_families", "set_user_id"}
if Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1":
    _SECCOMP |= {"terminal_injection"}
if not _NO_X32:
    _SECCOMP |= {"foreign_abi"}
_USERNS = ("--disable-userns", "--assert-userns-disabled")
_NO_LANDLOCK = pytest.mark.skipif(landlock.abi() < landlock.OLDEST, reason="this kernel has no Landlock to take away")
_NOT_ROOT = pytest.mark.skipif(not ROOT, reason="an ordinary user's sandbox never has another uid than that user's")


def needs_group(controller: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(controller not in _HELD, reason=f"no control group holds {controller} on this host")


WEAKENED = {
    "ipc": (without_options("--unshare-ipc"), {"namespaces"}),
    "uts": (without_options("--unshare-uts", "--hostname", "choir"), {"namespaces"}),
    "cgroup": (without_options("--unshare-cgroup"), {"namespaces"}),
    "pid": (both(without_options("--unshare-pid"), the_hosts_proc), {"namespaces"}),
    "capabilities": (
        both(without_options("--cap-drop", "ALL"), adding("--cap-add", "CAP_NET_ADMIN")),
        {"capabilities"},
    ),
    "user": (both(without_options("--uid", "--gid", "1000"), adding("--uid", "0", "--gid", "0")), {"user"}),
    "descriptors": (through_a_shell, {"descriptors"}),
    "seccomp": (no_filter, _SECCOMP),
    "user namespaces": (both(no_filter, without_options(*_USERNS)), {*_SECCOMP, "user_namespace"}),
    "x32 answered otherwise": (filter_without(5, instead=seccomp._refuse("EPERM")), {"foreign_abi"}),
    "x32": (filter_without(4, 2), {"foreign_abi"}),
    "root writable": (without(lambda step: step == Freeze("/")), {"system_read_only"}),
    "devices writable": (without(lambda step: step == Freeze("/dev")), {"system_read_only"}),
    "kernel settings": (without(lambda step: is_bind(step, "/proc/sys")), {"system_read_only"}),
    "kernel files": (without(lambda step: is_bind(step, "/proc/k")), {"kernel_files"}),
    "sys": (showing("/sys"), {"kernel_files"}),
    "host's /tmp": (showing("/tmp"), {"host_sockets", "host_files"}),
    "code": (writable_code, {"code_read_only"}),
    "landlock": (told(landlock=None), {"landlock"}),
    "landlock too wide": (writable("/run"), {"landlock"}),
    "variable": (leaked_variable, {"canary_in_environ", "own_environ"}),
    "argument": (leaked_argument, {"canary_in_argv"}),
    "process limit": (told(max_processes=100_000), {"resource_limits"}),
    "file limit": (told(max_open_files=5000), {"resource_limits"}),
    "file size limit": (told(max_file_bytes=1 << 50), {"resource_limits"}),
    "memory of the tree": (held_to(memory=1 << 40), {"limits"}),
    "processes of the tree": (held_to(processes=100_000), {"limits"}),
    "processor share": (held_to(cpu_weight=200), {"limits"}),
    "nothing that matters": (without(lambda step: isinstance(step, Empty)), set()),
}  # fmt: skip
_SKIPS = {
    # Inside, /var/tmp is a link into /tmp: with the host's there is no place to show the code at.
    "host's /tmp": pytest.mark.skipif(
        Path(planning.__file__).is_relative_to("/var/tmp"), reason="Choir's own code is below /var/tmp"
    ),
    "x32": pytest.mark.skipif(_NO_X32, reason="this kernel has no x32 ABI, with or without a filter"),
    "landlock": _NO_LANDLOCK,
    "landlock too wide": _NO_LANDLOCK,
    "memory of the tree": needs_group("memory"),
    "processes of the tree": needs_group("pids"),
    "processor share": needs_group("cpu"),
}


@pytest.mark.parametrize(
    ("weaken", "red"), [pytest.param(*case, id=name, marks=_SKIPS.get(name, ())) for name, case in WEAKENED.items()]
)
def test_a_missing_layer_turns_exactly_its_checks_red(weaken: Weaken, red: set[str], make_spec: MakeSpec) -> None:
    results = run(Weakened(weaken), make_spec)
    assert {result.name: result.came_back for result in results if not result.ok and result.name not in red} == {}
    assert red == {result.name for result in results if not result.ok}


@_NOT_ROOT
def test_host_uid_0_is_seen(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is what makes the kernel's settings writable once /proc/sys is; they are opened here, never written."""
    monkeypatch.setattr(planning, "_check", lambda spec, root: None)
    as_root: MakeSpec = lambda *command, **fields: make_spec(*command, **{**fields, "host_uid": 0})  # noqa: E731
    failed = {result.name for result in run(BubblewrapBackend(), as_root) if not result.ok}
    assert failed == {"host_uid"}
    weaken = without(lambda step: is_bind(step, "/proc/sys"))
    failed = {result.name for result in run(Weakened(weaken), as_root) if not result.ok}
    assert failed == {"host_uid", "system_read_only", "kernel_settings"}


def test_a_limit_that_nothing_holds_is_seen(
    backend: BubblewrapBackend, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = KeptSandbox._take

    def take(self: KeptSandbox, message: Any, descriptors: list[int]) -> None:
        if message["event"] == "hello":
            del message["limits"]["disk"]
        real(self, message, descriptors)

    monkeypatch.setattr(KeptSandbox, "_take", take)
    failed = {result.name: result.came_back for result in run(backend, make_spec) if not result.ok}
    assert list(failed) == ["limits"]
    assert "not held: disk" in failed["limits"]


def test_what_bubblewrap_always_does_is_missed_outside() -> None:
    """No new privileges and a mount namespace: its launcher cannot leave them out, so the probe's own word is tried on
    a process that has neither."""
    with open("/proc/self/status") as status:
        if "NoNewPrivs:\t1" in status.read():
            pytest.skip("this test itself may gain no privileges, so nothing here is without that layer")
    assert not probe.new_privileges({})[0]
    mine = {"mnt": os.stat("/proc/self/ns/mnt").st_ino}
    assert probe.namespaces({"namespaces": mine}) == (False, "shared with the host: mnt of 1")


def test_a_shared_network_is_refused_before_anything_runs(make_spec: MakeSpec) -> None:
    with pytest.raises(ChoirError) as caught:
        run(Weakened(without_options("--unshare-net")), make_spec)
    assert caught.value.reason in ("listener_refused", "first_process_failed")  # the latter: port 7070 is taken


def test_a_probe_that_says_nothing_is_red(make_spec: MakeSpec) -> None:
    def silent(plan: Plan) -> Plan:
        return plan._replace(first_process={**plan.first_process, "command": ["true"]})

    results = run(Weakened(silent), make_spec)
    assert {result.came_back for result in results if not result.ok} == {"no answer"}
    assert sum(result.ok for result in results) == 3  # what the host sees itself
