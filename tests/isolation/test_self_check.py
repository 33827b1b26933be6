"""The conformance suite is green on a real sandbox, and red for every layer that is taken away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from choir.errors import ChoirError
from choir.isolation import probe, self_check
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import SandboxSpec
from choir.isolation.plan import Plan
from choir.isolation.steps import Bind, Empty, Flags, Freeze, Step

from .conftest import MakeSpec

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
    assert {check.__name__ for check in probe.CHECKS} == listed - {"host_uid", "host_processes"}


def without_options(*options: str) -> Weaken:
    def weaken(plan: Plan) -> Plan:
        steps: list[Step] = []
        for step in plan.steps:
            if isinstance(step, Flags):
                kept = tuple(option for option in step.options if option not in options)
                step = replace(step, options=kept)
            steps.append(step)
        return replace(plan, steps=tuple(steps))

    return weaken


def without(drop: Callable[[Step], bool]) -> Weaken:
    return lambda plan: replace(plan, steps=tuple(step for step in plan.steps if not drop(step)))


def showing(path: str) -> Weaken:
    """Before the root is frozen."""
    return lambda plan: replace(plan, steps=(*plan.steps[:-1], Bind(path, path), plan.steps[-1]))


def writable_code(plan: Plan) -> Plan:
    steps = [
        replace(step, access="read-write") if isinstance(step, Bind) and step.purpose == "Python and Choir" else step
        for step in plan.steps
    ]
    return replace(plan, steps=tuple(steps))


def no_filter(plan: Plan) -> Plan:
    return replace(plan, filter=None)


def no_filter_and_user_namespaces(plan: Plan) -> Plan:
    return no_filter(without_options("--disable-userns", "--assert-userns-disabled")(plan))


def leaked_variable(plan: Plan) -> Plan:
    told = plan.first_process
    canary = os.environ["CHOIR_VERIFY_CANARY"]
    return replace(plan, first_process={**told, "environment": {**told["environment"], "LEAKED": canary}})


def leaked_argument(plan: Plan) -> Plan:
    told = plan.first_process
    return replace(plan, first_process={**told, "command": [*told["command"], os.environ["CHOIR_VERIFY_CANARY"]]})


def no_limit(plan: Plan) -> Plan:
    return replace(plan, first_process={**plan.first_process, "max_processes": 100_000})


INJECTION_POSSIBLE = Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "1"


@pytest.mark.parametrize(
    ("weaken", "red"),
    [
        (without_options("--unshare-ipc"), {"namespaces"}),
        (without_options("--unshare-uts", "--hostname", "choir"), {"namespaces"}),
        (without_options("--unshare-cgroup"), {"namespaces"}),
        (no_filter, {"seccomp_active", "seccomp_calls", "socket_families", "set_user_id"}),
        (no_filter_and_user_namespaces, {"user_namespace", "seccomp_active"}),
        (without(lambda step: step == Freeze("/")), {"system_read_only"}),
        (without(lambda step: step == Freeze("/dev")), {"system_read_only"}),
        (without(lambda step: isinstance(step, Bind) and step.path == "/proc/sys"), {"system_read_only"}),
        (without(lambda step: isinstance(step, Bind) and step.path.startswith("/proc/k")), {"kernel_files"}),
        (without(lambda step: isinstance(step, Empty)), set()),
        (showing("/sys"), {"kernel_files"}),
        (showing("/tmp"), {"host_sockets", "host_files"}),
        (writable_code, {"code_read_only"}),
        (leaked_variable, {"canary_in_environ", "own_environ"}),
        (leaked_argument, {"canary_in_argv"}),
        (no_limit, {"limits"}),
    ],
)
def test_a_missing_layer_turns_the_suite_red(weaken: Weaken, red: set[str], make_spec: MakeSpec) -> None:
    failed = {result.name for result in run(Weakened(weaken), make_spec) if not result.ok}
    assert red <= failed, failed
    if INJECTION_POSSIBLE and weaken is no_filter:
        assert "terminal_injection" in failed
    if not red:
        assert not failed


def test_a_shared_network_is_refused_before_anything_runs(make_spec: MakeSpec) -> None:
    with pytest.raises(ChoirError) as caught:
        run(Weakened(without_options("--unshare-net")), make_spec)
    assert caught.value.reason in ("listener_refused", "first_process_failed")  # the latter: port 7070 is taken


def test_a_probe_that_says_nothing_is_red(make_spec: MakeSpec) -> None:
    def silent(plan: Plan) -> Plan:
        return replace(plan, first_process={**plan.first_process, "command": ["true"]})

    results = run(Weakened(silent), make_spec)
    assert {result.came_back for result in results if not result.ok} == {"no answer"}
    assert sum(result.ok for result in results) == 2  # what the host sees itself
