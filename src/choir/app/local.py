"""The local model as a service: started when the gateway says a call wants it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from choir.app.notices import Notices
from choir.app.secrets import label, local_service_key
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.local_model import weights
from choir.paths import State
from choir.service import Service, describe_exit

LOAD_SECONDS = 120.0
"""One second is usual; a machine at its limits takes long to read 90 MB and warm up."""


class LocalModel:
    """Starts the model's process on first want, and again when it is wanted after it has died."""

    def __init__(self, state: State, notices: Notices | None = None) -> None:
        self.state = state
        self._notices = notices or Notices(None)
        self.service: Service | None = None
        self._starting: asyncio.Task[None] | None = None

    @staticmethod
    def available() -> bool:
        return weights.available()

    async def serve(self, control: GatewayControl) -> None:
        """Start it whenever the gateway says that a call wants it; until cancelled."""
        async for event in control.events():
            if event.get("event") == "wanted":
                self.want()

    def want(self) -> None:
        """Start it unless it runs or is starting."""
        if self.service is None and (self._starting is None or self._starting.done()):
            self._starting = asyncio.create_task(self._start())

    async def start(self, socket: Path, *, shared: bool = False) -> Service:
        """The model's process, ready to answer at ``socket``.

        Args:
            shared: with accounts of the same group.

        Raises:
            StartError: the process's own reason.
        """
        service = Service.spawn(
            "local model", "choir.local_model.main", label(self.state), log=self.state.logs / "local-model.log"
        )
        try:
            # Found here: the model's own process has no environment to find a cache by.
            found = {"weights": str(path)} if (path := weights.find()) else {}
            key = local_service_key(self.state)
            await service.start({"socket": str(socket), "key": key, "shared": shared, **found}, deadline=LOAD_SECONDS)
        except asyncio.CancelledError:
            service.stop(0.0)  # nobody waits for it any more
            raise
        return service

    async def _start(self) -> None:
        try:
            self.service = service = await self.start(self.state.local_socket)
        except ChoirError as error:
            self._notices.failed("service_failed", error, part="local model")
            return
        self._watching = asyncio.create_task(self._watch(service))

    async def _watch(self, service: Service) -> None:
        code = await service.ended()
        self.service = None
        words = (
            f"the local model ended ({describe_exit(code)}); the next call starts it again "
            f"(log: {self.state.logs / 'local-model.log'})"
        )
        self._notices.say("warning", "service_ended", words, part="local model", code=code)

    async def stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        if self.service is not None:
            self._watching.cancel()
            await asyncio.to_thread(self.service.stop)
