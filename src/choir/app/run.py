"""``choir run``: one command in this folder, isolated and keyless, with the gateway on its loopback.

A running ``choir up`` of the same person lends its gateway; otherwise one is started for as long as the command runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from choir import config as configuration
from choir import contract, git_traps, ids, keyfiles, tokens
from choir.agents import resolve, setup
from choir.app.local import LocalModel
from choir.app.notice import notice
from choir.app.secrets import environment_secrets, stored_key
from choir.app.terminal import Terminal
from choir.app.up import start_gateway
from choir.channel import ChannelClosed, connect
from choir.config import Config, Provider
from choir.control_client import GatewayControl
from choir.errors import ChoirError, KeylessError
from choir.isolation import backends
from choir.isolation.contract import Backend, Exited, Mount, SandboxLimits, SandboxSpec
from choir.paths import State
from choir.storage.registry import Registry


@dataclass(frozen=True)
class RunOptions:
    """What ``choir run`` was asked for."""

    command: tuple[str, ...]
    agent: str | None = None
    model: str | None = None
    strict: bool = False
    explain: bool = False


@dataclass(frozen=True)
class Gateway:
    """A gateway to attach sandboxes to, and what it offers."""

    control: GatewayControl
    providers: list[Provider]
    own: bool
    """Whether it was started for this call."""


@contextlib.asynccontextmanager
async def gateway_for(config: Config, state: State) -> AsyncIterator[Gateway]:
    """The running gateway of this state folder, or one of our own that ends with the block.

    Raises:
        ChoirError: the gateway's own reason for not starting.
    """
    service = None
    listening = None
    if not runs(state):
        state = state.alone().prepare()
        service = await start_gateway(
            config, state, environment_secrets(config, os.environ), log=state.logs / "gateway.log"
        )
    control = GatewayControl(state.gateway_socket)
    local = LocalModel(state)
    try:
        if service is not None:
            listening = asyncio.create_task(local.serve(control))
        status = await control.status()
        enabled = {item["name"] for item in status["providers"] if item["enabled"]}
        providers = [provider for name, provider in config.providers.items() if name in enabled]
        yield Gateway(control, providers, own=service is not None)
    finally:
        if listening is not None:
            listening.cancel()
        await control.close()
        if service is not None:
            await asyncio.to_thread(service.stop)
            await local.stop()
            shutil.rmtree(state.run, ignore_errors=True)


def runs(state: State) -> bool:
    """Whether a gateway of this state folder is running now."""
    try:
        connect(str(state.gateway_socket)).close()
    except ChannelClosed:
        return False
    return True


def check_workspace(folder: Path, state: State) -> None:
    """Refuse folders that would hand an agent more than a project.

    Raises:
        ChoirError: ``workspace_too_wide``.
    """
    home = Path.home().resolve()
    if folder == home or folder in home.parents or folder in state.root.parents or folder == state.root:
        raise ChoirError(
            "workspace_too_wide",
            f"{folder} is not a project folder: it holds your home or Choir's own state.",
            "Change into the folder the agent shall work in.",
        )


def own_uid(state: State, owner: str) -> int | None:
    """The unprivileged host uid of ``owner``'s sandboxes when this process is root; else None: this process's own."""
    if os.geteuid() != 0:
        return None
    with contextlib.closing(Registry(state.registry)) as registry:
        return registry.host_uid(owner)


def private_home(state: State, folder: Path, host_uid: int | None) -> Path:
    """The persistent home of runs in ``folder``; nobody else's."""
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    home = state.homes / f"run-{name}"
    home.mkdir(mode=0o700, exist_ok=True)
    if host_uid is not None:
        os.chown(home, host_uid, host_uid)
    return home


def write_home_files(home: Path, files: dict[str, str], host_uid: int | None) -> None:
    """Write agent configuration into a sandbox's home without following links an earlier agent may have left."""
    for name, content in files.items():
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            *folders, last = Path(name).parts
            for folder in folders:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=fd)
                    if host_uid is not None:
                        os.chown(folder, host_uid, host_uid, dir_fd=fd, follow_symlinks=False)
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = below
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=fd)
            new = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=fd)
            with os.fdopen(new, "w") as file:
                file.write(content)
                if host_uid is not None:
                    os.fchown(file.fileno(), host_uid, host_uid)
        except OSError as error:
            raise ChoirError(
                "home_unwritable",
                f"Cannot write {name} into the sandbox's home {home}: {error.strerror}.",
                f"Look at {home}, or delete it.",
            ) from error
        finally:
            os.close(fd)


def key_files(folder: Path, strict: bool) -> tuple[Path, ...]:
    """The key files of a project, to be masked; says which.

    Raises:
        KeylessError: ``key_file_in_workspace`` when ``strict``.
    """
    found = keyfiles.find_key_files(folder)
    names = ", ".join(str(path.relative_to(folder)) for path in found[:5]) + (" …" if len(found) > 5 else "")
    if found and strict:
        raise KeylessError(
            "key_file_in_workspace",
            f"{names} in {folder} may hold keys, and --strict masks nothing.",
            "Move them out of the folder, or run without --strict: the agent then sees empty files.",
        )
    if found:
        notice(f"masked {names}: the agent sees an empty file")
    return tuple(found)


