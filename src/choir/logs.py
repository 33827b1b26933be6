"""Lines of JSON that hypervisor, gateway and sandbox write alike, so that one search joins them.

Every line has ``ts`` (RFC 3339, UTC, milliseconds), ``level``, ``service`` and ``event`` (a word); the rest of
``FIELDS`` where it is known. ``request_id`` is what the caller was told as ``x-choir-request-id``, and what the usage
record and the sandbox's own record of a run have. A field that is not in ``FIELDS`` is left out and counted: nothing
of a payload, a header or an exception's words can get in by a new name. What is key-shaped, and every gateway token, is
blacked out of what does.

Standard library only, with the costly imports made late: the gateway and a sandbox's desktop write with it.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, MutableMapping
    from types import TracebackType
    from typing import Any

FIELDS = (
    "ts", "level", "service", "event", "request_id", "sandbox_id", "user_id", "reason", "message", "state", "provider",
    "op", "way", "path", "part", "pid", "code", "count", "seconds", "logger", "error",
)  # fmt: skip
"""In this order. ``reason`` is a snake_case word, ``message`` a sentence, ``error`` an exception's kind and place,
``part`` the service that a line of the supervisor is about."""
_ALIASES = {"user": "user_id", "why": "reason", "replaced": "path", "line": "message"}
_LONGEST = 500  # characters of a value


def line(service: str, level: str, event: str, fields: Mapping[str, Any] | None = None) -> str:
    """One line, without its end."""
    import json

    known: dict[str, Any] = {"ts": timestamp(time.time()), "level": level, "service": service, "event": _clean(event)}
    left_out = 0
    for name, value in (fields or {}).items():
        name = _ALIASES.get(name, name)
        if name not in FIELDS or name in ("ts", "level", "service", "event"):
            left_out += 1
        elif value is not None and value != "" and name not in known:
            known[name] = value if isinstance(value, (bool, int, float)) else _clean(str(value))
    entry = {name: known[name] for name in FIELDS if name in known}
    if left_out:
        entry["left_out"] = left_out
    return json.dumps(entry, ensure_ascii=False)


def timestamp(now: float) -> str:
    """``now`` in seconds since the epoch."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"


def write(service: str, level: str, event: str, fields: Mapping[str, Any] | None = None) -> None:
    """One line to standard error, in one write; nobody may be reading it."""
    try:
        os.write(2, line(service, level, event, fields).encode(errors="replace") + b"\n")
    except OSError:
        return


def place_of(error: BaseException) -> str:
    """Kind and place of an exception. Its words could hold anything."""
    where: TracebackType | None = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    if where is None:
        return type(error).__name__
    return f"{type(error).__name__} at {os.path.basename(where.tb_frame.f_code.co_filename)}:{where.tb_lineno}"


def _clean(text: str) -> str:
    from choir.keyless import redact

    text = redact(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def renderer(service: str) -> Any:
    """The last processor of a structlog chain (https://www.structlog.org): makes the line."""

    def render(_logger: object, method: str, entry: MutableMapping[str, Any]) -> str:
        failure = entry.pop("exc_info", None)
        fields = dict(entry)
        event = str(fields.pop("event", ""))
        if failure:
            import sys

            error = failure if isinstance(failure, BaseException) else sys.exc_info()[1]
            if error is not None:
                fields["error"] = place_of(error)
        level = {"exception": "error", "warn": "warning"}.get(method, method)
        return line(service, level, event, fields)

    return render


def take_standard_logging(service: str, bound: Mapping[str, Any] | None = None, least: str = "WARNING") -> None:
    """Let what libraries say through ``logging`` (warnings and worse) come out as lines, too."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, Any] = {**(bound or {}), "logger": record.name}
            error = record.exc_info[1] if record.exc_info else None
            if error is not None:
                fields["error"] = place_of(error)
            fields["message"] = _said(record)
            write(service, record.levelname.lower(), "library", fields)

    root = logging.getLogger()
    root.handlers[:] = [Handler()]
    root.setLevel(least)


def _said(record: logging.LogRecord) -> str:
    """A record of Choir's own as it is; of a library's the pattern alone: what is put into it could be anything."""
    try:
        return record.getMessage() if record.name.startswith("choir") else str(record.msg)
    except (TypeError, ValueError):
        return str(record.msg)
