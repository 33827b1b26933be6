"""Limits on the whole tree of one sandbox, as its keeper holds them: by control groups, else by watching.

============  =========================================  ===================================================
limit         control group                              watcher
============  =========================================  ===================================================
memory        the kernel kills the largest process       the keeper does, at the next look
processes     the kernel refuses the next one; who will  RLIMIT_NPROC refuses; the keeper counts
              not take no for an answer is slowed down
cpu           a share under load, whatever the number    the niceness of each process
disk          (none)                                     the keeper measures and ends the sandbox
============  =========================================  ===================================================

Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal

from choir.isolation import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from choir.isolation.disk import DiskWatch

_RATE = 2e9  # bytes a second that a sandbox fills at most, roughly
_SHORTEST, _LONGEST = 0.1, 10.0  # seconds between two looks
_STORM = 2.0  # seconds: refusals in each of these on end are a storm
_BOMB = 20.0  # refusals a second: no program that means well keeps trying so often
_FIRST, _SOON = 0.3, 0.5  # seconds to the first look for them, and between two while it lasts
_WEIGHT = 100
_OOM_SCORE = 300  # of 1000: when the whole machine runs out, sandboxes go before what runs them
_MB = 1024**2
_NAMES = {"memory": "memory", "pids": "processes", "cpu": "cpu"}


def pause(headroom: float) -> float:
    """Seconds until it is worth looking again at what can still grow by ``headroom`` bytes."""
    return min(max(headroom / _RATE, _SHORTEST), _LONGEST)


def niceness(weight: int) -> int:
    """The nice value that comes nearest to a weight: each step is a factor of 1.25 (sched(7)). Never below 0."""
    nice = 0
    while nice < 19 and weight * 1.25 ** (nice + 0.5) < _WEIGHT:
        nice += 1
    return nice


def describe(in_force: dict[str, str]) -> str:
    """One line: ``{"memory": "cgroup v1", …}`` as "limits: cgroup v1 (memory, processes, cpu), watcher (disk)"."""
    by_means: dict[str, list[str]] = {}
    for limit, means in in_force.items():
        by_means.setdefault(means, []).append(limit)
    return "limits: " + ", ".join(f"{means} ({', '.join(names)})" for means, names in by_means.items())


def explain(
    code: int | None, number: int | None, *, killed: int, refused: int, limits: dict[str, Any]
) -> dict[str, str] | None:
    """Why a command failed, when a limit had bitten; None when none had, or the command ended well.

    Args:
        killed: processes killed for want of memory.
        refused: new processes refused.
    """
    if code == 0:
        return None
    how = f"signal {number}" if code is None else f"exit code {code}"
    if killed:
        return {
            "reason": "out_of_memory",
            "message": f"The sandbox needed more than its {limits['memory'] // _MB} MB of memory: the largest process "
            f"was killed ({killed} in all), and its command ended ({how}).",
            "hint": "Give it less to do at once, or raise max_memory_bytes in [sandbox] of choir.toml.",
        }
    if refused:
        return {
            "reason": "too_many_processes",
            "message": f"The sandbox wanted more than its {limits['processes']} processes and threads; new ones were "
            f"refused, and its command ended ({how}).",
            "hint": "Start fewer at once, or raise max_processes in [sandbox] of choir.toml.",
        }
    if number == signal.SIGXFSZ or code == 128 + signal.SIGXFSZ:
        return disk_quota("A file of the sandbox reached", limits["disk"])
    return None


def disk_quota(what: str, limit: int) -> dict[str, str]:
    return {
        "reason": "disk_quota",
        "message": f"{what} the limit of {limit // _MB} MB.",
        "hint": "Delete what is not needed any more, or raise max_disk_bytes in [sandbox] of choir.toml.",
    }


def fork_storm(limits: dict[str, Any]) -> dict[str, str]:
    return {
        "reason": "too_many_processes",
        "message": f"The sandbox was ended: for {limits['patience']:g} s on end it wanted more than its "
        f"{limits['processes']} processes and threads.",
        "hint": "Start fewer at once, or raise max_processes in [sandbox] of choir.toml.",
    }


class Storm:
    """A limit that is run against without a break. Pure: is told what was seen when."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: float | None = None

    def see(self, now: float, hit: bool) -> bool:
        """Whether it was hit at every look for ``patience`` seconds."""
        if not hit:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._patience