def build_spec(
    config: Config, state: State, providers: Sequence[Provider], options: RunOptions, sandbox_id: str, token: str
) -> SandboxSpec:
    """Everything about the sandbox of one ``choir run``; writes the agent's configuration into its home."""
    folder = Path.cwd().resolve()
    check_workspace(folder, state)
    user = getpass.getuser()
    host_uid = own_uid(state, f"{user}/run")
    home = private_home(state, folder, host_uid)
    agent = options.agent or setup.detect(options.command[0])
    environment = {name: os.environ[name] for name in contract.INHERITED if name in os.environ}
    environment |= contract.provider_environment(providers, token)
    command = options.command
    if agent is not None:
        prepared = setup.prepare(agent, providers, token, options.model, command, folder)
        environment |= prepared.environment
        for name in prepared.unset:
            environment.pop(name, None)
        command = prepared.command
        write_home_files(home, prepared.files, host_uid)
    environment |= {name: os.environ[name] for name in config.sandbox.forward_env if name in os.environ}
    environment |= contract.identity_environment(sandbox_id, user, "run", token)
    found = resolve.resolve_command(command[0], os.environ.get("PATH", os.defpath), folder)
    extra = tuple(Mount(Path(path)) for path in config.sandbox.read_only_paths)
    return SandboxSpec(
        sandbox_id=sandbox_id,
        user_id=user,
        role="run",
        home=home,
        host_uid=host_uid,
        environment=environment,
        command=(found.argv0, *command[1:]),
        workspace=folder,
        path=tuple(found.path_entries),
        mounts=(*found.mounts, *extra),
        masked=key_files(folder, options.strict),
        protected=tuple(keyfiles.find_protected(folder)),
        limits=SandboxLimits(
            max_processes=config.sandbox.max_processes,
            max_open_files=config.sandbox.max_open_files,
            max_memory_bytes=config.sandbox.max_memory_bytes,
            max_disk_bytes=config.sandbox.max_disk_bytes,
            cpu_weight=config.sandbox.cpu_weight,
        ),
        start_timeout=config.sandbox.start_timeout,
    )


async def run(config_path: Path | None, state: State, options: RunOptions) -> int:
    """Run the command to its end; its exit code, or 128 + signal.

    Raises:
        ChoirError: it was not run; nothing is left behind.
    """
    config = configuration.load(config_path)
    state.prepare()
    backend = backends.choose(config.sandbox.backend)
    async with gateway_for(config, state) as gateway:
        if not gateway.providers:
            raise ChoirError(
                "no_provider",
                "No provider is enabled: there is no key and no local model.",
                f"Install choir[local], or put a key into {config.env_file}, e.g. OPENAI_API_KEY=…",
            )
        sandbox_id = ids.new_id()
        token = tokens.sign(stored_key(state.token_key), sandbox_id)
        spec = build_spec(config, state, gateway.providers, options, sandbox_id, token)
        if options.explain:
            print("\n".join(backend.explain(spec)))
            return 0
        return await run_watched(backend, gateway, spec)


async def run_watched(backend: Backend, gateway: Gateway, spec: SandboxSpec) -> int:
    """``run_spec``, and afterwards a word on what the command left for the person's own git."""
    folder = spec.workspace
    before = git_traps.git_places(folder) if folder else {}
    if backend.name == "process":
        notice(await backend.probe())
    code = await run_spec(backend, gateway, spec)
    traps = git_traps.find_git_traps(folder, before) if folder else []
    if traps and folder:
        names = ", ".join(str(path.relative_to(folder)) for path in traps[:5]) + (" …" if len(traps) > 5 else "")
        notice(f"look at {names} before you run git here: the command made it, and git would obey it")
    return code


async def run_spec(backend: Backend, gateway: Gateway, spec: SandboxSpec) -> int:
    """Start ``spec``, attach it, relay the terminal, wait for its end."""
    with Terminal.for_standard_streams() as terminal:
        running = await backend.start(spec, terminal.stdio)
        renewing: asyncio.Task[None] | None = None
        try:
            await gateway.control.attach(spec.sandbox_id, spec.user_id, spec.role, running.listener)
            renewing = asyncio.create_task(_renew(gateway.control, spec, running.listener))
            loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, stop.set)
            await running.wait_ready()
            terminal.relay(loop, running.resize)
            waiting = asyncio.create_task(running.wait())
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait({waiting, stopped}, return_when=asyncio.FIRST_COMPLETED)
            exited = waiting.result() if waiting.done() else await running.stop()
            stopped.cancel()
            await terminal.drain()
        finally:
            if renewing is not None:
                renewing.cancel()
            with contextlib.suppress(ChoirError, ChannelClosed):
                await gateway.control.detach(spec.sandbox_id)
            running.close()
    return exit_code(exited)


def exit_code(exited: Exited) -> int:
    """As a shell gives it. A reason of Choir's own is said on stderr."""
    if exited.reason:
        notice(f"{exited.message} {exited.hint}")
    if exited.signal is not None:
        return 128 + exited.signal
    return exited.code or 0


async def _renew(control: GatewayControl, spec: SandboxSpec, listener: socket.socket) -> None:
    """Keep the lease; attach again when the gateway came back without knowing us."""
    while True:
        await asyncio.sleep(contract.RENEW_SECONDS)
        with contextlib.suppress(ChoirError, ChannelClosed):
            unknown = await control.renew([spec.sandbox_id])
            if unknown:
                await control.attach(spec.sandbox_id, spec.user_id, spec.role, listener)
