"""The keyless policy: what counts as a credential, and the checks of environments, processes and descriptors that a
sandbox runs before anything else.

Three rules. A *name* is a credential's when it stands in ``data/credential_env_names.txt`` or one of its segments says
so (``FOO_API_KEY``); then its value must be empty, a setting, or a gateway token. A *value* with the shape of a
provider's key (``sk-ant-…``, ``AKIA…``, a private key) is one under any name. A *file* is a credential's when its
content is. A finding names the variable or path, never the value.

Standard library only, with the costly imports made late: a sandbox's first process imports this.
"""

from __future__ import annotations

import os

from choir.errors import KeylessError
from choir.token_shape import looks_like_token

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Mapping

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
# What is a key even right behind a letter or digit, as in output without a space; not `sk-` alone, in which "task-" and
# "disk-" end.
_UNMISTAKABLE = (
    r"sk-(?:ant|proj|svcacct|admin|or-v1)-[A-Za-z0-9_-]{20,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])",
    r"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[0-9]{8,}-[A-Za-z0-9-]+",
    r"gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{40,}|hf_[A-Za-z0-9]{30,}|pplx-[A-Za-z0-9]{40,}|pypi-AgE[A-Za-z0-9_-]{20,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}",
)
_TOKEN = r"choir-gt-[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"  # noqa: S105 - a shape
_HINT_VARIABLE = "Do not forward it into sandboxes; model calls need no key there, they go through the gateway."

_cache: dict[str, re.Pattern[str]] = {}
_names: set[str] = set()


def pattern(source: str) -> re.Pattern[str]:
    """``source`` compiled, once and late: ``re`` is a costly import."""
    if source not in _cache:
        import re

        _cache[source] = re.compile(source)
    return _cache[source]


def _shapes() -> re.Pattern[str]:
    return pattern(r"(?<![A-Za-z0-9])(?:" + "|".join(_SHAPES) + ")")


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
        text = pattern(_TOKEN).sub("", text)
    return _shapes().search(text) is not None


def redact(text: str) -> str:
    """``text`` with everything key-shaped, and every gateway token, replaced; for log tails."""
    glued = pattern("|".join(_UNMISTAKABLE))
    return glued.sub("[redacted]", _shapes().sub("[redacted]", pattern(_TOKEN).sub("[redacted]", text)))


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
