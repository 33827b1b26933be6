"""The keyless policy: what counts as a credential, and the checks a sandbox runs before anything else.

Three rules. A *name* is a credential's when it stands in ``data/credential_env_names.txt`` or one of its segments says
so (``FOO_API_KEY``); then its value must be empty, a setting, or a gateway token. A *value* with the shape of a
provider's key (``sk-ant-…``, ``AKIA…``, a private key) is one under any name. A *file* is a credential's when its
content is. A finding names the variable or path, never the value.

Standard library only, with the costly imports made late: a sandbox's first process imports this.
"""

from __future__ import annotations

import os

from choir.errors import KeylessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

_LIST = os.path.join(os.path.dirname(__file__), "data", "credential_env_names.txt")

_SEGMENTS = frozenset((
    "KEY", "KEYS", "APIKEY", "APIKEYS", "TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE", "PAT",
    "CREDENTIAL", "CREDENTIALS", "DSN", "JWT", "COOKIE", "COOKIES", "BEARER",
))  # fmt: skip
_ENDINGS = ("APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY", "PASSWORD", "PASSWD", "TOKEN", "SECRET")
_SETTINGS = frozenset(("0", "1", "true", "false", "yes", "no", "on", "off", "none", "null"))

# One of these stands in every shape below, so that almost no value needs a regular expression.
_MARKERS = (
    "sk-", "sk_", "rk_", "AIza", "AKIA", "ASIA", "gh", "github_pat_", "glpat-", "xox", "xapp-", "gsk_", "xai-", "hf_",
    "pplx-", "tvly-", "npm_", "pypi-", "SG.", "ya29.", "GOCSPX-", "AGE-SECRET", "ABSK", "PRIVATE KEY", "eyJ", "@",
    "hooks.slack.com/", "earer ", "asic ",
)  # fmt: skip
_SHAPES = (
    r"sk-[A-Za-z0-9_-]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])|ABSK[A-Za-z0-9+/=]{40,}",
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}",
    r"xox[abeprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{20,}|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}",
    r"gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{20,}|pplx-[A-Za-z0-9]{20,}|tvly-[A-Za-z0-9-]{16,}",
    r"npm_[A-Za-z0-9]{30,}|pypi-AgE[A-Za-z0-9_-]{20,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"AGE-SECRET-KEY-1[A-Z0-9]{20,}|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
    r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@'\"]{0,128}:[^\s/@'\"]{3,256}@",
    r"(?:[Bb]earer|[Bb]asic) [A-Za-z0-9+/=_.~-]{16,}",
)
_TOKEN = r"choir-gt-[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # noqa: S105 - a shape
_PLACEHOLDER = (
    r"(?i)(?:<.*|\$[\{\(A-Z].*|%\(.*|\{\{.*|.*(?:your|change-?_?me|placeholder|example|replace|insert|redacted).*"
    r"|(.)\1*|none|null|true|false|todo|\d{1,5})\Z"
)
# NAME=value, name: value, "name": "value"; the name is judged afterwards.
_ASSIGNMENT = (
    r"(?m)^[ \t]*(?:-[ \t]+|export[ \t]+)?[\"']?([A-Za-z_/:][\w./:-]{0,100})[\"']?"
    r"[ \t]*[=:][ \t]*[\"']?([^\s\"',;]{4,})"
)
_HINT_VARIABLE = "Do not forward it into sandboxes; model calls need no key there, they go through the gateway."

_cache: dict[str, re.Pattern[str]] = {}
_names: set[str] = set()


def _pattern(source: str) -> re.Pattern[str]:
    if source not in _cache:
        import re

        _cache[source] = re.compile(source)
    return _cache[source]


def _shapes() -> re.Pattern[str]:
    return _pattern(r"(?<![A-Za-z0-9])(?:" + "|".join(_SHAPES) + ")")


def is_credential_name(name: str) -> bool:
    """Whether a variable of this name carries a credential."""
    if not _names:
        with open(_LIST) as lines:
            _names.update(line.strip() for line in lines)
    upper = name.upper()
    if upper in _names:
        return True
    if upper.startswith("GIT_CONFIG_KEY_"):  # names a setting; its value is under GIT_CONFIG_VALUE_n
        return False
    segments = upper.replace("-", "_").replace(".", "_").split("_")
    return (
        not _SEGMENTS.isdisjoint(segments)
        or segments[-1] == "AUTH"
        or any(segment.endswith(_ENDINGS) for segment in segments)
    )


def has_credential_shape(text: str) -> bool:
    """Whether ``text`` holds something with the shape of a provider's key. Gateway tokens do not count."""
    if not any(marker in text for marker in _MARKERS):
        return False
    if "choir-gt-" in text:
        text = _pattern(_TOKEN).sub("", text)
    return _shapes().search(text) is not None


