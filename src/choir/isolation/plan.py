"""From a ``SandboxSpec`` to the plan of its sandbox: a list of steps, and what the keeper and the first process need.

Pure but for looking at which paths exist.
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from pathlib import Path
from typing import Any, NamedTuple

from choir import kept
from choir.errors import IsolationError, StartError
from choir.inside import CA_FILE, CA_VARIABLES, DESKTOP_PORT, GATEWAY_HOST, GATEWAY_PORT
from choir.isolation import guards, landlock, seccomp
from choir.isolation.contract import SandboxSpec
from choir.isolation.host import ETC_FILES, HOME, UID, USER, Host, is_inside
from choir.isolation.steps import Argument, Bind, Data, Empty, File, Flags, Freeze, Memory, Source, Step, Symlink

STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
PATIENCE = 10.0
"""Seconds on end that a sandbox may run against its limit of processes."""
_MB = 1024**2

_NAMESPACES = Flags(
    ("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
    "own user, pid, network, ipc, uts and cgroup namespaces; no network but an own loopback",
)
_RIGHTS = Flags(
    ("--disable-userns", "--assert-userns-disabled", "--cap-drop", "ALL"),
    "no further user namespaces, no capabilities, no new privileges",
)
_LIFE = Flags(("--new-session", "--die-with-parent"), "a session of its own; ends with its keeper")
_SYSTEM_FOLDERS = ("/", "/usr", "/etc", "/proc", "/sys", "/dev", "/run", "/tmp", "/var", "/boot", "/root", "/home")  # noqa: S108


class Plan(NamedTuple):
    """What will be done."""

    steps: tuple[Step, ...]
    filter: seccomp.Filter | None
    first_process: dict[str, Any]
    """What ``choir.sandbox.init`` is told: listener, environment (with the token), command, limits."""
    limits: dict[str, Any]
    """What the keeper holds the whole tree to (``choir.isolation.limits``)."""

    def describe(self) -> list[str]:
        lines = [step.describe() for step in self.steps]
        if self.filter is not None:
            lines.append(f"seccomp: {self.filter.rules} system calls refused, x32 and foreign architectures too")
        told = self.first_process["landlock"]
        if told is not None:
            lines.append(f"landlock ABI {told['abi']}: writing only below {', '.join(told['writable'])}")
        of = self.limits
        lines.append(
            f"limits of the whole tree: {of['memory'] // _MB} MB of memory, {of['processes']} processes and threads, "
            f"{of['disk'] // _MB} MB of disk, processor weight {of['cpu_weight']}"
        )
        return lines


def build(spec: SandboxSpec, host: Host, *, root: bool, terminal: str = "") -> Plan:
    """The plan for ``spec``.

    Args:
        root: whether the caller is host uid 0.
        terminal: path of the terminal that the command gets, if any.

    Raises:
        StartError: ``workspace_refused``, ``workspace_missing`` or ``workspace_changed``.
        IsolationError: ``host_uid_refused``, ``seccomp_unsupported``.
    """
    _check(spec, root)
    _check_cache(spec, host)
    folders = _folders(spec, host)
    guarded = _workspace_guards(spec, host, _places(spec, folders))
    steps: list[Step] = [
        _NAMESPACES,
        Flags(("--uid", str(UID), "--gid", str(UID), "--hostname", USER), f"inside it is user {USER} on host {USER}"),
        _RIGHTS,
        _LIFE,
        *_base(spec, host, terminal),
        *folders,
        *guarded.steps,
        Freeze("/"),
    ]
    return Plan(tuple(steps), seccomp.build(), _first_process(spec, host, steps, guarded), _limits(spec))


def _check(spec: SandboxSpec, root: bool) -> None:
    if root and not spec.host_uid:
        raise IsolationError(
            "host_uid_refused",
            "Started by root, a sandbox needs an unprivileged uid of its own; never 0.",
        )
    if spec.workspace is None:
        return
    workspace = str(spec.workspace)
    try:
        real = os.path.realpath(workspace)
    except OSError:  # a link when it was looked at, and none when it was read
        raise guards.changed(workspace) from None
    if not spec.workspace.is_absolute() or real != workspace:
        raise StartError("workspace_refused", f"{workspace} is not an absolute path without links.")
    if not spec.workspace.is_dir():
        raise StartError("workspace_missing", f"{workspace} is not a folder.")
    if workspace in _SYSTEM_FOLDERS or is_inside(workspace, ["/proc", "/sys", "/dev", "/usr", "/etc"]):
        raise StartError(
            "workspace_refused", f"{workspace} belongs to the system.", "Work in a folder of a project's own."
        )
    if is_inside(os.path.realpath(spec.home), [workspace]):
        raise StartError(
            "workspace_refused",
            f"{workspace} holds Choir's own state ({spec.home}).",
            "Work in a folder of a project's own.",
        )


def _check_cache(spec: SandboxSpec, host: Host) -> None:
    if spec.workspace is None:
        return
    for folder in (host.etc_folder or "/etc", kept.folder()):
        if is_inside(os.path.realpath(folder), [str(spec.workspace)]):
            raise StartError(
                "workspace_refused",
                f"{spec.workspace} holds what Choir keeps for every sandbox ({folder}).",
                "Work in a folder of a project's own.",
            )


def _places(spec: SandboxSpec, folders: list[Bind]) -> dict[str, guards.Identity | None]:
    """What is mounted in folders that sandboxes write; an earlier one may have left a link there.

    Raises:
        StartError: ``workspace_changed``.
    """
    found = {}
    written = [bind for bind in folders if bind.access == "read-write"]
    for bind in folders:
        above = [each for each in written if each.path != bind.path and is_inside(bind.path, [each.path])]
        if not above:
            continue
        base = max(above, key=lambda each: len(each.path))
        if os.path.isdir(base.source):
            identity = guards.identity(base.source, base.source + bind.path[len(base.path) :])
            if is_inside(bind.source, [base.source]):
                found[bind.path] = identity
    return found


def _base(spec: SandboxSpec, host: Host, terminal: str) -> list[Step]:
    memory = spec.limits.max_memory_bytes
    steps: list[Step] = [Bind(path, path, purpose="the system") for path in host.system]
    steps += [Symlink(target, path) for target, path in host.links]
    if host.etc_folder:
        steps.append(Bind(host.etc_folder, "/etc", purpose="the host's, copied; two users, no resolver"))
    else:
        steps += [Bind(path, path) for path in host.etc]
        steps += [File(path, text, "generated") for path, text in ETC_FILES.items() if path != CA_FILE]
    steps += [
        *([File(CA_FILE, spec.ca_certificate, "vouches for the gateway's TLS")] if spec.ca_certificate else []),
        Flags(("--proc", "/proc"), "/proc: of its own processes only"),
        Bind("/proc/sys", "/proc/sys", purpose="kernel settings"),
        *(Bind(host.empty, path, purpose="masked by an empty file") for path in host.proc_files),
        *(Empty(path) for path in host.proc_folders),
        Flags(("--dev", "/dev"), "/dev: null, zero, full, random, urandom, tty, own pts"),
        Memory("/dev/shm", memory // 4, "1777"),  # noqa: S108 - inside
    ]
    if terminal:
        steps.append(Bind(terminal, "/dev/console", "device", purpose="the given terminal"))
    steps += [
        Freeze("/dev"),
        Memory("/tmp", memory, "1777"),  # noqa: S108 - inside
        Memory("/run", 64 * _MB),
        Symlink("../tmp", "/var/tmp"),  # noqa: S108 - inside
        Symlink("../run", "/var/run"),
    ]
    return steps


def _folders(spec: SandboxSpec, host: Host) -> list[Bind]:
    """Home, mounts, workspace and code; a folder after the one it lies in, and code last at the same place, so that it
    stays read-only whatever it lies in."""
    binds = [Bind(str(spec.home), HOME, "read-write", owned=True, purpose="home, persistent")]
    for mount in spec.mounts:
        path = str(mount.path)
        if mount.writable:
            binds.append(Bind(path, path, "read-write", owned=True))
        elif not is_inside(path, list(host.system)):
            binds.append(Bind(path, path))
    if spec.workspace is not None:
        path = str(spec.workspace)
        binds.append(Bind(path, path, "read-write", owned=True, purpose="workspace"))
    binds += [Bind(path, path, purpose="Python and Choir") for path in host.code]
    binds += _pins(binds)
    binds.sort(key=lambda bind: len(Path(bind.path).parts))
    return binds


def _pins(binds: list[Bind]) -> list[Bind]:
    """Every folder between one that can be written and a read-only one in it: bound over itself it cannot be renamed
    away, with another put where the host looks for Choir's code."""
    writable = [bind.path for bind in binds if bind.access == "read-write" and bind.path != HOME]
    places = {bind.path for bind in binds}
    found = {
        str(parent)
        for bind in binds
        if bind.access == "read-only"
        for parent in Path(bind.path).parents
        if is_inside(str(parent), writable) and str(parent) not in places
    }
    return [Bind(path, path, "read-write", purpose="cannot be replaced") for path in sorted(found)]


