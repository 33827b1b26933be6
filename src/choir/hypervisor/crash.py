"""From the way a sandbox ended to what a person is told. Pure."""

from __future__ import annotations

import re

import msgspec

from choir import keyless
from choir.errors import ChoirError
from choir.hypervisor.lifecycle import Failure
from choir.isolation.contract import Exited

LOG_TAIL_CHARACTERS = 8_000


def exit_of(error: ChoirError) -> Exited | None:
    """The end that a backend's exception tells of, when it does."""
    exited = getattr(error, "exited", None)
    return exited if isinstance(exited, Exited) else None


def with_exit(failure: Failure, exited: Exited | None) -> Failure:
    """``failure`` with how the process ended and what it said last."""
    if exited is None:
        return failure
    return msgspec.structs.replace(
        failure, code=exited.code, signal=exited.signal, log_tail=redact(exited.log_tail)[-LOG_TAIL_CHARACTERS:]
    )


def failure_of(exited: Exited) -> Failure:
    """An end that nobody asked for."""
    how = f"signal {exited.signal}" if exited.signal is not None else f"exit code {exited.code}"
    failure = Failure(
        reason=exited.reason or "desktop_ended",
        message=exited.message or f"The sandbox ended by itself ({how}).",
        hint=exited.hint or "Start it again; the workspace is as it was.",
    )
    return with_exit(failure, exited)


_CONTROL = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")


def redact(text: str) -> str:
    """A log that may be shown: without keys and tokens, terminal escapes and control characters."""
    return _CONTROL.sub("", keyless.redact(re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]", "", text)))
