"""Files that hold credentials, in a sandbox's home and in a person's project; each is judged by its content.

Standard library only, with the costly imports made late: a sandbox's first process imports this.
"""

from __future__ import annotations

import os

from choir.errors import KeylessError
from choir.keyless import has_credential_shape, is_credential_name, pattern
from choir.token_shape import looks_like_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLACEHOLDER = (
    r"(?i)(?:<.*|\$[\{\(A-Z].*|%\(.*|\{\{.*|.*(?:your|change-?_?me|placeholder|example|replace|insert|redacted).*"
    r"|(.)\1*|none|null|true|false|todo|\d{1,5})\Z"
)
# NAME=value, name: value, "name": "value"; the name is judged afterwards.
_ASSIGNMENT = (
    r"(?m)^[ \t]*(?:-[ \t]+|export[ \t]+)?[\"']?([A-Za-z_/:][\w./:-]{0,100})[\"']?"
    r"[ \t]*[=:][ \t]*[\"']?([^\s\"',;]{4,})"
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
    camel = pattern(r"(?<=[a-z0-9])(?=[A-Z])")
    pairs = pattern(_ASSIGNMENT).findall(text.replace("{", "{\n").replace(",", ",\n"))
    pairs += [("password", value) for value in pattern(r"\bpassword\s+(\S+)").findall(text)]  # netrc(5)
    for name, value in pairs:
        name = camel.sub("_", name.rsplit("/", 1)[-1].rsplit(":", 1)[-1])
        placeholder = pattern(_PLACEHOLDER).match(value) or (value.isupper() and pattern(r"[A-Z_]+\Z").match(value))
        if is_credential_name(name) and not placeholder and not looks_like_token(value):
            return True
    return False


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _read(path: str, folder: int | None = None) -> str | None:
    """A regular text file's content (the first 256 KB), else None. Opened so that a fifo cannot block.

    Args:
        folder: descriptor of the folder that ``path`` is a name in; a link there is not followed.
    """
    import stat

    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if folder is None else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags, dir_fd=folder)
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


def _walk(
    path: str, depth: int, skipped: frozenset[str], budget: list[int], above: int | None = None
) -> Iterator[tuple[str, os.DirEntry[str], int]]:
    """(path, entry, descriptor of its folder) of what is below ``path``, breadth limited by ``budget`` and depth. By
    descriptors: whoever writes the folder may exchange any part of it for a link meanwhile."""
    try:
        folder = os.open(path if above is None else os.path.basename(path), _FOLDER, dir_fd=above)
    except OSError:
        return
    try:
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
            yield os.path.join(path, entry.name), entry, folder
            if entry.is_dir(follow_symlinks=False) and entry.name not in skipped:
                folders.append(entry.name)
        if depth > 0:
            for name in folders:
                yield from _walk(os.path.join(path, name), depth - 1, skipped, budget, folder)
    finally:
        os.close(folder)


def _repository(path: str, top: str) -> str | None:
    """Where the repository of the ``.git`` at ``path`` is. None: a link leads out of ``top``, and inside to nothing."""
    try:
        if not os.path.islink(path):
            return path
        real = os.path.realpath(path)
    except OSError:  # exchanged meanwhile
        return None
    return real if real.startswith(top.rstrip("/") + "/") else None


def _configuration(repository: str, top: str) -> str | None:
    try:
        descriptor = os.open(top, _FOLDER)
    except OSError:
        return None
    try:
        for name in os.path.relpath(repository, top).split("/"):
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        return _read("config", descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def find_key_files(folder: Path) -> list[Path]:
    """The files of a project that hold credentials, by content: what ``choir run`` masks.

    Looks at names that carry keys (``.env``, ``*.pem``, ``.npmrc``) and, for key shapes only, at configuration. At most
    20,000 entries, 8 levels deep; version control, packages and build output are skipped; links are not followed, but
    for a ``.git`` that leads to another place in the project.
    """
    from pathlib import Path

    top, found = os.fspath(folder), []
    for path, entry, inside in _walk(top, _MAX_DEPTH, _SKIPPED_FOLDERS, [_MAX_ENTRIES]):
        name = entry.name.lower()
        if name == ".git":  # a remote's URL may hold a password
            git = _repository(path, top)
            text = _configuration(git, top) if git else None
            if git and text is not None and has_credential_shape(text):
                found.append(Path(git, "config"))
            continue
        carries = name.startswith((".env", "id_")) or name in _KEY_NAMES or name.endswith(_KEY_ENDINGS)
        if not (carries or name.endswith(_CONFIG_ENDINGS)) or not entry.is_file(follow_symlinks=False):
            continue
        text = _read(entry.name, inside)
        if text is not None and "\0" not in text and credential_in_text(text, assignments=carries):
            found.append(Path(path))
    return found


def find_protected(folder: Path) -> list[Path]:
    """What the host would execute or obey later in a project, to be read-only inside: git hooks and configuration,
    ``.envrc``; of nested repositories too, 3 levels deep. A repository whose hooks or configuration are links is itself
    one: nothing can be mounted over a link, only over what it leads to. So it is when ``.git`` leads elsewhere in the
    project; that link can be replaced, which ``choir.git_traps`` tells."""
    from pathlib import Path

    top, found = os.fspath(folder), []
    for path, entry, _ in _walk(top, 3, _SKIPPED_FOLDERS, [_MAX_ENTRIES]):
        if entry.name == ".envrc" and entry.is_file(follow_symlinks=False):
            found.append(Path(path))
        elif entry.name == ".git" and (place := _repository(path, top)) is not None and os.path.lexists(place):
            git = Path(place)
            obeyed = [git / "hooks", git / "config"]
            found += [git] if any(path.is_symlink() for path in obeyed) or not git.is_dir() else obeyed
    return found
