"""What ``choir up`` becomes once it has no key: parent of gateway, hypervisor and local model.

A crash of one is noticed at once, explained on stderr and mended with a back-off. Closing their channels stops them;
so does this process's own death, however it dies.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import getpass
import ipaddress
import json
import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from choir import __version__, installation
from choir import config as configuration
from choir.app.local import LocalModel
from choir.app.notices import Notices
from choir.app.secrets import label, shared_key
from choir.app.systemd import Notifier
from choir.app.up import Part, drain, log_for, start_gateway
from choir.channel import Channel, Message
from choir.config import Config
from choir.control_client import GatewayControl
from choir.errors import ChoirError
from choir.paths import State
from choir.places import clean_environment
from choir.service import Child, Service, describe_exit

FIRST_BACK_OFF = 0.25
LONGEST_BACK_OFF = 15.0
STEADY_SECONDS = 60.0
"""A service that ran this long is started again without a growing wait."""


class Supervisor:
    """Keeps the services of one deployment running until told to stop."""

    def __init__(self, config: Config, state: State, handover: dict[str, Any]) -> None:
        self.config = config
        self.state = state
        self.handover = handover
        self.notices = Notices(state.logs)
        self.local = LocalModel(state, self.notices)
        self.services: dict[str, Service] = {}
        self.stopping = asyncio.Event()
        self.replacing = False
        """Whether the end is for the version in force to go on in this process."""
        self.part: Part = handover["part"]
        self.greeting = ""
        """For whoever started it."""
        self.notifier = Notifier(handover["systemd"])

    async def start_gateway(self) -> tuple[Service, Message]:
        # The keys of the first start are gone from this process: only those in files can be read again.
        return await start_gateway(self.config, self.state, {}, drain_seconds=drain(self.part)), {}

    async def start_hypervisor(self) -> tuple[Service, Message]:
        hypervisor = Service.spawn(
            "hypervisor",
            "choir.app.hypervisor",
            label(self.state),
            environment=clean_environment(os.environ),
            log=log_for(self.state, "hypervisor"),
        )
        answer = await hypervisor.start(
            {
                "state": str(self.state.root),
                "config": self.handover["config"],
                "token_key": base64.b64encode(shared_key(self.state.token_key)).decode(),
                "user": getpass.getuser(),
                "port": self.handover["port"],
                "environment": self.handover["environment"],
                "keep_sandboxes": self.part == "hypervisor",  # the unit's KillMode=process
            },
            self.handover["listeners"],
        )
        return hypervisor, answer

    async def start_model(self) -> tuple[Service, Message]:
        """As a service of its own it runs all the time, at a socket that the gateway's account reaches."""
        return await self.local.start(self.state.root / "local.sock", shared=True), {}

    async def start_telemetry(self) -> tuple[Service, Message]:
        telemetry = Service.spawn(
            "telemetry", "choir.app.telemetry", label(self.state), log=log_for(self.state, "telemetry")
        )
        start = {"state": str(self.state.root), "endpoint": self.config.telemetry.otlp_endpoint}
        return telemetry, await telemetry.start(start)

    async def keep_telemetry(self) -> None:
        """Spans are an extra: nothing stops because they cannot be sent."""
        if self.config.telemetry.otlp_endpoint:
            try:
                self.services["telemetry"], _ = await self.start_telemetry()
            except ChoirError as error:
                self.notices.failed("service_failed", error, "no spans: ", part="telemetry")
            else:
                await self.keep("telemetry", self.start_telemetry)
        await self.stopping.wait()

    async def keep(self, name: str, start: Callable[[], Awaitable[tuple[Service, Message]]]) -> None:
        """Wait for ``services[name]`` to end, say why, start it again."""
        wait = FIRST_BACK_OFF
        while True:
            began = time.monotonic()
            code = await self.services[name].ended()
            if time.monotonic() - began > STEADY_SECONDS:
                wait = FIRST_BACK_OFF
            words = f"the {name} ended ({describe_exit(code)}); starting it again in {wait:g} s"
            self.notices.say("warning", "service_ended", words, part=name, code=code, seconds=wait)
            while True:
                await asyncio.sleep(wait)
                wait = min(wait * 2, LONGEST_BACK_OFF)
                try:
                    self.services[name], _ = await start()
                except ChoirError as error:
                    before, after = f"the {name} did not start: ", f" Next try in {wait:g} s."
                    self.notices.failed("service_failed", error, before, after, part=name, seconds=wait)
                else:
                    words = f"the {name} runs again"
                    self.notices.say("info", "service_started", words, part=name, pid=self.services[name].pid)
                    break

    def reload(self) -> None:
        """SIGHUP: the gateway reads its configuration and keys anew."""
        if "gateway" in self.services:
            os.kill(self.services["gateway"].pid, signal.SIGHUP)

    def replace(self) -> None:
        """SIGUSR2, from ``choir upgrade``: stop in order, then ``main`` becomes what is in force."""
        if installation.find() is None:
            self.notices.say("warning", "not_replaced", "this version stands alone: there is no other to go on as")
            return
        self.replacing = True
        self.stopping.set()

    def announce(self) -> None:
        """Say to ``choir upgrade`` what runs here."""
        path = self.state.run / "up.json"
        draft = path.with_suffix(".draft")
        known = {"pid": os.getpid(), "choir": __version__, "prefix": sys.prefix, "part": self.part}
        more = {"started": time.time(), "environment_keys": self.handover["environment_keys"]}
        more["log_files"] = sys.stdout.isatty()
        draft.write_text(json.dumps({**known, **more}))
        draft.replace(path)

    async def start(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """Start this part; what then has to run on."""
        going: list[Callable[[], Coroutine[Any, Any, None]]] = []
        if self.handover["gateway"] is not None:
            pid, descriptor = self.handover["gateway"]
            channel = Channel(socket.socket(fileno=descriptor))
            self.services["gateway"] = Service("gateway", Child(pid), channel)
            going += [partial(self.keep, "gateway", self.start_gateway), self.keep_telemetry]
        if self.part in ("all", "hypervisor"):
            self.services["hypervisor"], answer = await self.start_hypervisor()
            self.greeting = banner(
                answer,
                time.time() - self.handover["started"],
                self.state,
                self.config,
                None if self.handover["listeners"] else self.config.hypervisor.host,
            )
            going.append(partial(self.keep, "hypervisor", self.start_hypervisor))
        if self.part == "all":
            going.append(partial(self.local.serve, GatewayControl(self.state.gateway_socket)))
        if self.part == "model":
            self.services["local model"], _ = await self.start_model()
            going.append(partial(self.keep, "local model", self.start_model))
        return going

    async def watchdog(self) -> None:
        """Tell systemd that all is well as long as it is (sd_watchdog_enabled(3))."""
        while self.notifier.watchdog_seconds:
            await asyncio.sleep(self.notifier.watchdog_seconds / 3)
            if "gateway" in self.services:
                await GatewayControl(self.state.gateway_socket).status()
            self.notifier.send(WATCHDOG=1)
        await self.stopping.wait()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self.replace)
        tasks: list[asyncio.Task[None]] = []
        try:
            going = await self.start()
            tasks = [asyncio.create_task(each()) for each in (*going, self.watchdog)]
            self.announce()
            if self.greeting:
                print(self.greeting, flush=True)
            self.notifier.send(READY=1)
            stop = asyncio.create_task(self.stopping.wait())
            done, _ = await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stop}:
                task.result()
        finally:
            self.notifier.send(STOPPING=1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # The hypervisor first: it stops its sandboxes, whose last records the gateway still takes.
            for name in ("hypervisor", "gateway", "telemetry", "local model"):
                if name in self.services:
                    await asyncio.to_thread(self.services[name].stop, 10.0 + (drain(self.part) or 0.0))
            await self.local.stop()


def banner(answer: Message, seconds: float, state: State, config: Config, host: str | None) -> str:
    """What a person sees when everything is ready, in 80 columns but for what is one word.

    Args:
        answer: the hypervisor's.
        host: that it listens on; None: whoever passed its socket knows.
    """
    lines = [
        f"choir {__version__}  ready in {seconds:.1f} s",
        f"  desktop    {answer['login_url']}",
        "             (signs in once; another: choir login)",
    ]
    if host is not None:
        lines.append(
            f"  listens    {host}, for {'this machine only' if _is_own(host) else 'whoever reaches this machine'}"
        )
    enabled = [provider["name"] for provider in answer["providers"] if provider["enabled"]]
    names = ", ".join("local (SmolLM2 135M, on this machine)" if name == "local" else name for name in enabled)
    if set(enabled) <= {"local"}:
        lines.append(f"  providers  {names or 'none'}; no provider key yet:")
        lines.append(f"             put one into {config.env_file}")
    else:
        lines += textwrap.wrap(
            f"{names} (keys: choir secrets check)",
            80,
            initial_indent="  providers  ",
            subsequent_indent=_BELOW,
            break_on_hyphens=False,
        )
    launcher, *more = answer["isolation"].split(" · ")
    if "no network" in more:
        lines.append(f"  isolation  {launcher} · no network (more: choir doctor)")
    else:  # a warning, whole
        lines += textwrap.wrap(
            answer["isolation"], 80, initial_indent="  isolation  ", subsequent_indent=_BELOW, break_on_hyphens=False
        )
    if sys.stdout.isatty():
        lines.append(f"  logs       {state.logs}")
    return "\n".join(lines)


_BELOW = " " * 13


def _is_own(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main() -> None:
    fd = int(sys.argv[1])
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        handover = json.load(file)
    # Nothing started from here may keep what only this process needs.
    for name in Path("/proc/self/fd").iterdir():
        number = int(name.name)
        if number > 2:
            with contextlib.suppress(OSError):
                fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    path = Path(handover["config"]) if handover["config"] else None
    state = State(Path(handover["state"]))
    try:
        supervisor = Supervisor(configuration.load(path), state, handover)
        asyncio.run(supervisor.run())
    except ChoirError as error:
        Notices(state.logs).refused(error)
        sys.exit(error.exit_code)
    if supervisor.replacing:
        go_on_as_the_version_in_force(state, handover)


def go_on_as_the_version_in_force(state: State, handover: dict[str, Any]) -> None:
    """Become the ``choir up`` that the link names: same process, same terminal, same environment."""
    found = installation.find()
    if found is None:
        return
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until the next one listens
    words = [str(found.command), "up", "--state", str(state.root)]
    words += ["--config", handover["config"]] if handover["config"] else []
    words += ["--port", str(handover["port"])] if handover["port"] is not None else []
    environment = {**handover["environment"], **clean_environment(os.environ)}
    try:
        os.execve(words[0], words, environment)  # noqa: S606 - replacing this process is the point
    except OSError as error:
        why = f"Cannot go on as {found.command}: {error.strerror}."
        Notices(state.logs).failed("not_replaced", ChoirError("not_replaced", why))
        sys.exit(1)


if __name__ == "__main__":
    main()