class Limits:
    """One sandbox's limits.

    Attributes:
        in_force: by what each limit is held: "cgroup v1", "cgroup v2", "watcher", "nice".
        next_look: monotonic seconds when ``look`` is due, or None.
        log: as given; may be set until ``begin``.

    Args:
        limits: ``memory`` and ``disk`` in bytes, ``processes``, ``cpu_weight``, ``patience`` in seconds, and the paths
            ``home`` and ``folders`` (other writable ones).
        log: descriptor of the log file, or -1.

    Raises:
        OSError: the home is not there.
    """

    def __init__(self, limits: dict[str, Any], log: int) -> None:
        self._limits = limits
        self.log = log
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._folders = [os.open(limits["home"], flags)]
        for path in limits["folders"]:
            with contextlib.suppress(FileNotFoundError):  # the launcher will say so better
                self._folders.append(os.open(path, flags))
        places = cgroup.places()
        cgroup.sweep(places)
        self._group = cgroup.Group(cgroup.own_name(), places)
        self._group.create(limits["memory"], limits["processes"], limits["cpu_weight"])
        self._held = held = self._group.held
        self.in_force = {
            name: f"cgroup v{held[controller]}" if controller in held else "nice" if controller == "cpu" else "watcher"
            for controller, name in _NAMES.items()
        } | {"disk": "watcher"}
        self.next_look: float | None = None
        self._looks: dict[Callable[[float], dict[str, str] | None], float] = {}
        self._first = 0
        self._killed = self._refused = 0
        self._storm = Storm(limits["patience"])
        self._looked = 0.0
        self._throttled = False
        self._disk: DiskWatch | None = None

    def join(self) -> None:
        """Put the calling process, and all that come from it, under the limits.

        Raises:
            OSError: the kernel refused.
        """
        self._group.join()
        if "cpu" not in self._held:
            os.nice(niceness(self._limits["cpu_weight"]))
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(_OOM_SCORE))

    def begin(self, now: float, first: int) -> None:
        """The command is about to run.

        Args:
            first: host pid of pid 1 inside.
        """
        from choir.isolation.disk import DiskWatch

        self._first = first
        home, *others = self._folders
        self._folders = []
        self._disk = DiskWatch(home, others, self.log, self._limits["disk"])
        # Not at once: a command that is quickly done needs no looking at.
        self._look_again(self._look_at_disk, now + _SHORTEST)
        if not {"memory", "pids"} <= self._held.keys():
            self._look_again(self._look_at_tree, now + _SHORTEST)
        if "pids" in self._held:
            self._looked = now
            self._look_again(self._look_for_refusals, now + _FIRST)

    def _look_again(self, look: Callable[[float], dict[str, str] | None], at: float) -> None:
        self._looks[look] = at
        self.next_look = min(self._looks.values())

    def look(self, now: float) -> dict[str, str] | None:
        """Do what is due. The reason when the sandbox must end, else None."""
        for look, at in list(self._looks.items()):
            if now >= at:
                del self._looks[look]
                failure = look(now)
                if failure is not None:
                    self.next_look = None
                    return failure
        self.next_look = min(self._looks.values(), default=None)
        return None

    def _look_at_disk(self, now: float) -> dict[str, str] | None:
        from choir.isolation.disk import DiskFull, TooDeep

        assert self._disk is not None
        try:
            self._look_again(self._look_at_disk, self._disk.look(now, self._first))
        except DiskFull as full:
            return disk_quota(f"The sandbox's files grew to {full.used // _MB} MB, past", self._limits["disk"])
        except TooDeep:
            return disk_quota("The sandbox's folders are nested too deeply to be held to", self._limits["disk"])
        return None

    def _look_at_tree(self, now: float) -> dict[str, str] | None:
        from choir.isolation import tree

        processes = tree.pids(self._first)
        headroom = float(self._limits["memory"])
        if "memory" not in self._held:
            headroom -= tree.memory(processes, self._limits["memory"])
            if headroom < 0:
                tree.kill_largest(self._first)
                self._killed += 1
        full = "pids" not in self._held and tree.tasks(processes) >= self._limits["processes"] - 1
        self._refused += full
        if self._storm.see(now, full):
            return fork_storm(self._limits)
        self._look_again(self._look_at_tree, now + (_SHORTEST if full else pause(headroom)))
        return None

    def _look_for_refusals(self, now: float) -> dict[str, str] | None:
        """By reading one small file: version 1 tells nobody by itself (kernel/cgroup/pids.c)."""
        refused = self._group.refused()
        more, self._refused = refused - self._refused, refused
        elapsed, self._looked = now - self._looked, now
        # A refusal costs the kernel as much as a process, and every processor has to be told: the neighbours notice.
        bomb = more > _BOMB * elapsed
        if bomb != self._throttled:
            self._group.throttle(bomb)
            self._throttled = bomb
        if self._storm.see(now, more > 0):
            return fork_storm(self._limits)
        self._look_again(self._look_for_refusals, now + (_SOON if bomb else _STORM))
        return None

    def explain(self, code: int | None, number: int | None) -> dict[str, str] | None:
        """``explain`` of what has been seen."""
        killed = self._killed + self._group.killed()
        refused = max(self._refused, self._group.refused())
        return explain(code, number, killed=killed, refused=refused, limits=self._limits)

    def end(self) -> None:
        """All processes are dead."""
        self.next_look = None
        if self._disk is not None:
            self._disk.close()
            self._disk = None
        for descriptor in self._folders:
            os.close(descriptor)
        self._folders = []
        self._group.remove()
