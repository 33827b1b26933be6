"""Configuration: one ``choir.toml``, every key optional, plus the table of known providers.

Never read from a folder an agent can write: ``--config FILE``, else ``~/.config/choir/choir.toml``, else
``/etc/choir/choir.toml``. Secrets in it are references (``env:NAME``, ``file:PATH``), never values.
"""

from __future__ import annotations

import importlib.resources
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from choir.errors import ConfigError

Family = Literal["openai", "anthropic", "google", "bedrock", "search"]

_SEE = "See docs/configuration.md for every key."
_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+|service:[a-z0-9-]+)\Z")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_ALLOW = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /\S*\Z")
_CARRIER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ?(\S+ )?\{key\}\Z")


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One upstream of the gateway. Field by field: see ``data/providers.toml``."""

    name: str
    base_url: str
    key: str = ""
    carrier: str = ""
    speaks: tuple[Family, ...] = ()
    client_path: str = ""
    start_on_use: bool = False
    allow: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    ask_usage: bool = True
    allow_tools: tuple[str, ...] = ()
    allow_stored: bool = False
    named: bool = False
    """Whether choir.toml names it. A named provider without a usable key is reported; another is just off."""


class ProviderEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """``[providers.NAME]`` in choir.toml: overrides of a known provider, or a new one ``like`` a known one."""

    enabled: bool = True
    like: str | None = None
    base_url: str | None = None
    key: str | None = None
    carrier: str | None = None
    speaks: tuple[Family, ...] | None = None
    client_path: str | None = None
    allow: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    environment: dict[str, str] | None = None
    ask_usage: bool | None = None
    allow_tools: tuple[str, ...] | None = None
    allow_stored: bool | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one sandbox, or for tokens and money one user, may ask of the gateway. None: no limit."""

    requests_per_minute: int = 600
    concurrent_requests: int = 32
    max_body_bytes: int = 32 * 1024 * 1024
    tokens_per_minute: int | None = None
    """Of one user, all sandboxes together, read and written; likewise the two below."""
    usd_per_day: float | None = None
    usd_per_month: float | None = None


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """USD per million tokens. Field by field: see ``data/prices.toml``."""

    input: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cached: Annotated[float, msgspec.Meta(ge=0)] | None = None
    cache_write: Annotated[float, msgspec.Meta(ge=0)] | None = None
    output: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    request: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    max_output: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds the gateway waits for an upstream."""

    connect: float = 10.0
    first_byte: float = 300.0
    idle: float = 300.0


class HypervisorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The desktop's public side."""

    host: str = "127.0.0.1"
    port: int = 7000
    public_url: str = ""
    """Base of links, e.g. https://choir.example.org; default http://localhost:PORT. Sandboxes live at ID.<its host>."""


class SandboxEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How sandboxes are run."""

    backend: Literal["bubblewrap", "process"] = "bubblewrap"
    start_timeout: float = 30.0
    forward_env: tuple[str, ...] = ()
    """Host variables passed in by name. They are checked like everything else: a credential stops the start."""
    max_processes: int = 512
    max_open_files: int = 4096
    max_memory_bytes: int = 4 * 1024**3
    max_disk_bytes: int = 32 * 1024**3
    cpu_weight: int = 100
    idle_stop: float = 0.0
    """Seconds without work after which a desktop's sandbox is stopped; 0: never. A visit starts it again."""
    keep_snapshots: int = 5
    """Of each sandbox; the oldest are deleted."""
    read_only_paths: tuple[str, ...] = ()
    """More host paths to show read-only, e.g. a tool chain outside /usr."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """choir.toml as written."""

    hypervisor: HypervisorEntry = HypervisorEntry()
    sandbox: SandboxEntry = SandboxEntry()
    limits: Limits = Limits()
    prices: dict[str, Price] = {}
    timeouts: Timeouts = Timeouts()
    providers: dict[str, ProviderEntry] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was configured, with the provider table worked out."""

    path: Path | None
    """The file it came from; None when there is none."""
    hypervisor: HypervisorEntry = HypervisorEntry()
    sandbox: SandboxEntry = SandboxEntry()
    limits: Limits = Limits()
    prices: dict[str, Price] = {}
    """By ``provider/model`` pattern; they win over ``data/prices.toml``."""
    timeouts: Timeouts = Timeouts()
    providers: dict[str, Provider] = {}

    @property
    def public_url(self) -> str:
        return self.hypervisor.public_url.rstrip("/") or f"http://localhost:{self.hypervisor.port}"

    @property
    def env_file(self) -> Path:
        """The development ``.env`` beside choir.toml; only the gateway reads it."""
        return (self.path.parent if self.path else config_home()) / ".env"


