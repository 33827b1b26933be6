"""What admins set for people while Choir runs: as ``[users.NAME]`` of choir.toml, in a file of its own
(``State.limits``) that the hypervisor writes and the gateway reads.

Field by field choir.toml wins, and what it denies stays denied.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from choir.config import Config, UserEntry, UserLimits, check_user
from choir.errors import ConfigError, StartError

LISTS = ("providers", "models")
NUMBERS = tuple(field.name for field in msgspec.structs.fields(UserLimits))
FIELDS = (*LISTS, *NUMBERS)
"""What can be set."""
LIFTED = ("tokens_per_minute", "usd_per_day", "usd_per_month")
"""Those for which ``none``, no limit, can be set."""
NONE = "none"

_MONEY = ("usd_per_day", "usd_per_month")


def merged(config: Config, given: Mapping[str, UserEntry]) -> Config:
    """``config`` with what admins set added to its users."""
    users = {**config.users, **{name: _over(config.users.get(name, UserEntry()), each) for name, each in given.items()}}
    return msgspec.structs.replace(config, users=users)


def _over(first: UserEntry, second: UserEntry) -> UserEntry:
    def chosen(one: Any, other: Any, name: str) -> Any:
        value = getattr(one, name)
        return getattr(other, name) if value is None else value

    return UserEntry(
        **{name: chosen(first, second, name) for name in LISTS},
        deny_providers=first.deny_providers,
        deny_models=first.deny_models,
        limits=UserLimits(**{name: chosen(first.limits, second.limits, name) for name in NUMBERS}),
    )


def parse(words: Mapping[str, str], present: UserEntry, known: Collection[str]) -> UserEntry:
    """``present`` with what a person typed: ``""`` takes a field back to what is configured.

    Args:
        known: the names of providers.

    Raises:
        ConfigError: ``limit_invalid``.
    """
    values = {name: getattr(present, name) for name in LISTS}
    numbers = msgspec.structs.asdict(present.limits)
    for name, text in words.items():
        if name in LISTS:
            values[name] = tuple(text.replace(",", " ").split()) or None
        elif name in NUMBERS:
            numbers[name] = _number(name, text.strip())
        else:
            raise _invalid(f"There is no limit `{name[:40]}`.", f"There are: {', '.join(FIELDS)}.")
    entry = UserEntry(**values, limits=UserLimits(**numbers))
    check_user(entry, [], set(known), lambda _keys, what: _invalid(f"{what[:1].upper()}{what[1:]}"))
    return entry


def _number(name: str, text: str) -> float | int | str | None:
    if not text:
        return None
    if text == NONE and name in LIFTED:
        return NONE
    try:
        return float(text) if name in _MONEY else int(text)
    except ValueError:
        kind = "an amount" if name in _MONEY else "a whole number"
        or_none = f", or `{NONE}` for no limit" if name in LIFTED else ""
        raise _invalid(f"`{name}` is {kind}{or_none}.") from None


def words(entry: UserEntry) -> dict[str, str]:
    """The fields that are set, as ``parse`` takes them."""
    values = {name: getattr(entry, name) for name in LISTS} | msgspec.structs.asdict(entry.limits)
    return {
        name: " ".join(value) if isinstance(value, tuple) else plain(value)
        for name, value in values.items()
        if value is not None
    }


def plain(value: object) -> str:
    """A number without an exponent or needless digits."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def read(path: Path) -> dict[str, UserEntry]:
    """By user; empty when there is no file.

    Raises:
        ConfigError: ``limits_unreadable``.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, UserEntry])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            "limits_unreadable",
            f"{path}: the limits that admins set cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Choir writes it again when it starts; without people's own limits, delete it.",
        ) from error


def write(path: Path, given: Mapping[str, UserEntry]) -> None:
    """All or nothing, also when the machine fails. The gateway may run under another account: 0644, in a folder of its
    own.

    Raises:
        StartError: ``limits_unwritable``.
    """
    try:
        descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(msgspec.json.encode(dict(given)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
    except OSError as error:
        raise StartError("limits_unwritable", f"Cannot write {path}: {error.strerror}.") from error


def _invalid(message: str, hint: str = "") -> ConfigError:
    return ConfigError("limit_invalid", message, hint)
