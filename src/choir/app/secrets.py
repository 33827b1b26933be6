"""Handing provider keys from the environment ``choir`` was started with to the gateway, and to nothing else."""

from __future__ import annotations

import os
from binascii import b2a_base64

from choir import tokens
from choir.app.systemd import credential
from choir.errors import StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from choir.channel import Message
    from choir.config import Config
    from choir.paths import State

LOCAL_SERVICE = "local"


def environment_secrets(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``environment`` that some provider's ``env:`` reference names."""
    return {name: environment[name] for name in config.key_variables if environment.get(name)}


def label(state: State) -> tuple[str, str]:
    """Words on a process's command line by which ``ps`` tells deployments apart; nothing reads them."""
    return "--state", str(state.root)


def stored_key(path: Path) -> bytes:
    """The random key kept at ``path``, made on first use; mode 0600.

    Raises:
        StartError: ``key_unsafe`` when others could read it, ``state_unwritable``.
    """
    try:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Written whole under another name first: two starts at once agree on whichever link came first.
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(tokens.new_key())
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                os.unlink(draft)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise StartError("key_unsafe", f"{path} can be read by others.", f"Delete {path}; a new one is made.")
            key = file.read()
    except OSError as error:
        raise StartError("state_unwritable", f"{path}: {error.strerror}.") from error
    if len(key) != tokens.KEY_BYTES:
        raise StartError("key_damaged", f"{path} is not a key.", f"Delete {path}; a new one is made.")
    return key


def shared_key(path: Path) -> bytes:
    """The key that Choir's services share under the name of ``path``: what systemd gives this unit, else ``path``'s.

    Raises:
        StartError: as ``stored_key``.
    """
    given = credential(os.environ, path.name)
    if given is None:
        return stored_key(path)
    key = given.read_bytes()
    if len(key) != tokens.KEY_BYTES:
        raise StartError("key_damaged", f"The credential {path.name} is not a key.", "See: choir install systemd")
    return key


def local_service_key(state: State) -> str:
    """The key between the gateway and the local model: random, this machine's own, worth nothing elsewhere."""
    return shared_key(state.local_key).hex()


def gateway_start_message(
    config: Config, state: State, secrets: Mapping[str, str], local_model: bool, drain_seconds: float | None = None
) -> Message:
    """What the gateway is told at start, over its channel; see ``choir.gateway.main``."""
    return {
        "state": str(state.root),
        "run": state.run_name,
        "config": str(config.path) if config.path else None,
        "token_key": b2a_base64(shared_key(state.token_key), newline=False).decode(),
        "secrets": dict(secrets),
        "services": {LOCAL_SERVICE: local_service_key(state)} if local_model else {},
        **({} if drain_seconds is None else {"drain_seconds": drain_seconds}),
    }