def config_home() -> Path:
    """``$XDG_CONFIG_HOME/choir``, by default ``~/.config/choir``."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "choir"


def find() -> Path | None:
    """The choir.toml in force when none is named, or None."""
    for path in (config_home() / "choir.toml", Path("/etc/choir/choir.toml")):
        if path.is_file():
            return path
    return None


def known_providers() -> dict[str, dict[str, Any]]:
    """The table that comes with Choir, as plain data."""
    text = importlib.resources.files("choir").joinpath("data/providers.toml").read_text()
    return tomllib.loads(text)


def load(path: Path | None = None) -> Config:
    """Read and check the configuration.

    Args:
        path: the file; None looks for one (``find``) and is content with none.

    Raises:
        ConfigError: ``config_missing``, ``config_malformed`` or ``config_invalid``, with line and column where they
            can be told.
    """
    if path is None:
        path = find()
        if path is None:
            return _resolve(File(), None, "")
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError("config_missing", f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError("config_malformed", f"{path}: not UTF-8 (byte {error.start}).") from error
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"{path}:{found[1]}:{found[2]}" if found else f"{path} (at the end)"
        what = re.sub(r" \(at .*\)\Z", "", str(error))
        raise ConfigError("config_malformed", f"{where}: {what}.") from error
    try:
        file = msgspec.convert(raw, File)
    except msgspec.ValidationError as error:
        raise _invalid(path, text, str(error)) from error
    return _resolve(file, path, text)


def _invalid(path: Path, text: str, message: str) -> ConfigError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.a.b`" into a sentence with a line."""
    what, _, where = message.partition(" - at `$")
    keys = [key for key in re.findall(r"\.([^.\[\]`]+)", where) if key != "..."]
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        keys.append(unknown[1])
        what = f"unknown key `{unknown[1]}`"
    if "[...]" in where:  # msgspec does not name the key of a table of tables
        keys.insert(1, "*")
    return ConfigError("config_invalid", f"{path}{_position(text, keys)}: {what}.", _SEE)


def _position(text: str, keys: list[str]) -> str:
    """ ":LINE:COLUMN" of the innermost of ``keys`` that can be found, else ""."""
    section: list[str] = []
    best, depth = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]", line)
        assignment = re.match(r"\s*([A-Za-z0-9_\-.\"]+)\s*=", line)
        if header:
            section = [part.strip(" \"'") for part in header[1].split(".")]
            here = section
        elif assignment:
            here = section + [part.strip(" \"'") for part in assignment[1].split(".")]
        else:
            continue
        matches = all(want in (have, "*") for want, have in zip(keys, here, strict=False))
        agree = len(here) if matches and len(here) <= len(keys) else 0
        if agree > depth:
            column = len(line) - len(line.lstrip()) + 1
            best, depth = f":{number}:{column}", agree
    return best


def _resolve(file: File, path: Path | None, text: str) -> Config:
    def refuse(keys: list[str], what: str) -> ConfigError:
        where = f"{path}{_position(text, keys)}" if path else "built-in table"
        return ConfigError("config_invalid", f"{where}: {what}", _SEE)

    table = known_providers()
    providers: dict[str, Provider] = {}
    for name in [*table, *(name for name in file.providers if name not in table)]:
        entry = file.providers.get(name)
        at = ["providers", name]
        if entry is not None and not entry.enabled:
            continue
        if entry is None and name == "ollama":
            continue
        if not _NAME.match(name):
            raise refuse(at, f"provider name `{name}` must be lower-case letters, digits and dashes.")
        base = dict(table.get(name, {}))
        if entry is not None and entry.like is not None:
            if entry.like not in table:
                raise refuse([*at, "like"], f"unknown provider `{entry.like}`; known are {', '.join(table)}.")
            base = {**table[entry.like], "environment": {}, "key": "", "base_url": "", **base}
        elif name not in table:
            raise refuse(
                at, f'unknown provider `{name}`; a new one needs `like = "openai"` (or another) and `base_url`.'
            )
        if entry is not None:
            overrides = msgspec.structs.asdict(entry)
            base.update({k: v for k, v in overrides.items() if v is not None and k not in ("enabled", "like")})
        provider = msgspec.convert({**base, "name": name, "named": entry is not None}, Provider)
        _check(provider, at, refuse)
        if provider.base_url:
            providers[name] = provider
    for pattern in file.prices:
        if "/" not in pattern:
            raise refuse(["prices", pattern], f'`{pattern}` is not a pattern like "provider/model" or "provider/*".')
    for name in ("tokens_per_minute", "usd_per_day", "usd_per_month"):
        if (getattr(file.limits, name) or 0) < 0:
            raise refuse(["limits", name], f"`{name}` must not be less than 0.")
    if not 0 <= file.hypervisor.port <= 65535:
        raise refuse(["hypervisor", "port"], f"port {file.hypervisor.port} is not between 0 and 65535.")
    if file.sandbox.idle_stop < 0:
        raise refuse(["sandbox", "idle_stop"], "idle_stop is a number of seconds, 0 for never.")
    if file.sandbox.keep_snapshots < 1:
        raise refuse(["sandbox", "keep_snapshots"], "keep_snapshots must be at least 1.")
    return Config(
        path=path,
        hypervisor=file.hypervisor,
        sandbox=file.sandbox,
        limits=file.limits,
        prices=file.prices,
        timeouts=file.timeouts,
        providers=providers,
    )


def _check(provider: Provider, at: list[str], refuse: Any) -> None:
    if provider.named and not provider.base_url:
        raise refuse(at, f"provider `{provider.name}` needs `base_url`.")
    if provider.base_url and not re.match(
        r"(https?://[^/?#@\s]+(/[^?#\s]*)?|unix:/[^?#\s]+|unix:\{run\}[^?#\s]+)\Z", provider.base_url
    ):
        raise refuse([*at, "base_url"], f"`{provider.base_url}` is not an http(s) URL without query or user.")
    if provider.key and not _REFERENCE.match(provider.key):
        # Never repeat the value: it may be the secret itself.
        raise refuse([*at, "key"], "a key is a reference, `env:NAME` or `file:/path`, never the key itself.")
    if provider.key and not _CARRIER.match(provider.carrier):
        raise refuse([*at, "carrier"], "carrier must look like `Header-Name: {key}` or `Authorization: Bearer {key}`.")
    for pattern in provider.allow:
        if not _ALLOW.match(pattern):
            raise refuse([*at, "allow"], f"`{pattern}` is not `METHOD /path`.")
