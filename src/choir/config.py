"""Configuration: one ``choir.toml``, every key optional, plus the table of known providers.

Never read from a folder an agent can write: ``--config FILE``, else ``~/.config/choir/choir.toml``, else
``/etc/choir/choir.toml``. Secrets in it are references (``env:NAME``, ``file:PATH``), never values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from choir import public_url, run_config
from choir.errors import ConfigError
from choir.places import data_file
from choir.toml_place import place

Family = Literal["openai", "anthropic", "google", "bedrock", "search"]

_SEE = "See docs/configuration.md for every key."
_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+|service:[a-z0-9-]+)\Z")
_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?\Z")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")
_ALLOW = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /\S*\Z")
_CARRIER = re.compile(r"[A-Za-z][A-Za-z0-9-]*: ?(\S+ )?\{key\}\Z")


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One upstream of the gateway. Field by field: see ``data/providers.toml``."""

    name: str
    base_url: str
    keys: tuple[str, ...] = ()
    """References; written ``key`` where there is but one. Each call uses one of them."""
    carrier: str = ""
    speaks: tuple[Family, ...] = ()
    client_path: str = ""
    start_on_use: bool = False
    allow: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    ask_usage: bool = True
    allow_tools: tuple[str, ...] = ()
    search_models: tuple[str, ...] = ()
    allow_stored: bool = False
    circuit_failures: int = 5
    """Failures in a row after which calls are refused for a while; 0: never."""
    named: bool = False
    """Whether choir.toml names it. A named provider without a usable key is reported; another is just off."""


class ProviderEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """``[providers.NAME]`` in choir.toml: overrides of a known provider, or a new one ``like`` a known one."""

    enabled: bool = True
    like: str | None = None
    base_url: str | None = None
    key: str | None = None
    keys: tuple[str, ...] | None = None
    carrier: str | None = None
    speaks: tuple[Family, ...] | None = None
    client_path: str | None = None
    allow: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    environment: dict[str, str] | None = None
    ask_usage: bool | None = None
    allow_tools: tuple[str, ...] | None = None
    allow_stored: bool | None = None
    circuit_failures: int | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one sandbox, or for tokens and money one user, may ask of the gateway. None: no limit."""

    requests_per_minute: int = 600
    concurrent_requests: int = 32
    max_body_bytes: int = 32 * 1024 * 1024
    tokens_per_minute: int | None = None
    """Of one user, all sandboxes together, read and written; likewise the two below."""
    usd_per_day: float | None = None
    usd_per_month: float | None = None


Unlimited = Literal["none"]


class UserLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[users.NAME.limits]``: in place of ``[limits]``, field by field. ``"none"`` lifts a limit."""

    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_body_bytes: int | None = None
    tokens_per_minute: int | Unlimited | None = None
    usd_per_day: float | Unlimited | None = None
    usd_per_month: float | Unlimited | None = None


class UserEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[users.NAME]``: what one user may call. Whoever is not named may call everything, within ``[limits]``."""

    providers: tuple[str, ...] | None = None
    """Only these; None: all."""
    deny_providers: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    """Only these, as ``provider/model`` with ``*``; None: all."""
    deny_models: tuple[str, ...] = ()
    """Not these, whatever ``models`` says; letters of either case."""
    limits: UserLimits = UserLimits()


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
    single_user: bool = False
    """No sign-in for the account that runs Choir, from this machine: for a laptop."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed, e.g. 127.0.0.1 for a TLS proxy on this machine."""


class OidcEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Signing in with an OpenID Connect provider; ``issuer`` "" is none."""

    issuer: str = ""
    client_id: str = ""
    client_secret: str = ""
    """``file:/path``; "" for a public client."""
    name: str = "your organisation"
    """On the button."""
    allow: tuple[str, ...] = ()
    """Verified addresses that may join without an invitation, e.g. ``*@example.org``."""
    admins: tuple[str, ...] = ()
    """Verified addresses of admins."""


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
    warm: int = 3
    """Sandboxes that stand ready for the people who are likely to come next, one a person; 0: none."""
    keep_snapshots: int = 5
    """Of each sandbox; the oldest are deleted."""
    read_only_paths: tuple[str, ...] = ()
    """More host paths to show read-only, e.g. a tool chain outside /usr."""


class UsageEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How long usage is kept."""

    keep_days: int = 0
    """Of records in the ledger; 0: for ever. At least 31, since the limits on a month's money are counted from it."""


class TelemetryEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where spans of calls go; see ``choir.app.telemetry``."""

    otlp_endpoint: str = ""
    """Base URL of an OTLP/HTTP receiver, e.g. http://127.0.0.1:4318; "": none."""


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """choir.toml as written."""

    hypervisor: HypervisorEntry = HypervisorEntry()
    oidc: OidcEntry = OidcEntry()
    sandbox: SandboxEntry = SandboxEntry()
    limits: Limits = Limits()
    prices: dict[str, Price] = {}
    timeouts: Timeouts = Timeouts()
    providers: dict[str, ProviderEntry] = {}
    users: dict[str, UserEntry] = {}
    usage: UsageEntry = UsageEntry()
    telemetry: TelemetryEntry = TelemetryEntry()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was configured, with the provider table worked out."""

    path: Path | None
    """The file it came from; None when there is none."""
    hypervisor: HypervisorEntry = HypervisorEntry()
    oidc: OidcEntry = OidcEntry()
    sandbox: SandboxEntry = SandboxEntry()
    limits: Limits = Limits()
    prices: dict[str, Price] = {}
    """By ``provider/model`` pattern; they win over ``data/prices.toml``."""
    timeouts: Timeouts = Timeouts()
    providers: dict[str, Provider] = {}
    users: dict[str, UserEntry] = {}
    usage: UsageEntry = UsageEntry()
    telemetry: TelemetryEntry = TelemetryEntry()

    def limits_of(self, user_id: str) -> Limits:
        """``[limits]`` with what ``[users.NAME.limits]`` puts in its place."""
        user = self.users.get(user_id)
        if user is None:
            return self.limits
        own = {name: value for name, value in msgspec.structs.asdict(user.limits).items() if value is not None}
        return msgspec.structs.replace(self.limits, **{k: None if v == "none" else v for k, v in own.items()})

    @property
    def key_variables(self) -> list[str]:
        """The variables that providers' references name (``env:``)."""
        return run_config.key_variables(self.providers.values())

    @property
    def env_file(self) -> Path:
        return run_config.env_file(self.path)


def config_home() -> Path:
    """``$XDG_CONFIG_HOME/choir``, by default ``~/.config/choir``."""
    return Path(run_config.config_home())


def find() -> Path | None:
    """The choir.toml in force when none is named, or None."""
    for path in map(Path, run_config.places()):
        if path.is_file():
            return path
    return None


def known_providers() -> dict[str, dict[str, Any]]:
    """The table that comes with Choir, as plain data."""
    with open(data_file("providers.toml"), "rb") as file:
        return tomllib.load(file)


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
        raise _invalid(path, text, raw, str(error)) from error
    return _resolve(file, path, text)


def _invalid(path: Path, text: str, raw: dict[str, Any], message: str) -> ConfigError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.a.b`" into a sentence with a line."""
    what, _, where = message.partition(" - at `$")
    keys = [key for key in re.findall(r"\.([^.\[\]`]+)", where) if key != "..."]
    unknown = re.search(r"unknown field `([^`]*)`", what)
    if unknown:
        keys.append(unknown[1])
        what = f"unknown key `{unknown[1]}`"
    if "[...]" in where:  # msgspec does not name the key of a table of tables
        keys.insert(1, _wrong_entry(raw, keys[0]))
    return ConfigError("config_invalid", f"{path}{place(text, keys)}: {what}.", _SEE)


def _wrong_entry(raw: dict[str, Any], section: str) -> str:
    """The first of a section's entries that is no good by itself."""
    for name, entry in raw[section].items():
        try:
            msgspec.convert({section: {name: entry}}, File)
        except msgspec.ValidationError:
            return str(name)
    return ""


