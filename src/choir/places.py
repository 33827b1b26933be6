"""Where Choir's state is kept when nobody says otherwise, and what its processes are told of where things are. Imports
nothing but ``os``: ``choir run`` is on the clock."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


KEPT = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TERM", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "CHOIR_STATE"),
    # Folders and a file, not what is in them: systemd.exec(5), and `choir.config`.
    *("CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY", "CHOIR_ENV_FILE", "CHOIR_AGE_KEY_FILE"),
)
"""Variables that Choir's own processes are started with."""


def default_root(environment: Mapping[str, str]) -> str:
    """``$CHOIR_STATE``, else ``$XDG_STATE_HOME/choir``, else ``~/.local/state/choir``."""
    explicit = environment.get("CHOIR_STATE")
    if explicit:
        return os.path.abspath(explicit)
    base = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(base, "choir")


def hypervisor_socket(root: str) -> str:
    return f"{root}/run/hypervisor.sock"


def gateway_sockets(root: str) -> tuple[str, str]:
    """Where a gateway that is for everybody may listen (``State.gateway_socket``)."""
    return f"{root}/run/gateway.sock", f"{root}/gateway/run/gateway.sock"


def data_file(name: str) -> str:
    """The path of a table that comes with Choir."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", name)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What Choir's own processes need of an environment: where things are, never what opens them."""
    return {name: environment[name] for name in KEPT if name in environment}
