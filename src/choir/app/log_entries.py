"""What Choir's processes wrote, as entries: lines of ``choir.logs``, usage records, and whatever else came out. Pure.

What a sandbox's processes wrote is its own testimony: it is shown as the sandbox's, whatever it says it is, and joined
with others' lines only where the owners agree.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from choir import logs
from choir.errors import UsageError
from choir.keyless import redact

LEVELS = ("debug", "info", "warning", "error", "critical")
ID_CHARACTERS = 6
"""Of an id at least so many of its last."""
_AGO = re.compile(r"(\d+)([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_TS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z\Z")


@dataclass(frozen=True)
class Origin:
    """Where a line was found. ``sandbox`` is the label of the sandbox whose file it is."""

    service: str
    sandbox: str = ""


@dataclass(frozen=True)
class Entry:
    """``at`` is when it was written, RFC 3339 as ``choir.logs`` has it: of a call its end. ``fields`` are all of it."""

    at: str
    level: str
    service: str
    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    sandbox: str = ""

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def line(self) -> str:
        """For a person: one line, nothing in it that a terminal would act on."""
        who = f"{self.service}:{self.sandbox}" if self.sandbox else self.service
        head = f"{self.at[:23].replace('T', ' ')}  {who:10}  {self.level:7}  {self.event}"
        return "".join(map(_visible, f"{head}  {_rest(self)}".rstrip()))

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        known = {"ts": self.at, "level": self.level, "service": self.service, "event": self.event}
        return {**known, **({"sandbox": self.sandbox} if self.sandbox else {}), **_without(self.fields, known)}


def entry(text: str, origin: Origin, before: Entry | None = None, at: str = "") -> Entry:
    """One line as an entry. What is no line of Choir's own is one with the event ``output``.

    Args:
        before: the one before it in the same file: what has no time or sandbox of its own has that one's.
        at: when it was written, where that is known.
    """
    try:
        found = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        found = None
    ts = found.get("ts") if isinstance(found, dict) else None
    if isinstance(found, dict) and isinstance(ts, str) and _TS.match(ts):
        if origin.sandbox:
            words = {
                name: _own_word(found[name]) for name in logs.FIELDS if name in found and name not in ("ts", "service")
            }
            return Entry(ts, _level(found), "sandbox", str(words.get("event", "")), words, origin.sandbox)
        if "outcome" in found and "request_id" in found:
            return _call(found, ts)
        return Entry(ts, _level(found), str(found.get("service", "")), str(found.get("event", "")), found)
    fields: dict[str, Any] = {"message": redact(text)}
    if before is not None and before.text("sandbox_id") and origin.sandbox:
        fields["sandbox_id"] = before.text("sandbox_id")
    when = at or (before.at if before is not None else "")
    return Entry(when, "info", origin.service, "output", fields, origin.sandbox)


def _call(record: dict[str, Any], ts: str) -> Entry:
    took = record.get("latency_ms")
    ended = ts
    with contextlib.suppress(ValueError, OverflowError):
        ended = logs.timestamp(_parse(ts) + (took / 1000 if isinstance(took, (int, float)) else 0.0))
    return Entry(ended, "info" if record["outcome"] == "ok" else "warning", "gateway", "call", record)


def _own_word(value: object) -> object:
    return value if isinstance(value, (bool, int, float)) else redact(str(value))


def _level(found: Mapping[str, Any]) -> str:
    level = found.get("level")
    return level if level in LEVELS else "info"


def _rest(of: Entry) -> str:
    fields = of.fields
    words = []
    if of.event == "call":
        words.append(
            f"{fields.get('route') or '-'}  {fields.get('provider') or '-'} {fields.get('model') or '-'}  "
            f"{fields.get('status')} {fields.get('outcome')}  {fields.get('latency_ms')} ms"
        )
        shown: tuple[str, ...] = ("user_id", "request_id", "sandbox_id")
    else:
        words += [str(fields[name]) for name in ("message",) if name in fields]
        shown = tuple(name for name in logs.FIELDS if name not in ("ts", "level", "service", "event", "message"))
    return "  ".join([*words, *(f"{name}={fields[name]}" for name in shown if fields.get(name) not in (None, ""))])


def _visible(character: str) -> str:
    return character if character.isprintable() else f"\\x{ord(character):02x}"


def _without(fields: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known}


def since(text: str, now: float) -> str:
    """``90s``, ``10m``, ``2h``, ``3d`` ago, or a time in RFC 3339 or a day, as entries have it.

    Raises:
        UsageError: ``since_invalid``.
    """
    ago = _AGO.match(text)
    if ago:
        return logs.timestamp(max(0.0, now - int(ago[1]) * _SECONDS[ago[2]]))
    try:
        return logs.timestamp(_parse(text))
    except (ValueError, OverflowError):
        raise UsageError(
            "since_invalid", f"`{text}` is no time.", "Write 90s, 10m, 2h, 3d, 2026-11-24 or 2026-11-24T12:30:00Z."
        ) from None


def _parse(text: str) -> float:
    """Seconds since the epoch; without a zone it is UTC."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class Selection:
    """Which entries are wanted. ``learn`` from all of them first: what joins two lines may stand in a third.

    Args:
        name: an id of a request or sandbox, or its end; "": all.
        user: only what is this person's; "": everybody's.
        owners: persons by the label of their sandboxes.
    """

    def __init__(self, name: str, user: str, level: str, owners: Mapping[str, str]) -> None:
        """
        Raises:
            UsageError: ``id_too_short``.
        """
        if name and len(name) < ID_CHARACTERS:
            raise UsageError("id_too_short", f"`{name}` could be many.", f"Give the last {ID_CHARACTERS} or more.")
        self._name = name
        self._user = user
        self._least = LEVELS.index(level)
        self._by_label = owners
        self._owners: dict[str, str] = {}
        self._sandboxes: set[str] = set()

    def learn(self, of: Entry) -> None:
        """From Choir's own lines only."""
        sandbox, user = of.text("sandbox_id"), of.text("user_id")
        if of.sandbox or not sandbox:
            return
        if user:
            self._owners[sandbox] = user
        if self._name and of.text("request_id").endswith(self._name):
            self._sandboxes.add(sandbox)

    def wants(self, of: Entry) -> bool:
        if LEVELS.index(of.level) < self._least or not self._honest(of):
            return False
        if self._user and self._user != self._whose(of):
            return False
        if not self._name:
            return True
        request, sandbox = of.text("request_id"), of.text("sandbox_id")
        if request.endswith(self._name) or sandbox.endswith(self._name):
            return True
        return not request and sandbox in self._sandboxes

    def _whose(self, of: Entry) -> str:
        if of.sandbox:
            return self._by_label.get(of.sandbox, "")
        return of.text("user_id") or self._owners.get(of.text("sandbox_id"), "")

    def _honest(self, of: Entry) -> bool:
        """Whether what a sandbox says may be about itself."""
        if not of.sandbox or not self._name:
            return True
        known = self._owners.get(of.text("sandbox_id"))
        return known is None or self._by_label.get(of.sandbox, known) == known
