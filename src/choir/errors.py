"""Typed errors: a reason a program can read and a sentence a person can act on."""

from __future__ import annotations

# Exit codes for scripts. 64, 69, 77 and 78 follow sysexits.h.
EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_REFUSED = 77
EXIT_CONFIG = 78


class ChoirError(Exception):
    """Base of everything Choir raises on purpose.

    Args:
        reason: a stable snake_case word for programs, e.g. ``port_in_use``.
        message: one sentence saying what happened; never holds a secret's value.
        hint: what a person can do about it, or ``""``.
    """

    exit_code = EXIT_FAILED

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        return {"reason": self.reason, "message": self.message, "hint": self.hint}


class UsageError(ChoirError):
    """The words on the command line say nothing that can be done."""

    exit_code = EXIT_USAGE


class ConfigError(ChoirError):
    """The configuration is wrong; nothing was started."""

    exit_code = EXIT_CONFIG


class KeylessError(ChoirError):
    """A credential was found where none may be. Names the variable or path, never the value."""

    exit_code = EXIT_REFUSED


class IsolationError(ChoirError):
    """A layer of isolation is missing or failed. Never downgraded silently."""

    exit_code = EXIT_UNAVAILABLE


class StartError(ChoirError):
    """A process did not come up: it exited, was refused something, or ran out of time."""

    exit_code = EXIT_UNAVAILABLE


class TokenError(ChoirError):
    """A gateway token is malformed, forged, or belongs to another sandbox."""

    exit_code = EXIT_REFUSED


def is_full(error: Exception) -> bool:
    """Whether there is no room left on the disk (ENOSPC) or in a quota (EDQUOT), as the system or SQLite says it."""
    if isinstance(error, OSError):
        return error.errno in (28, 122)
    return "full" in str(error)
