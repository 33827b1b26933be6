"""From the way a sandbox ended to what a person is told. Pure but for ``log_since``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from choir import keyless
from choir.errors import ChoirError
from choir.hypervisor.lifecycle import Failure
from choir.isolation.contract import EndedEarly, Exited, PhaseReached

LOG_TAIL_CHARACTERS = 8_000


def exit_of(error: ChoirError) -> Exited | None:
    """The end that a backend's exception tells of, when it does."""
    return error.__cause__.exited if isinstance(error.__cause__, EndedEarly) else None


def phases_of(error: ChoirError) -> tuple[PhaseReached, ...]:
    """The phases that were reached before it, when the exception knows them."""
    return error.__cause__.phases if isinstance(error.__cause__, EndedEarly) else ()


def failure_from(error: ChoirError, exited: Exited | None, log: str) -> Failure:
    """A start that did not come to its end.

    Args:
        log: what it printed, for when ``exited`` is not known.
    """
    failure = Failure(reason=error.reason, message=error.message, hint=error.hint, file=blamed_file(error))
    if exited is not None:
        return with_exit(failure, exited)
    return msgspec.structs.replace(failure, log_tail=redact(log)[-LOG_TAIL_CHARACTERS:])


def with_exit(failure: Failure, exited: Exited) -> Failure:
    """``failure`` with how the process ended and what it said last."""
    return msgspec.structs.replace(
        failure, code=exited.code, signal=exited.signal, log_tail=redact(exited.log_tail)[-LOG_TAIL_CHARACTERS:]
    )


def failure_of(exited: Exited) -> Failure:
    """An end that nobody asked for."""
    how = f"signal {exited.signal}" if exited.signal is not None else f"exit code {exited.code}"
    failure = Failure(
        reason=exited.reason or "desktop_ended",
        message=exited.message or f"The sandbox ended by itself ({how}).",
        hint=exited.hint or "The workspace is as it was.",
    )
    return with_exit(failure, exited)


_CREDENTIAL_FILE = re.compile(r"The file /home/choir/(.+) holds a credential\.")


def blamed_file(error: ChoirError) -> str:
    """The file of the home in which a credential was found, relative to the home, or ""."""
    found = _CREDENTIAL_FILE.fullmatch(error.message) if error.reason == "credential_in_file" else None
    return found[1] if found else ""


_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")


def redact(text: str) -> str:
    """A log that may be shown: without keys and tokens, terminal escapes and control characters."""
    return _CONTROL.sub("", keyless.redact(re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)))


def log_since(path: Path, start: int, limit: int = LOG_TAIL_CHARACTERS) -> str:
    """The end of a log, at most ``limit`` bytes, nothing of it from before byte ``start``; not redacted."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - limit))
            return file.read(limit).decode(errors="replace")
    except FileNotFoundError:
        return ""
