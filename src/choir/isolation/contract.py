"""The contract between whoever wants a sandbox and the backend that isolates it.

A backend turns a ``SandboxSpec`` into a ``Running`` sandbox. All backends pass ``isolation/self_check``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:  # at run time they would cost the start of a `choir run` their imports
    import socket
    from collections.abc import AsyncIterator

    from choir.contract import Role


class Mount(NamedTuple):
    """One host path shown inside, recursively; ``path`` is the same outside and inside."""

    path: Path
    writable: bool = False


class SandboxLimits(NamedTuple):
    """On the whole tree of a sandbox."""

    max_processes: int = 512
    max_open_files: int = 4096
    max_memory_bytes: int = 4 * 1024**3
    max_disk_bytes: int = 32 * 1024**3
    """Of the home, and of what is added to other writable folders."""
    cpu_weight: int = 100
    """Share of the processors when they are wanted by others, 1 to 10,000, beside 100 of every other sandbox."""


class SandboxSpec(NamedTuple):
    """Everything a backend needs to know; holds the gateway token, so it is never logged."""

    sandbox_id: str
    user_id: str
    role: Role
    home: Path
    """Host folder that is ``/home/choir`` inside; persistent, private to this sandbox."""
    host_uid: int | None
    """Unprivileged host uid and gid to run as, when the caller is root; None: the caller's own. Never 0."""
    environment: dict[str, str]
    """The whole environment inside, less PATH, HOME, USER, PORT and the CA variables, which the backend sets."""
    command: tuple[str, ...] | None
    """Run this and end with it; None serves the desktop."""
    workspace: Path | None = None
    """Host folder shown read-write at its own path and used as working directory (``choir run``); None: the home."""
    path: tuple[str, ...] = ()
    """PATH entries inside, before the standard ones; each must be visible through ``mounts`` or the workspace."""
    mounts: tuple[Mount, ...] = ()
    masked: tuple[Path, ...] = ()
    """Files of the workspace over which an empty one is put."""
    protected: tuple[Path, ...] = ()
    """Paths of the workspace that are read-only inside: git hooks and configuration, .envrc."""
    limits: SandboxLimits = SandboxLimits()
    start_timeout: float = 30.0
    ca_certificate: str = ""
    """PEM; shown as ``choir.inside.CA_FILE`` and named by the CA variables. "": no client needs TLS."""
    log: Path | None = None
    """Where stdout and stderr go when no descriptors are given."""


Phase = Literal["keeper", "namespace", "keyless", "listener", "desktop", "ready"]
"""In this order. ``ready``: the desktop answers, or the command is running."""


class PhaseReached(NamedTuple):
    phase: Phase
    at: float
    """Seconds since ``start`` was called."""


class Exited(NamedTuple):
    """The sandbox ended. ``reason`` is "" after a plain exit of its command."""

    code: int | None
    signal: int | None
    reason: str
    message: str
    """A sentence naming what happened; for a credential the variable or path, never the value."""
    hint: str
    log_tail: str


Event = PhaseReached | Exited


class EndedEarly(Exception):  # noqa: N818 - never raised by itself, only a cause
    """The cause (``__cause__``) of the error of a sandbox that ended before it was ready: what is known of its life."""

    def __init__(self, exited: Exited, phases: tuple[PhaseReached, ...]) -> None:
        super().__init__(exited.reason)
        self.exited = exited
        self.phases = phases