class _Guards(NamedTuple):
    """Steps, and what the first process finds when they went well (``choir.isolation.guards.check``)."""

    steps: list[Step]
    expected: dict[str, guards.Identity | None]


def _workspace_guards(spec: SandboxSpec, host: Host, places: dict[str, guards.Identity | None]) -> _Guards:
    found = _Guards([], places)
    if spec.workspace is None:
        return found
    workspace, masked = str(spec.workspace), set(spec.masked)
    found.expected[workspace] = guards.identity("/", workspace)

    def put(step: Bind | Empty, identity: guards.Identity | None) -> None:
        found.steps.append(step)
        found.expected[step.path] = identity

    for path in spec.protected:
        text, parent = str(path), str(path.parent)
        is_repository = path.parent.name == ".git"
        if is_repository and parent not in found.expected:
            # Bound over itself, it cannot be renamed away and replaced. Folders above could be, but an agent may
            # make a new repository anywhere anyway.
            identity = guards.identity(workspace, parent)
            if identity is not None:
                put(Bind(parent, parent, "read-write", purpose="cannot be replaced"), identity)
        if path in masked:
            continue
        identity = guards.identity(workspace, text)
        if identity is not None:
            put(Bind(text, text, purpose="protected"), identity)
        elif path.name == "hooks" and parent in found.expected:
            put(Empty(text, "protected, empty"), None)
    for path in spec.masked:
        if guards.identity(workspace, str(path)) is not None:  # the launcher would make the file
            put(Bind(host.empty, str(path), purpose="masked by an empty file"), _empty(host))
    return found


