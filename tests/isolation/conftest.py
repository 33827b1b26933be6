from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from choir.isolation import cgroup
from choir.isolation.bubblewrap import PROBE_UID, BubblewrapBackend
from choir.isolation.contract import Backend, Exited, Running, SandboxSpec

ROOT = os.geteuid() == 0
MakeSpec = Callable[..., SandboxSpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> MakeSpec:
    def make(*command: str, **fields: Any) -> SandboxSpec:
        return SandboxSpec(
            **{
                "sandbox_id": "01test",
                "user_id": "ada",
                "role": "run",
                "home": tmp_path / "home",
                "host_uid": PROBE_UID if ROOT else None,
                "environment": {},
                "command": command or None,
                **fields,
            }
        )

    return make


@pytest.fixture
def backend() -> BubblewrapBackend:
    return BubblewrapBackend()


@contextlib.asynccontextmanager
async def started(backend: Backend, spec: SandboxSpec, **more: Any) -> AsyncIterator[Running]:
    """A running sandbox, let go of afterwards."""
    running = await backend.start(spec, **more)
    try:
        await running.wait_ready()
        yield running
    finally:
        running.close()


async def output_of(backend: Backend, spec: SandboxSpec) -> tuple[Exited, str]:
    """Run to the end; the exit and what came on stdout and stderr."""
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    with open(reading, "rb") as file:
        try:
            running = await backend.start(spec, (null, writing, writing))
        finally:
            os.close(writing)
            os.close(null)
        try:
            await running.wait_ready()
            text = await asyncio.to_thread(file.read)
            return await running.wait(), text.decode()
        finally:
            running.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for ``condition`` to hold, at most 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def processes_with(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "cmdline").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def groups_of(keeper: int) -> list[Path]:
    """The control groups of this keeper; others run sandboxes here too."""
    return [path for place in cgroup.places().values() for path in Path(place.folder).glob(f"choir-{keeper}-*")]
