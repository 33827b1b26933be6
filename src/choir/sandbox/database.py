"""Where a sandbox's own state is."""

from __future__ import annotations


def database_path(url: str) -> str:
    """The file of an ``sqlite:////absolute/path`` URL (``DATABASE_URL``).

    Raises:
        ValueError: it is none.
    """
    prefix = "sqlite:///"
    if not url.startswith(prefix + "/"):
        raise ValueError("DATABASE_URL must be sqlite:////absolute/path")
    return url[len(prefix) :]