def _empty(host: Host) -> guards.Identity:
    info = os.stat(host.empty)
    return info.st_dev, info.st_ino


def environment(spec: SandboxSpec, host: Host) -> dict[str, str]:
    """The whole environment inside: what ``spec`` says and what the backend itself sets."""
    result = {
        "PATH": ":".join(dict.fromkeys((*spec.path, *STANDARD_PATH))),
        "HOME": HOME,
        "USER": USER,
        "PORT": str(DESKTOP_PORT),
    }
    if spec.ca_certificate:
        result |= dict.fromkeys(CA_VARIABLES, CA_FILE)
    elif host.ca_file:
        result["SSL_CERT_FILE"] = host.ca_file
    return {**spec.environment, **result}


def _landlock(steps: list[Step], host: Host) -> dict[str, Any] | None:
    """Writing where the steps make a place for it. Not in /run, which is the first process's own; and /proc, whose
    files of others are not writable anyway."""
    if host.landlock < landlock.OLDEST:
        return None
    paths = [step.path for step in steps if isinstance(step, Memory) and step.path != "/run"]
    paths += [step.path for step in steps if isinstance(step, Bind) and step.access != "read-only"]
    return {"abi": host.landlock, "writable": sorted({"/dev", "/proc", *paths})}


def _first_process(spec: SandboxSpec, host: Host, steps: list[Step], guarded: _Guards) -> dict[str, Any]:
    return {
        "listener": [GATEWAY_HOST, GATEWAY_PORT],
        "desktop": [GATEWAY_HOST, DESKTOP_PORT] if spec.command is None else None,
        "environment": environment(spec, host),
        "command": list(spec.command or ()),
        "home": HOME,
        "cwd": str(spec.workspace or HOME),
        "max_processes": spec.limits.max_processes,
        "max_open_files": spec.limits.max_open_files,
        "max_file_bytes": spec.limits.max_disk_bytes,
        "sites": list(host.sites),
        "landlock": _landlock(steps, host),
        "guards": list(guarded.expected.items()),
    }


def _limits(spec: SandboxSpec) -> dict[str, Any]:
    writable = [mount.path for mount in spec.mounts if mount.writable]
    return {
        "memory": spec.limits.max_memory_bytes,
        "processes": spec.limits.max_processes,
        "disk": spec.limits.max_disk_bytes,
        "cpu_weight": spec.limits.cpu_weight,
        "patience": PATIENCE,
        "home": str(spec.home),
        "folders": [str(path) for path in (*writable, *([spec.workspace] if spec.workspace else []))],
    }


def wire(plan: Plan, spec: SandboxSpec, host: Host, mark: str) -> dict[str, Any]:
    """The plan as the keeper reads it: JSON, with every host path in one list, and the launcher's ``mark``.

    ``arguments`` holds strings, ``[index, rest]`` for a path below a source, and ``{"data": text}``.
    """
    arguments: list[Argument] = [argument for step in plan.steps for argument in step.arguments()]
    owned = {argument.path for argument in arguments if isinstance(argument, Source) and argument.owned}
    sources = [(path, True) for path in sorted(owned)]
    index = {path: number for number, (path, _) in enumerate(sources)}

    def place(path: str) -> list[Any]:
        # What lies in a mapped folder is reached through that folder's own mount.
        above = [folder for folder in owned if is_inside(path, [folder])]
        base = max(above, key=len) if above else path
        if base not in index:
            index[base] = len(sources)
            sources.append((base, False))
        return [index[base], path[len(base) :]]

    wired: list[Any] = []
    for argument in arguments:
        if isinstance(argument, Source):
            wired.append(place(argument.path))
        elif isinstance(argument, Data):
            wired.append({"data": argument.text})
        else:
            wired.append(argument)
    launcher = place(host.launcher.root)
    launcher[1] += host.launcher.path[len(host.launcher.root) :]
    return {
        "mark": mark,
        "launcher": launcher,
        "python": host.python,
        "source": host.source,
        "sources": sources,
        "arguments": wired,
        "seccomp": b2a_base64(plan.filter.program, newline=False).decode() if plan.filter is not None else "",
        "host_uid": spec.host_uid,
        "limits": plan.limits,
        "first_process": plan.first_process,
        "seen": [[path, found] for path, found in plan.first_process["guards"] if path in index],
    }
