"""The sandbox of a ``choir run``. No event loop: this is on the clock."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from choir import git_traps, inside, keyfiles
from choir.agents import resolve
from choir.agents.names import detect
from choir.app.caller import Caller, RunOptions
from choir.app.notice import notice
from choir.digest import sha256_hex
from choir.errors import ChoirError, KeylessError
from choir.isolation.contract import Mount, SandboxLimits, SandboxSpec
from choir.kept import folder as kept_folder
from choir.kept import kept
from choir.paths import State
from choir.run_config import config_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from choir.config import Config, Provider

MEMORY_SERVER = (sys.executable, "-I", "-m", "choir.sandbox.memory.mcp", inside.DATABASE_URL)
"""The same Python and the same code are to be seen inside. The URL is said: some CLIs give a server no environment."""


def no_provider(config: Config) -> ChoirError:
    return ChoirError(
        "no_provider",
        "No provider is enabled: there is no key and no local model.",
        f"Install choir[local], or put a key into {config.env_file}, e.g. OPENAI_API_KEY=…",
    )


def own_places(state: State, home: Path) -> tuple[Path, ...]:
    """Where Choir keeps state and looks for configuration: what stands there decides about later sandboxes."""
    named = (config_home(), kept_folder(), home / ".config/choir", home / ".cache/choir", "/etc/choir")
    return tuple(Path(place).resolve() for place in (state.root, *named))


def check_workspace(folder: Path, home: Path, own: Sequence[Path]) -> None:
    """Refuse folders that would hand an agent more than a project.

    Args:
        own: of ``own_places``.

    Raises:
        ChoirError: ``workspace_too_wide``.
    """
    holds = folder == home or folder in home.parents
    if holds or any(folder == place or folder in place.parents or place in folder.parents for place in own):
        raise ChoirError(
            "workspace_too_wide",
            f"{folder} is not a project folder: it holds your home, or Choir's own state or configuration.",
            "Change into the folder the agent shall work in.",
        )


def own_uid(state: State, owner: str) -> int | None:
    """The unprivileged host uid of ``owner``'s sandboxes when this process is root; else None: this process's own."""
    if os.geteuid() != 0:
        return None

    def ask() -> int:
        from choir.storage.registry import Registry

        with contextlib.closing(Registry(state.registry)) as registry:
            return registry.host_uid(owner)

    # It is the owner's for ever, as long as it is the same registry.
    return int(kept(f"host-uid-{owner.encode().hex()}", [str(state.registry)], ask))


def private_home_path(state: State, folder: Path) -> Path:
    """Where ``private_home`` is, or would be."""
    return state.homes / f"run-{sha256_hex(os.fsencode(folder))[:16]}"


def private_home(state: State, folder: Path, host_uid: int | None) -> Path:
    """The persistent home of runs in ``folder``; nobody else's."""
    home = private_home_path(state, folder)
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


def key_files(folder: Path, strict: bool, say: Callable[[str], None] = notice) -> tuple[Path, ...]:
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
        say(f"masked {names}: the agent sees an empty file")
    return tuple(found)


class Ground(NamedTuple):
    """What of a run's sandbox has nothing to do with providers."""

    host_uid: int | None
    home: Path
    masked: tuple[Path, ...]
    protected: tuple[Path, ...]


def survey(state: State, options: RunOptions, caller: Caller) -> Ground:
    """Look at where ``caller`` stands; makes the home.

    Raises:
        ChoirError: ``workspace_too_wide``; KeylessError: ``key_file_in_workspace``.
    """
    check_workspace(caller.folder, caller.home, own_places(state, caller.home))
    host_uid = own_uid(state, f"{caller.user}/run")
    return Ground(
        host_uid=host_uid,
        home=private_home(state, caller.folder, host_uid),
        masked=key_files(caller.folder, options.strict, caller.say),
        protected=tuple(keyfiles.find_protected(caller.folder)),
    )


def build_spec(
    config: Config,
    providers: Sequence[Provider],
    options: RunOptions,
    sandbox_id: str,
    token: str,
    authority: str,
    caller: Caller,
    ground: Ground,
) -> SandboxSpec:
    """Everything about the sandbox of one ``choir run``; writes the agent's configuration into its home.

    Args:
        authority: the certificate that vouches for the gateway's TLS, or "".
    """
    folder, environ, home = caller.folder, caller.environment, ground.home
    agent = options.agent or detect(options.command[0])
    environment = {name: environ[name] for name in inside.INHERITED if name in environ}
    environment |= inside.provider_environment(providers, token)
    command = options.command
    if agent is not None:
        from choir.agents import setup

        prepared = setup.prepare(agent, providers, token, options.model, command, folder, MEMORY_SERVER)
        environment |= prepared.environment
        for name in prepared.unset:
            environment.pop(name, None)
        command = prepared.command
        write_home_files(home, prepared.files, ground.host_uid)
    environment |= {name: environ[name] for name in config.sandbox.forward_env if name in environ}
    environment |= inside.identity_environment(sandbox_id, caller.user, "run", token)
    environment["DATABASE_URL"] = inside.DATABASE_URL
    found = resolve.resolve_command(command[0], environ.get("PATH", os.defpath), folder, environ, caller.home)
    extra = tuple(Mount(Path(path)) for path in config.sandbox.read_only_paths)
    return SandboxSpec(
        sandbox_id=sandbox_id,
        user_id=caller.user,
        role="run",
        home=home,
        host_uid=ground.host_uid,
        environment=environment,
        command=(found.argv0, *command[1:]),
        workspace=folder,
        path=tuple(found.path_entries),
        mounts=(*found.mounts, *extra),
        masked=ground.masked,
        protected=ground.protected,
        limits=SandboxLimits(
            max_processes=config.sandbox.max_processes,
            max_open_files=config.sandbox.max_open_files,
            max_memory_bytes=config.sandbox.max_memory_bytes,
            max_disk_bytes=config.sandbox.max_disk_bytes,
            cpu_weight=config.sandbox.cpu_weight,
        ),
        start_timeout=config.sandbox.start_timeout,
        ca_certificate=authority,
    )


def warn_of_traps(folder: Path, before: git_traps.Places, say: Callable[[str], None]) -> None:
    """Say what is in ``folder`` since ``before`` that the person's own git would obey."""
    traps = git_traps.find_git_traps(folder, before)
    if traps:
        names = ", ".join(str(path.relative_to(folder)) for path in traps[:5]) + (" …" if len(traps) > 5 else "")
        say(f"look at {names} before you run git here: the command made it, and git would obey it")
