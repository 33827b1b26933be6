"""Whoever ran ``choir run``: what they asked for, and what of them decides what their sandbox is like."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from choir.app.notice import notice
from choir.channel import Message, peer_credentials
from choir.inside import INHERITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from choir.channel import Channel
    from choir.config import Config

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where getpass(3) looks, in this order."""
_LOOKED_AT = ("PATH", "HOME", "PYENV_VERSION", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", *_NAMES)


class RunOptions(NamedTuple):
    """What ``choir run`` was asked for."""

    command: tuple[str, ...]
    agent: str | None = None
    model: str | None = None
    strict: bool = False
    explain: bool = False


class Caller(NamedTuple):
    """``environment`` need hold no more than ``wanted`` names."""

    folder: Path
    """Where they stand; no links."""
    environment: Mapping[str, str]
    user: str
    home: Path
    say: Callable[[str], None]
    """For a sentence they should read."""

    @classmethod
    def here(cls) -> Caller:
        """This process's own."""
        return cls._with(Path.cwd().resolve(), os.environ, notice)

    @classmethod
    def of(cls, folder: Path, answer: Message, say: Callable[[str], None]) -> Caller:
        """A client's, from its answer to ``want``."""
        return cls._with(folder, {str(k): str(v) for k, v in answer.get("environment", {}).items()}, say)

    @classmethod
    def _with(cls, folder: Path, environment: Mapping[str, str], say: Callable[[str], None]) -> Caller:
        name, home = _account()
        home = environment.get("HOME") or home
        return cls(folder, environment, user_of(environment) or name, Path(home).resolve(), say)


def _account() -> tuple[str, str]:
    """Name and home of who runs this, who need not be listed anywhere."""
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return str(os.geteuid()), "/"
    return entry.pw_name, entry.pw_dir


def close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def wanted(config: Config) -> list[str]:
    """The variables that are looked at or passed on; never those with keys, unless the operator names one."""
    return list(dict.fromkeys((*INHERITED, *config.sandbox.forward_env, *_LOOKED_AT)))


def user_of(environment: Mapping[str, str]) -> str:
    """As ``getpass.getuser`` finds it; "" when the environment does not say."""
    return next((environment[name] for name in _NAMES if environment.get(name)), "")


class Elsewhere(Exception):  # noqa: N818 - not an error
    """It cannot be done here; the client does it all itself."""


class Asked(NamedTuple):
    """What a client asked for; owns its descriptors."""

    options: RunOptions
    folder: str
    folder_descriptor: int
    stdio: tuple[int, int, int]

    @classmethod
    def take(cls, message: Message, descriptors: list[int]) -> Asked:
        """
        Raises:
            Elsewhere: it is not understood.
        """
        try:
            folder, *stdio = descriptors
            options = RunOptions(
                command=tuple(map(str, message["command"])),
                agent=message["agent"],
                model=message["model"],
                strict=bool(message["strict"]),
            )
            return cls(options, str(message["folder"]), folder, (stdio[0], stdio[1], stdio[2]))
        except (KeyError, ValueError, IndexError, TypeError):
            raise Elsewhere("the question is of another version") from None

    def check(self, channel: Channel) -> Path:
        """The folder, when it is the same for the client as for us.

        Raises:
            Elsewhere: the client lives in another file system, or the folder has been moved.
        """
        pid = peer_credentials(channel.sock)[0]
        try:
            theirs = os.stat(f"/proc/{pid}/ns/mnt").st_ino, os.stat(f"/proc/{pid}/root").st_ino
            ours = os.stat("/proc/self/ns/mnt").st_ino, os.stat("/proc/self/root").st_ino
            folder = Path(self.folder).resolve(strict=True)
            same = theirs == ours and os.path.samestat(os.fstat(self.folder_descriptor), os.stat(folder))
        except OSError:
            same = False
        if not same:
            raise Elsewhere("the folder is another one here")
        return folder
