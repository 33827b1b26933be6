"""What a new configuration changes (pure), for the one who applied it. References of keys, never keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import msgspec

from choir.config import Config

_MOST = 120
"""Characters of a value that are shown."""
AT_START = ("hypervisor", "sandbox", "telemetry")
"""Sections that other processes read when they start."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference."""

    section: str
    """As in choir.toml, e.g. ``providers.ours`` or ``limits``."""
    key: str
    """"" for the whole section."""
    before: str
    """"" where there was nothing."""
    after: str
    """"" where there is nothing any more."""
    at_start: bool = False
    """It takes effect when Choir is started again."""


def changes(old: Config, new: Config, rekeyed: Mapping[str, Set[str]]) -> list[Change]:
    """
    Args:
        rekeyed: references by provider behind which another key is found now.
    """
    found: list[Change] = []
    for name in sorted(old.providers.keys() | new.providers.keys()):
        before, after = old.providers.get(name), new.providers.get(name)
        section = f"providers.{name}"
        if before is None or after is None:
            found.append(_whole(section, before.base_url if before else None, after.base_url if after else None))
            continue
        found += _fields(section, before, after, without=("name", "named"))
        found += [
            Change(section=section, key=reference, before="a key", after="another key")
            for reference in after.keys
            if reference in rekeyed.get(name, ())
        ]
    found += _fields("limits", old.limits, new.limits)
    found += _fields("timeouts", old.timeouts, new.timeouts)
    for table in ("users", "prices"):
        one, other = getattr(old, table), getattr(new, table)
        for name in sorted(one.keys() | other.keys()):
            section = f"{table}.{_quoted(name)}"
            if name not in one or name not in other:
                found.append(_whole(section, "set" if name in one else None, "set" if name in other else None))
            else:
                found += _fields(section, one[name], other[name])
    for section in AT_START:
        found += _fields(section, getattr(old, section), getattr(new, section), at_start=True)
    return found


def sentence(change: Change) -> str:
    """A change as a line."""
    what = f"[{change.section}]" + (f" {change.key}" if change.key else "")
    if change.before and change.after:
        line = f"{what}: {change.before} → {change.after}"
    else:
        line = f"{what}: {'removed' if change.before else 'added'}"
        line += "" if change.key else f" ({change.before or change.after})"
    return line + ("  (at the next start of Choir)" if change.at_start else "")


def _whole(section: str, before: str | None, after: str | None) -> Change:
    return Change(section=section, key="", before=before or "", after=after or "")


def _fields(
    section: str, before: Any, after: Any, without: tuple[str, ...] = (), at_start: bool = False
) -> Iterator[Change]:
    for field in msgspec.structs.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new or field.name in without:
            continue
        if isinstance(old, msgspec.Struct):
            yield from _fields(f"{section}.{field.name}", old, new, at_start=at_start)
        else:
            yield Change(section=section, key=field.name, before=_shown(old), after=_shown(new), at_start=at_start)


def _shown(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def _text(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={text}" for name, text in value.items()) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else '""'


def _quoted(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else f'"{name}"'
