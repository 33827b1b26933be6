"""Control groups: the kernel's own limits on a whole process tree (cgroups(7)).

Version 2 where a subtree is delegated to this process, version 1 where that is what root has; each controller by
itself, since machines mix them. Groups are made under the own path of /proc/self/cgroup only, and named after their
keeper, so that a group whose keeper was killed can be told and removed. Standard library only: the keeper imports this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CONTROLLERS = ("memory", "pids", "cpu")
_PREFIX = "choir-"
_PERIOD = 100_000  # microseconds: the kernel's default for both versions
_EMPTY_WITHIN = 0.5  # seconds that a dead tree may take to leave its group


class Place:
    """Where groups with one controller can be made.

    Attributes:
        version: 1 or 2.
        folder: under which a group is a folder of its own.
    """

    def __init__(self, version: int, folder: str) -> None:
        self.version = version
        self.folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.version, self.folder) == (other.version, other.folder)

    def __hash__(self) -> int:
        return hash((self.version, self.folder))

    def __repr__(self) -> str:
        return f"Place({self.version}, {self.folder!r})"


def own_folders(membership: str, mountinfo: str) -> dict[str, Place]:
    """The folder of a process's own group for each controller, and under ``""`` the one of version 2.

    Args:
        membership: the text of its /proc/PID/cgroup.
        mountinfo: the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).
    """
    mounts: list[tuple[str, str, str, list[str]]] = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if kind[0] in ("cgroup", "cgroup2"):
            mounts.append((kind[0], fields[3], fields[4], kind[2].split(",")))
    found: dict[str, Place] = {}
    for line in membership.splitlines():
        number, names, path = line.split(":", 2)
        version = 2 if number == "0" else 1
        for name in names.split(","):
            for filesystem, root, point, options in mounts:
                if filesystem != ("cgroup2" if version == 2 else "cgroup") or (version == 1 and name not in options):
                    continue
                below = _below(path, root)
                if below is not None and name not in found:
                    found[name] = Place(version, (point + below).rstrip("/"))
    return found


def _below(path: str, root: str) -> str | None:
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :]
    return None


def places() -> dict[str, Place]:
    """Where this process can make groups, for each controller that it can use."""
    try:
        own = own_folders(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    except OSError:
        return {}
    usable = {name: own[name] for name in CONTROLLERS if name in own and os.access(own[name].folder, os.W_OK)}
    if "" in own and len(usable) < len(CONTROLLERS):
        usable.update({name: place for name, place in _delegated(own[""].folder).items() if name not in usable})
    return usable


def _delegated(own: str) -> dict[str, Place]:
    """The controllers of version 2 that children of the own group can have, or children of its parent when the service
    manager says that this is ours (``DelegateSubgroup=``, systemd.resource-control(5))."""
    candidates = [own]
    parent = os.path.dirname(own)
    with contextlib.suppress(OSError):
        os.getxattr(parent, "user.delegate")
        candidates.append(parent)
    for folder in candidates:
        if not os.access(folder, os.W_OK):
            continue
        enabled: list[str] = []
        with contextlib.suppress(OSError):
            available = _read(f"{folder}/cgroup.controllers").split()
            enabled = _read(f"{folder}/cgroup.subtree_control").split()
            missing = set(available) & set(CONTROLLERS) - set(enabled)
            if missing:  # refused while the folder itself holds processes
                _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
                enabled = _read(f"{folder}/cgroup.subtree_control").split()
        found = {name: Place(2, folder) for name in CONTROLLERS if name in enabled}
        if found:
            return found
    return {}


class Group:
    """One sandbox's groups, one folder for each hierarchy.

    Attributes:
        held: the version of the group that holds each controller.
    """

    def __init__(self, name: str, places: Mapping[str, Place]) -> None:
        self._places = dict(places)
        self._name = name
        self._folders: dict[str, str] = {}
        self.held: dict[str, int] = {}

    def create(self, memory: int, processes: int, cpu_weight: int) -> None:
        """Make the groups and set their limits; what the kernel refuses is not in ``held`` afterwards."""
        for controller, place in self._places.items():
            folder = f"{place.folder}/{self._name}"
            try:
                if folder not in self._folders.values():
                    os.mkdir(folder)
                self._folders[controller] = folder
                for name, value, needed in _settings(controller, place.version, memory, processes, cpu_weight):
                    if needed or os.path.exists(f"{folder}/{name}"):
                        _write(f"{folder}/{name}", str(value))
            except OSError:
                continue
            self.held[controller] = place.version

    def join(self) -> None:
        """Put the calling process in; it has one thread only.

        Raises:
            OSError: the kernel refused.
        """
        for folder, version in {(self._folders[controller], version) for controller, version in self.held.items()}:
            # In version 1 a thread moves itself at once; a process waits for every processor (10 ms and more).
            _write(f"{folder}/{'tasks' if version == 1 else 'cgroup.procs'}", "0")

    def killed(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        if "memory" not in self.held:
            return 0
        name = "memory.oom_control" if self.held["memory"] == 1 else "memory.events"
        return _count(self._folders["memory"], name, "oom_kill")

    def refused(self) -> int:
        """How many new processes the kernel has refused it."""
        return _count(self._folders["pids"], "pids.events", "max") if "pids" in self.held else 0

    def throttle(self, on: bool) -> None:
        """Whether it may use no more than a fifth of one processor, even of those that nobody else wants."""
        if "cpu" not in self.held:
            return
        quota = _PERIOD // 5
        if self.held["cpu"] == 1:
            name, text = "cpu.cfs_quota_us", str(quota if on else -1)
        else:
            name, text = "cpu.max", f"{quota if on else 'max'} {_PERIOD}"
        with contextlib.suppress(OSError):  # a kernel without quotas
            _write(f"{self._folders['cpu']}/{name}", text)

    def remove(self) -> None:
        """Now that all its processes are dead. What stays behind is swept away later."""
        for folder in set(self._folders.values()):
            _remove(folder, time.monotonic() + _EMPTY_WITHIN)
        self._folders = {}


def _settings(
    controller: str, version: int, memory: int, processes: int, cpu_weight: int
) -> list[tuple[str, int, bool]]:
    """(file, value, whether it must be there) in the order in which they are to be written."""
    if controller == "pids":
        return [("pids.max", processes, True)]
    if controller == "cpu":
        # The kernel's own scale: a weight of 100 is 1024 shares.
        return [("cpu.weight", cpu_weight, True) if version == 2 else ("cpu.shares", cpu_weight * 1024 // 100, True)]
    if version == 2:
        return [("memory.max", memory, True), ("memory.swap.max", 0, False)]
    return [("memory.limit_in_bytes", memory, True), ("memory.memsw.limit_in_bytes", memory, False)]


def own_name() -> str:
    """The name of the group that belongs to this process."""
    return f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}"


def sweep(places: Mapping[str, Place]) -> None:
    """Remove groups whose keeper is dead, with the processes still in them."""
    for folder in {place.folder for place in places.values()}:
        try:
            names = [name for name in os.listdir(folder) if name.startswith(_PREFIX)]
        except OSError:
            continue
        for name in names:
            pid, _, started = name[len(_PREFIX) :].partition("-")
            if pid.isdigit() and _started(int(pid)) != started:
                _kill(f"{folder}/{name}")
                _remove(f"{folder}/{name}", 0.0)


def limits_of(pid: int) -> dict[str, tuple[int, int]]:
    """What the kernel holds process ``pid`` to: (version, value) of "memory" in bytes, "pids", and "cpu" as a weight,
    each where a group of Choir's holds it."""
    own = own_folders(_read(f"/proc/{pid}/cgroup"), _read("/proc/self/mountinfo"))
    found: dict[str, tuple[int, int]] = {}
    for controller in CONTROLLERS:
        for place in (own.get(controller), own.get("")):
            if place is None or not os.path.basename(place.folder).startswith(_PREFIX):
                continue
            name = _settings(controller, place.version, 0, 0, 0)[0][0]
            try:
                value = int(_read(f"{place.folder}/{name}"))
            except (OSError, ValueError):  # ValueError: "max"
                continue
            found.setdefault(controller, (place.version, value * 100 // 1024 if name == "cpu.shares" else value))
    return found


def _kill(folder: str) -> None:
    try:
        for pid in _read(f"{folder}/cgroup.procs").split():
            if pid != "0":
                os.kill(int(pid), signal.SIGKILL)
    except OSError:  # gone meanwhile, or not ours
        return


def _remove(folder: str, until: float) -> None:
    while True:
        try:
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= until:
                return
            time.sleep(0.005)


def _started(pid: int) -> str:
    """When ``pid`` began, in clock ticks since boot; "" when there is no such process (proc_pid_stat(5))."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _count(folder: str, name: str, key: str) -> int:
    with contextlib.suppress(OSError):
        for line in _read(f"{folder}/{name}").splitlines():
            if line.startswith(key + " "):
                return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
