"""What a desktop's sandbox is given: its environment, its private home, the name of its host."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from choir import inside
from choir.config import Config, Provider
from choir.contract import Role
from choir.errors import StartError, is_full
from choir.isolation.contract import SandboxLimits, SandboxSpec


def build_spec(
    config: Config,
    providers: Iterable[Provider],
    *,
    sandbox_id: str,
    user: str,
    role: Role,
    token: str,
    environment: Mapping[str, str],
    home: Path,
    host_uid: int | None,
    log: Path,
    ca_certificate: str = "",
) -> SandboxSpec:
    """The spec of a desktop; makes its home.

    Args:
        providers: those that the gateway has enabled.
        environment: host variables passed on as they are.

    Raises:
        StartError: as ``make_home``.
    """
    limits = config.sandbox
    return SandboxSpec(
        sandbox_id=sandbox_id,
        user_id=user,
        role=role,
        home=make_home(home, host_uid),
        host_uid=host_uid,
        environment={
            **environment,
            **inside.provider_environment(providers, token),
            **inside.identity_environment(sandbox_id, user, role, token),
            "DATABASE_URL": inside.DATABASE_URL,
            "CHOIR_MEMORY_URL": inside.MEMORY_URL,
        },
        command=None,
        limits=SandboxLimits(
            max_processes=limits.max_processes,
            max_open_files=limits.max_open_files,
            max_memory_bytes=limits.max_memory_bytes,
            max_disk_bytes=limits.max_disk_bytes,
            cpu_weight=limits.cpu_weight,
        ),
        start_timeout=limits.start_timeout,
        ca_certificate=ca_certificate,
        log=log,
    )


def host_label(user: str, role: str, taken: Container[str]) -> str:
    """A DNS label (RFC 1035) for ``user`` and ``role`` that is not among ``taken``."""
    name = _plain(user)
    number, label = 1, f"{name}-{role}"
    while label in taken:
        number += 1
        label = f"{name}-{number}-{role}"
    return label


def home_name(user: str, taken: Container[str]) -> str:
    """A folder name for another home of ``user``. It says nothing of a role: homes change theirs."""
    name, number = _plain(user), 1
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"


def _plain(user: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:40].strip("-") or "user"


def make_home(path: Path, host_uid: int | None) -> Path:
    """The private folder, mode 0700, owned by ``host_uid``.

    Raises:
        StartError: ``no_space`` or ``home_unusable``.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        if host_uid is not None and path.stat(follow_symlinks=False).st_uid != host_uid:
            os.chown(path, host_uid, host_uid, follow_symlinks=False)
    except OSError as error:
        reason = "no_space" if is_full(error) else "home_unusable"
        raise StartError(reason, f"Cannot make the home folder {path}: {error.strerror}.") from error
    return path
