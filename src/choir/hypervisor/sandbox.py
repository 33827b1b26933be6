"""One (user, role) of a deployment: its status, and the running thing while there is one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

from choir.contract import Role
from choir.errors import StartError
from choir.hypervisor.lifecycle import Status
from choir.hypervisor.progress import Watch
from choir.isolation.contract import Running


class Sandbox:
    """Its host label, its home's name in ``State.homes``, and what is known of its present or last life."""

    def __init__(self, label: str, user: str, role: Role, home: str, status: Status) -> None:
        self.label = label
        self.user = user
        self.role: Role = role
        self.home = home
        self.status = status
        self.watch = Watch()
        self.running: Running | None = None
        self.attached = False
        self.last_input = 0.0
        """Unix time at which a person last sent something to it."""
        self.occupied = ""
        """A sentence on what is being done to its files; it does not start meanwhile."""
        self.stop_asked = asyncio.Event()
        self.stop_note = ""
        self.task: asyncio.Task[None] | None = None
        self.retry: asyncio.TimerHandle | None = None
        self.at_end: list[Callable[[], Awaitable[None]]] = []
        """Called once when this life ends, before its descriptors are closed."""

    @contextlib.contextmanager
    def occupy(self, sentence: str) -> Iterator[None]:
        """Keep its files for one operation.

        Raises:
            StartError: ``busy`` with another.
        """
        if self.occupied:
            raise StartError("busy", self.occupied, "Try again when that is done.")
        self.occupied = sentence
        try:
            yield
        finally:
            self.occupied = ""
            self.watch.changed()

    def touch(self) -> None:
        """A person has sent something to it."""
        self.last_input = time.time()

    async def settled(self, seconds: float) -> Status:
        """The status once nothing more happens by itself, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    version = self.watch.version
                    if self.status.state not in ("starting", "stopping"):
                        break
                    await self.watch.after(version, None)
        return self.status

    async def free(self) -> None:
        """Until nothing is done to its files."""
        while self.occupied:
            await self.watch.after(self.watch.version, None)

    async def ended(self) -> None:
        """Until this life is over and everything of it let go of."""
        if self.task is not None:
            await asyncio.wait([self.task])