def _resolve(file: File, path: Path | None, text: str) -> Config:
    def refuse(keys: list[str], what: str) -> ConfigError:
        where = f"{path}{place(text, keys)}" if path else "built-in table"
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
            if entry.key is not None and entry.keys is not None:
                raise refuse([*at, "keys"], "give `key` or `keys`, not both.")
        key = base.pop("key", "")
        base.setdefault("keys", (key,) if key else ())
        provider = msgspec.convert({**base, "name": name, "named": entry is not None}, Provider)
        _check(provider, at, refuse)
        if provider.base_url:
            providers[name] = provider
    for pattern in file.prices:
        if "/" not in pattern:
            raise refuse(["prices", pattern], f'`{pattern}` is not a pattern like "provider/model" or "provider/*".')
    _check_limits(file.limits, ["limits"], refuse)
    for user, allowed in file.users.items():
        check_user(allowed, ["users", user], {*table, *file.providers}, refuse)
    if file.telemetry.otlp_endpoint and not _URL.match(file.telemetry.otlp_endpoint):
        raise refuse(["telemetry", "otlp_endpoint"], "otlp_endpoint is an http(s) URL without query or user.")
    if not 0 <= file.hypervisor.port <= 65535:
        raise refuse(["hypervisor", "port"], f"port {file.hypervisor.port} is not between 0 and 65535.")
    try:
        public = public_url.normal(file.hypervisor.public_url)
    except ValueError as error:
        raise refuse(["hypervisor", "public_url"], str(error)) from error
    if file.hypervisor.single_user and urlsplit(public).hostname not in (None, "localhost"):
        raise refuse(["hypervisor", "single_user"], "single_user is for one's own machine: leave `public_url` out.")
    oidc = file.oidc
    if oidc != OidcEntry():
        if not re.match(
            r"https://[^/?#@\s]+[^?#\s]*\Z|http://(localhost|127\.0\.0\.1)(:\d+)?(/[^?#\s]*)?\Z", oidc.issuer
        ):
            raise refuse(["oidc", "issuer"], "issuer must be an https URL without query.")
        if not oidc.client_id:
            raise refuse(["oidc"], "`client_id` is missing.")
        if oidc.client_secret and not re.match(r"file:/.+\Z", oidc.client_secret):
            raise refuse(
                ["oidc", "client_secret"], "client_secret is a reference, `file:/path`, never the secret itself."
            )
    if file.sandbox.idle_stop < 0:
        raise refuse(["sandbox", "idle_stop"], "idle_stop is a number of seconds, 0 for never.")
    if file.sandbox.warm < 0:
        raise refuse(["sandbox", "warm"], "warm is a number of sandboxes, 0 for none.")
    if file.usage.keep_days != 0 and file.usage.keep_days < 31:
        raise refuse(["usage", "keep_days"], "keep_days is 0 for ever, or at least 31.")
    if file.sandbox.keep_snapshots < 1:
        raise refuse(["sandbox", "keep_snapshots"], "keep_snapshots must be at least 1.")
    return Config(
        path=path,
        hypervisor=msgspec.structs.replace(file.hypervisor, public_url=public),
        oidc=file.oidc,
        sandbox=file.sandbox,
        limits=file.limits,
        prices=file.prices,
        timeouts=file.timeouts,
        providers=providers,
        users=file.users,
        usage=file.usage,
        telemetry=file.telemetry,
    )


Refuse = Callable[[list[str], str], ConfigError]


def _check_limits(limits: Limits | UserLimits, at: list[str], refuse: Refuse) -> None:
    for name, value in msgspec.structs.asdict(limits).items():
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise refuse([*at, name], f"`{name}` must not be less than 0.")


def check_user(user: UserEntry, at: list[str], known: set[str], refuse: Refuse) -> None:
    """Refuses what no user can be given; ``known`` are the names of providers."""
    for field in ("providers", "deny_providers"):
        for name in getattr(user, field) or ():
            if name not in known:
                raise refuse([*at, field], f"unknown provider `{name}`.")
    for field in ("models", "deny_models"):
        for pattern in getattr(user, field) or ():
            provider, slash, _ = pattern.partition("/")
            if not slash or ("*" not in provider and provider not in known):
                what = f'`{pattern}` is not a pattern like "provider/model" or "provider/*", of a known provider.'
                raise refuse([*at, field], what)
    _check_limits(user.limits, [*at, "limits"], refuse)


def _check(provider: Provider, at: list[str], refuse: Refuse) -> None:
    if provider.named and not provider.base_url:
        raise refuse(at, f"provider `{provider.name}` needs `base_url`.")
    if provider.base_url and not re.match(
        r"(https?://[^/?#@\s]+(/[^?#\s]*)?|unix:/[^?#\s]+|unix:\{run\}[^?#\s]+)\Z", provider.base_url
    ):
        raise refuse([*at, "base_url"], f"`{provider.base_url}` is not an http(s) URL without query or user.")
    for key in provider.keys:
        if not _REFERENCE.match(key):
            # Never repeat the value: it may be the secret itself.
            message = "a key is a reference, `env:NAME` or `file:/path`, never the key itself."
            raise refuse([*at, "key" if len(provider.keys) == 1 else "keys"], message)
    if len(set(provider.keys)) < len(provider.keys):
        raise refuse([*at, "keys"], "a key is there twice.")
    if provider.keys and not _CARRIER.match(provider.carrier):
        raise refuse([*at, "carrier"], "carrier must look like `Header-Name: {key}` or `Authorization: Bearer {key}`.")
    if provider.circuit_failures < 0:
        raise refuse([*at, "circuit_failures"], "circuit_failures must not be less than 0; 0 is never.")
    for pattern in provider.allow:
        if not _ALLOW.match(pattern):
            raise refuse([*at, "allow"], f"`{pattern}` is not `METHOD /path`.")
