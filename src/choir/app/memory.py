"""A sandbox's memory from outside: asked in a sandbox of its own over the same home, under the same uid.

So nothing on the host opens a database, or follows a path, that an agent could have made; and it is the same whether
the person's sandbox runs or not: the memory lets several processes work on its file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from choir import config as configuration
from choir import ids, inside
from choir.app.caller import Caller
from choir.app.run_spec import own_uid, private_home, private_home_path
from choir.errors import ChoirError, StartError, UsageError
from choir.isolation import backends
from choir.isolation.contract import Exited, SandboxLimits, SandboxSpec
from choir.paths import State
from choir.storage.registry import Registry

COMMAND = (sys.executable, "-I", "-m", "choir.sandbox.memory.command")


@dataclass(frozen=True)
class Home:
    """Whose memory: a folder of ``State.homes``, and the uid of its files when we are root."""

    path: Path
    host_uid: int | None


def desktop_home(state: State, name: str | None) -> Home:
    """The home of a desktop's sandbox, by its label or ``user/role``; None: this person's own ``live``.

    Raises:
        StartError: ``unknown_sandbox``.
    """
    user, _, role = (name or f"{Caller.here().user}/live").partition("/")
    found = None
    if state.registry.exists():
        with contextlib.closing(Registry(state.registry)) as registry:
            for row in registry.sandboxes():
                if name == row.label or (user, role) == (row.user, row.role):
                    found = row
    if found is None:
        raise StartError(
            "unknown_sandbox",
            f"There is no sandbox `{name or f'{user}/live'}` in {state.root}.",
            "`choir sandbox list` shows them; the memory of `choir run` in a folder is --run FOLDER.",
        )
    return Home(state.homes / found.home, own_uid(state, found.home))


def run_home(state: State, folder: Path) -> Home:
    """The home of ``choir run`` in ``folder``; made when there was none. What was remembered in a folder that is gone
    is still there.

    Raises:
        StartError: ``unknown_folder``; nothing was made.
    """
    folder = folder.resolve()
    if not folder.is_dir() and not private_home_path(state, folder).is_dir():
        raise StartError(
            "unknown_folder", f"{folder} is no folder.", "Name one in which `choir run` was used: --run FOLDER."
        )
    state.prepare()
    host_uid = own_uid(state, f"{Caller.here().user}/run")
    home = private_home(state, folder, host_uid)
    return Home(home, host_uid)


async def ask(
    config_path: Path | None,
    state: State,
    home: Home,
    question: dict[str, Any],
    lines: Iterable[bytes] = (),
    each: Callable[[bytes], None] | None = None,
) -> Any:
    """The memory's answer (``choir.sandbox.memory.command``).

    Args:
        lines: what follows the question.
        each: told every line before the answer.

    Raises:
        ChoirError: the memory's own, or why it could not be asked.
    """
    config = configuration.load(config_path)
    state.prepare()
    spec = _spec(config, home)
    backend = backends.choose(config.sandbox.backend)
    with _pipes() as (ours, theirs):
        running = await backend.start(spec, theirs.numbers())
        theirs.close()
        try:
            await running.wait_ready()
            # Threads: either side may be slow, and both go on at once.
            writing = asyncio.create_task(asyncio.to_thread(_write, ours.stdin, question, lines))
            reading = asyncio.create_task(asyncio.to_thread(_read, ours.stdout, each))
            noise = asyncio.create_task(asyncio.to_thread(ours.stderr.read))
            last = await reading
            exited = await running.wait()
            said = (await noise).decode(errors="replace")
            await writing
        finally:
            await running.stop(0)
            running.close()
    return _result(last, exited, said)


def _spec(config: configuration.Config, home: Home) -> SandboxSpec:
    limits = config.sandbox
    return SandboxSpec(
        sandbox_id=ids.new_id(),
        user_id=Caller.here().user,
        role="probe",
        home=home.path,
        host_uid=home.host_uid,
        environment={"LANG": "C.UTF-8", "DATABASE_URL": inside.DATABASE_URL},
        command=COMMAND,
        limits=SandboxLimits(
            max_processes=limits.max_processes,
            max_open_files=limits.max_open_files,
            max_memory_bytes=limits.max_memory_bytes,
            max_disk_bytes=limits.max_disk_bytes,
            cpu_weight=limits.cpu_weight,
        ),
        start_timeout=limits.start_timeout,
    )


def _result(last: bytes, exited: Exited, said: str) -> Any:
    try:
        answer = json.loads(last)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or not answer.keys() & {"result", "error"}:
        end = said.strip().splitlines()[-1:] or [exited.message or f"exit code {exited.code}"]
        raise StartError("memory_unanswered", f"The memory did not answer: {end[0][:300]}", exited.hint)
    if "error" in answer:
        error = answer["error"]
        raise ChoirError(str(error["reason"]), str(error["message"]), str(error["hint"]))
    return answer["result"]


def _write(stdin: IO[bytes], question: dict[str, Any], lines: Iterable[bytes]) -> None:
    with contextlib.suppress(BrokenPipeError), stdin:  # it has answered already, with an error
        stdin.write(json.dumps(question).encode() + b"\n")
        stdin.flush()
        for line in lines:
            stdin.write(line)


def _read(stdout: IO[bytes], each: Callable[[bytes], None] | None) -> bytes:
    """The last line, once it has come."""
    last = b""
    for line in stdout:
        if last and each is not None:
            each(last)
        last = line
    return last


@dataclass
class _Ends:
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def numbers(self) -> tuple[int, int, int]:
        return self.stdin.fileno(), self.stdout.fileno(), self.stderr.fileno()

    def close(self) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()


@contextlib.contextmanager
def _pipes() -> Iterator[tuple[_Ends, _Ends]]:
    """Our ends and the command's."""
    (in_read, in_write), (out_read, out_write), (error_read, error_write) = os.pipe(), os.pipe(), os.pipe()
    ours = _Ends(os.fdopen(in_write, "wb"), os.fdopen(out_read, "rb"), os.fdopen(error_read, "rb"))
    theirs = _Ends(os.fdopen(in_read, "rb"), os.fdopen(out_write, "wb"), os.fdopen(error_write, "wb"))
    try:
        yield ours, theirs
    finally:
        theirs.close()
        ours.close()


def unix_time(text: str, now: float | None = None) -> float:
    """Unix seconds of a date (``2026-11-24``, also with a time), or of so long ago (``30d``, ``12h``).

    Raises:
        UsageError: ``bad_time``.
    """
    from datetime import datetime

    units = {"d": 86400.0, "h": 3600.0, "m": 60.0}
    if text[-1:] in units and text[:-1].isdigit():
        return (time.time() if now is None else now) - float(text[:-1]) * units[text[-1]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(
            "bad_time", f"{text!r} is no time.", "Say it as 2026-11-24, 2026-11-24T10:30, or as long ago: 30d, 12h."
        ) from None