def redact(text: str) -> str:
    """``text`` with everything key-shaped, and every gateway token, replaced; for log tails."""
    return _shapes().sub("[redacted]", _pattern(_TOKEN).sub("[redacted]", text))


def _is_credential(name: str, value: str) -> bool:
    """Whether this variable holds a credential."""
    if not value or value.lower() in _SETTINGS:
        return False
    if has_credential_shape(value):
        return True
    if not is_credential_name(name):
        return False
    if name.upper().startswith("DATABASE_URL") and value.startswith("sqlite:"):
        return False
    if value.isdigit() and name.upper().rsplit("_", 1)[-1] not in _SEGMENTS:  # FOO_TOKEN_LIMIT=4096
        return False
    from choir.tokens import looks_like_token

    return not looks_like_token(value)


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse an environment that carries a credential.

    Raises:
        KeylessError: ``credential_in_environment``.
    """
    for name, value in environment.items():
        if _is_credential(name, value):
            raise KeylessError(
                "credential_in_environment", f"The variable {name} holds a provider credential.", _HINT_VARIABLE
            )


def check_processes() -> None:
    """Refuse when any process whose environment can be read (``/proc/*/environ``) carries a credential.

    Raises:
        KeylessError: ``credential_in_process``.
    """
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environ = file.read()
        except OSError:  # gone, or not ours to read
            continue
        for entry in environ.decode(errors="replace").split("\0"):
            name, _, value = entry.partition("=")
            if _is_credential(name, value):
                raise KeylessError(
                    "credential_in_process",
                    f"The variable {name} in the environment of process {pid} holds a provider credential.",
                    "A process with a key must not be visible in a sandbox: report this with `choir verify`.",
                )


def check_descriptors(allowed: Iterable[int] = (0, 1, 2)) -> None:
    """Refuse open descriptors other than ``allowed``.

    Raises:
        KeylessError: ``descriptor_inherited``, naming what it points at.
    """
    known = set(allowed)
    with os.scandir("/proc/self/fd") as entries:
        found = [int(entry.name) for entry in entries if int(entry.name) not in known]
    for descriptor in found:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # scandir's own
            continue
        raise KeylessError(
            "descriptor_inherited",
            f"The sandbox inherited descriptor {descriptor} ({target}).",
            "Nothing of the host may be open in a sandbox: report this with `choir verify`.",
        )


HOME_FILES = (
    ".aws/credentials", ".aws/config", ".netrc", "_netrc", ".npmrc", ".yarnrc.yml", ".pypirc", ".git-credentials",
    ".config/git/credentials", ".gitconfig", ".config/gh/hosts.yml", ".config/hub", ".config/glab-cli/config.yml",
    ".docker/config.json", ".kube/config", ".config/gcloud/application_default_credentials.json",
    ".config/gcloud/credentials.db", ".config/gcloud/access_tokens.db", ".azure/msal_token_cache.json",
    ".azure/accessTokens.json", ".claude/.credentials.json", ".claude.json", ".codex/auth.json",
    ".gemini/oauth_creds.json", ".pi/agent/auth.json", ".local/share/opencode/auth.json",
    ".config/github-copilot/apps.json", ".config/github-copilot/hosts.json", ".cache/huggingface/token",
    ".huggingface/token", ".config/openai/auth.json", ".config/llm/keys.json", ".config/io.datasette.llm/keys.json",
    ".terraform.d/credentials.tfrc.json", ".cargo/credentials.toml", ".cargo/credentials", ".gem/credentials",
    ".pgpass", ".my.cnf", ".vault-token", ".databrickscfg", ".oci/config", ".boto", ".s3cfg", ".env", ".envrc",
)  # fmt: skip
"""Where tools keep credentials in a home; each is judged by its content."""
HOME_FOLDERS = (".ssh", ".config/gcloud", ".config/gcloud/legacy_credentials", ".gnupg/private-keys-v1.d", ".oci")
"""Folders whose every file is judged."""
_ALWAYS = ("credentials.db", "access_tokens.db", ".vault-token", ".pgpass", "huggingface/token", "private-keys-v1.d/")
"""Any content of these is a credential."""
_MAX_FILE = 256 * 1024


def credential_in_text(text: str, *, assignments: bool = True) -> bool:
    """Whether a file's text holds a key's shape or, with ``assignments``, a credential's name with a value."""
    if has_credential_shape(text):
        return True
    if not assignments:
        return False
    from choir.tokens import looks_like_token

    camel = _pattern(r"(?<=[a-z0-9])(?=[A-Z])")
    pairs = _pattern(_ASSIGNMENT).findall(text.replace("{", "{\n").replace(",", ",\n"))
    pairs += [("password", value) for value in _pattern(r"\bpassword\s+(\S+)").findall(text)]  # netrc(5)
    for name, value in pairs:
        name = camel.sub("_", name.rsplit("/", 1)[-1].rsplit(":", 1)[-1])
        placeholder = _pattern(_PLACEHOLDER).match(value) or (value.isupper() and _pattern(r"[A-Z_]+\Z").match(value))
        if is_credential_name(name) and not placeholder and not looks_like_token(value):
            return True
    return False


def _read(path: str) -> str | None:
    """A regular text file's content (the first 256 KB), else None. Opened so that a fifo cannot block."""
    import stat

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.read(descriptor, _MAX_FILE) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return data.decode(errors="replace") or None


def check_home(home: str | os.PathLike[str]) -> None:
    """Refuse a home folder in which a tool has left a credential.

    Raises:
        KeylessError: ``credential_in_file``, naming the path.
    """
    base = os.fspath(home)
    paths = [os.path.join(base, name) for name in HOME_FILES]
    for folder in HOME_FOLDERS:
        try:
            paths += [os.path.join(base, folder, name) for name in sorted(os.listdir(os.path.join(base, folder)))]
        except OSError:
            continue
    for path in paths:
        text = _read(path)
        if text is not None and (any(part in path for part in _ALWAYS) or credential_in_text(text)):
            raise KeylessError(
                "credential_in_file",
                f"The file {path} holds a credential.",
                "Move it out of the sandbox's home; model calls need no key, they go through the gateway.",
            )


_SKIPPED_FOLDERS = frozenset((
    ".git", ".hg", ".svn", "node_modules", ".venv", "venv", ".tox", "__pycache__", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".cache", "target", "dist",
))  # fmt: skip
_KEY_NAMES = frozenset((
    ".npmrc", ".netrc", ".pypirc", ".pgpass", ".envrc", ".git-credentials", "credentials", "secrets", "auth.json",
))  # fmt: skip
_CONFIG_ENDINGS = (".json", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".properties", ".tfvars", ".xml", ".txt")
_KEY_ENDINGS = (".pem", ".key", ".p8", ".ppk", ".env", ".secret", ".secrets")
_MAX_ENTRIES = 20_000
_MAX_DEPTH = 8


def _walk(folder: str, depth: int, skipped: frozenset[str], budget: list[int]) -> Iterator[os.DirEntry[str]]:
    """Entries below ``folder`` without following links, breadth limited by ``budget`` and depth."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    folders = []
    for entry in found:
        budget[0] -= 1
        if budget[0] < 0:
            return
        yield entry
        if entry.is_dir(follow_symlinks=False) and entry.name not in skipped:
            folders.append(entry.path)
    if depth > 0:
        for path in folders:
            yield from _walk(path, depth - 1, skipped, budget)


def find_key_files(folder: Path) -> list[Path]:
    """The files of a project that hold credentials, by content: what ``choir run`` masks.

    Looks at names that carry keys (``.env``, ``*.pem``, ``.npmrc``) and, for key shapes only, at configuration. At most
    20,000 entries, 8 levels deep; version control, packages and build output are skipped; links are not followed.
    """
    from pathlib import Path

    found = []
    for entry in _walk(os.fspath(folder), _MAX_DEPTH, _SKIPPED_FOLDERS, [_MAX_ENTRIES]):
        name = entry.name.lower()
        if name == ".git":  # a remote's URL may hold a password
            text = _read(os.path.join(entry.path, "config"))
            if text is not None and has_credential_shape(text):
                found.append(Path(entry.path, "config"))
            continue
        carries = name.startswith((".env", "id_")) or name in _KEY_NAMES or name.endswith(_KEY_ENDINGS)
        if not (carries or name.endswith(_CONFIG_ENDINGS)) or not entry.is_file(follow_symlinks=False):
            continue
        text = _read(entry.path)
        if text is not None and "\0" not in text and credential_in_text(text, assignments=carries):
            found.append(Path(entry.path))
    return found


def find_protected(folder: Path) -> list[Path]:
    """What the host would execute or obey later in a project, to be read-only inside: git hooks and configuration,
    ``.envrc``; of nested repositories too, 3 levels deep."""
    from pathlib import Path

    found = []
    for entry in _walk(os.fspath(folder), 3, _SKIPPED_FOLDERS, [_MAX_ENTRIES]):
        if entry.name == ".envrc" and entry.is_file(follow_symlinks=False):
            found.append(Path(entry.path))
        elif entry.name == ".git" and not entry.is_symlink():
            git = Path(entry.path)
            found += [git / "hooks", git / "config"] if git.is_dir() else [git]
    return found
