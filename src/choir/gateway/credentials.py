"""Provider keys from their references. Only ``main`` and ``upstream`` may import this; import-linter holds it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from choir.errors import ConfigError
from choir.gateway.encrypted import decrypt, is_encrypted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from choir.config import Config, Provider

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)\Z")
_KEY = re.compile(r"[!-~]{1,8192}\Z")


_MAX_BYTES = 1024 * 1024


class Unresolved(Exception):  # noqa: N818 - an everyday state: most providers have no key
    """There is no key behind a reference. The message says which variable or file.

    ``reason`` is ``no_key``, or ``key_file_unreadable`` or ``env_file_unreadable``: there may be one.
    """

    def __init__(self, message: str, reason: str = "no_key") -> None:
        super().__init__(message)
        self.reason = reason


class Credentials:
    """Where keys come from. Never prints, never pickles."""

    def __init__(self, config: Config, secrets: Mapping[str, str], services: Mapping[str, str]) -> None:
        """
        Args:
            secrets: variables that the starting process handed over.
            services: keys of Choir's own services, by name.

        Raises:
            ConfigError: ``env_file_exposed``, ``env_file_owner`` or ``env_file_malformed``.
        """
        self._secrets = dict(secrets)
        self._services = dict(services)
        self._file: dict[str, str] = {}
        self._unreadable: Unresolved | None = None
        try:
            self._file = read_env_file(config.env_file)
        except Unresolved as unreadable:  # the variables handed over may be enough
            self._unreadable = unreadable

    def __repr__(self) -> str:
        return "<Credentials>"

    def __reduce__(self) -> str:
        raise TypeError("credentials are not serialised")

    def all(self, providers: Iterable[Provider]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """The keys of those that are enabled, by provider and reference; and why the others are not.

        Raises:
            ConfigError: as ``keys``.
        """
        found, disabled = {}, {}
        for provider in providers:
            try:
                found[provider.name] = self.keys(provider)
            except Unresolved as unresolved:
                disabled[provider.name] = str(unresolved)
        return found, disabled

    def keys(self, provider: Provider) -> dict[str, str]:
        """The keys of ``provider`` by reference, in its order; those that are not there are left out. {} when it
        needs none.

        Raises:
            Unresolved: it needs one, and none is there.
            ConfigError: ``key_file_exposed``, ``key_file_owner``, ``key_malformed`` or ``keys_same``; never repeats a
                value.
        """
        found: dict[str, str] = {}
        missing = []
        for reference in provider.keys:
            try:
                found[reference] = self.key(provider, reference)
            except Unresolved as unresolved:
                missing.append(unresolved)
        if missing and not found:
            raise missing[0]
        if len(set(found.values())) < len(found):
            raise ConfigError("keys_same", f"Two of the keys of provider `{provider.name}` are the same.")
        return found

    def key(self, provider: Provider, reference: str) -> str:
        """One key of ``provider``.

        Raises:
            Unresolved, ConfigError: as ``keys``.
        """
        kind, _, name = reference.partition(":")
        if kind == "env":
            value = (self._secrets.get(name) or self._file.get(name, "")).strip()
            missing = f"no key in {name}"
            if not value and self._unreadable is not None:
                raise self._unreadable
        elif kind == "file":
            value = _read_private(Path(name), "key_file", 0o007).strip()
            missing = f"no key in {name}"
        else:
            value = self._services.get(name, "")
            missing = f"the service `{name}` is not there"
        if not value:
            raise Unresolved(missing)
        if not _KEY.match(value):
            raise ConfigError(
                "key_malformed",
                f"The key of provider `{provider.name}` ({reference}) has spaces or characters no header can carry.",
            )
        return value


def read_env_file(path: Path) -> dict[str, str]:
    """``KEY=VALUE`` lines, ``export`` allowed, ``#`` comments, single or double quotes; {} when there is no file.

    Raises:
        ConfigError: ``env_file_exposed``: others than the owner can read it; ``env_file_owner``;
            ``env_file_malformed``, with the line; or it is encrypted, and ``decrypt`` failed.
        Unresolved: ``env_file_unreadable``.
    """
    values: dict[str, str] = {}
    # systemd shows a unit's credentials to that unit alone; the group bits there are those of an access list.
    forbidden = 0 if str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY") else 0o077
    text = decrypt(path) if is_encrypted(path) else _read_private(path, "env_file", forbidden)
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.match(line)
        value = _unquoted(found[2]) if found else None
        if found is None or value is None:
            raise ConfigError("env_file_malformed", f"{path}:{number}: not KEY=VALUE.")
        values[found[1]] = value
    return values


def _unquoted(text: str) -> str | None:
    if text[:1] in ("'", '"'):
        end = text.find(text[0], 1)
        rest = text[end + 1 :].strip()
        return text[1:end] if end > 0 and (not rest or rest.startswith("#")) else None
    return re.split(r"\s+#", text, maxsplit=1)[0].strip()


def _read_private(path: Path, what: str, forbidden: int) -> str:
    """The text of a file, "" when there is none; owner and mode are those of the file that is read, not of the name.

    Raises:
        ConfigError: ``<what>_exposed``, or ``<what>_owner``: it is neither root's nor this process's user's.
        Unresolved: ``<what>_unreadable``.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # no pipe is waited for
            info = os.fstat(file.fileno())
            _check_private(path, info, what, forbidden)
            text = file.read(_MAX_BYTES + 1) if stat.S_ISREG(info.st_mode) else None
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise _unreadable(path, what, error.strerror or "it failed") from None
    if text is None:
        raise _unreadable(path, what, "not a regular file")
    if len(text) > _MAX_BYTES:
        raise _unreadable(path, what, "longer than 1 MB")
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise _unreadable(path, what, "not UTF-8") from None


def _check_private(path: Path, info: os.stat_result, what: str, forbidden: int) -> None:
    mode = stat.S_IMODE(info.st_mode)
    if mode & forbidden:
        who = "its group or everyone" if forbidden & 0o070 else "everyone"
        raise ConfigError(
            f"{what}_exposed", f"{path} holds keys and is open to {who} (mode {mode:04o}).", f"chmod 600 {path}"
        )
    own = os.geteuid()
    if info.st_uid not in (0, own):
        raise ConfigError(
            f"{what}_owner",
            f"{path} holds keys and belongs to uid {info.st_uid}; it must be root's or uid {own}'s, as Choir is.",
            f"chown {own} {path}",
        )


def _unreadable(path: Path, what: str, why: str) -> Unresolved:
    return Unresolved(f"{path} cannot be read: {why}", f"{what}_unreadable")