class Running(Protocol):
    """A started sandbox. ``Exited`` is always the last event, exactly once, whatever happens."""

    sandbox_id: str
    keeper_pid: int
    pid: int
    """Host pid of the sandbox's outermost process."""
    keeper_socket: Path | None
    """Where a later hypervisor can ``adopt`` it; None when it ends with whoever started it."""
    limits: dict[str, str]
    """By what each limit is held: ``{"memory": "cgroup v1", "disk": "watcher", …}``; what is not there is not held."""

    @property
    def listener(self) -> socket.socket:
        """The listening socket on the sandbox's own loopback, for the gateway. Checked: right namespace, address,
        listening. Owned here; closed by ``close``."""
        ...

    @property
    def desktop(self) -> str | None:
        """A path to connect a unix stream socket to, for the desktop; None when a command runs."""
        ...

    def events(self) -> AsyncIterator[Event]:
        """From the beginning, again for every caller; ends after ``Exited``."""
        ...

    def poll(self) -> Exited | None:
        """``Exited`` once it has ended, else None."""
        ...

    async def wait_ready(self) -> None:
        """Until phase ``ready``.

        Raises:
            StartError, KeylessError or IsolationError: it ended or ran out of time first; the inner reason wins over
                ``start_timeout``.
        """
        ...

    async def wait(self) -> Exited:
        """Until it has ended."""
        ...

    async def stop(self, grace: float = 5.0) -> Exited:
        """SIGTERM to the command or desktop, after ``grace`` seconds SIGKILL to the whole tree. Idempotent."""
        ...

    def resize(self, rows: int, columns: int) -> None:
        """Window size of the sandbox's terminal, when it has one of its own."""
        ...

    def close(self) -> None:
        """Let go of the descriptors. The sandbox itself goes on if its keeper does; see ``adopt``."""
        ...


class Prepared(Protocol):
    """A desktop's sandbox that stands still until somebody comes for it: nothing of it can be reached, it has no token,
    and nothing in its home has been looked at. It ends with whoever prepared it."""

    sandbox_id: str

    @property
    def pid(self) -> int:
        """Host pid of its outermost process."""
        ...

    async def wait(self) -> Exited:
        """Until it has ended."""
        ...

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> Running:
        """Let it become what ``spec`` says, and go on as ``Backend.start`` does. Once.

        Args:
            stdio: as there, but no terminal.

        Raises:
            StartError: ``sandbox_unfit``: ``spec`` asks for other mounts, limits or another uid than it has, or a
                folder of it was exchanged. ``discard`` it.
            StartError, KeylessError, IsolationError: as ``Backend.start``. ``discard`` it.
        """
        ...

    async def discard(self) -> None:
        """End it, and wait until nothing of it is left."""
        ...

    def abandon(self) -> None:
        """End it without waiting."""
        ...


class Backend(Protocol):
    """One way of isolating."""

    name: str

    async def probe(self) -> str:
        """One line on what is in force, e.g. "bubblewrap 0.11 · user+pid+net+ipc+uts+cgroup namespaces · no network ·
        seccomp 53 rules". Really runs the launcher.

        Raises:
            IsolationError: a layer is missing; says which, which setting, and the fix.
        """
        ...

    async def start(self, spec: SandboxSpec, stdio: tuple[int, int, int] | None = None) -> Running:
        """Start; returns when the gateway's listener has arrived, so that it can be attached before anything runs.

        The command (or desktop) waits until ``proceed`` has been told through ``Running``'s first ``wait_ready``.

        Args:
            stdio: descriptors for 0, 1 and 2 of the command. A terminal slave becomes the controlling terminal.

        Raises:
            StartError, KeylessError, IsolationError: as ``Running.wait_ready``.
        """
        ...

    async def prepare(self, spec: SandboxSpec) -> Prepared:
        """Begin a desktop's sandbox for somebody who is likely to come; returns when all that can be done before is.
        Of ``spec.environment`` nothing is used yet.

        Raises:
            StartError: ``prepare_unsupported`` by this backend, and as ``start``.
            IsolationError: as ``start``.
        """
        ...

    async def adopt(self, keeper_socket: Path) -> Running:
        """Take over a sandbox whose keeper outlived its hypervisor.

        Raises:
            StartError: ``keeper_gone``.
        """
        ...

    def explain(self, spec: SandboxSpec) -> list[str]:
        """The plan, one line a step, without running anything."""
        ...
