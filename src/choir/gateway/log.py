"""What the gateway tells the operator."""

from __future__ import annotations

from choir import logs


def log(line: str, event: str = "note", level: str = "info", **fields: str) -> None:
    """To the operator, as ``choir.logs`` says. Never a token, a key or anything of a call's content."""
    logs.write("gateway", level, event, {"message": line, **fields})
