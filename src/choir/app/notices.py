"""The supervisor's lines: in the vocabulary of all services, and in words to a person at the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from choir import logs
from choir.app.notice import notice, notice_error
from choir.errors import ChoirError
from choir.service import rotate

LOG = "supervisor.log"


class Notices:
    """What ``choir up`` says while it runs: words to a person at a terminal and a line (``choir.logs``) in the log
    file, as its services write theirs; without a terminal only the line, on standard error.

    Args:
        folder: of the log files; None: for one command of a person, who gets words alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._words_only = folder is None
        self._log = folder / LOG if folder is not None and sys.stdout.isatty() else None
        if self._log is not None:
            rotate(self._log)

    def say(self, level: str, event: str, message: str, **fields: Any) -> None:
        """
        Args:
            message: a sentence.
            fields: of ``choir.logs.FIELDS``.
        """
        if self._words_only:
            notice(message)
            return
        if self._log is None:
            logs.write("supervisor", level, event, {"message": message.strip(), **fields})
            return
        notice(message)
        self._keep(level, event, message, **fields)

    def refused(self, error: ChoirError) -> None:
        """It does not start: said as every command says an error, with or without a terminal."""
        notice_error(error)
        self._keep("error", "service_failed", f"{error.message} {error.hint}", reason=error.reason)

    def _keep(self, level: str, event: str, message: str, **fields: Any) -> None:
        """A line in the log file, where there is one."""
        if self._log is None:
            return
        data = logs.line("supervisor", level, event, {"message": message.strip(), **fields}).encode(errors="replace")
        try:
            descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # the person was told
            return
        try:
            os.write(descriptor, data + b"\n")
        except OSError:
            return
        finally:
            os.close(descriptor)

    def failed(self, event: str, error: ChoirError, before: str = "", after: str = "", **fields: Any) -> None:
        """An error of a service."""
        words = f"{before}{error.message} {error.hint}{after}"
        self.say("error", event, words, reason=error.reason, **fields)
