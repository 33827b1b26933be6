"""JSON for processes that are on the clock: ``json`` imports ``re`` and ``enum``, as costly as an interpreter's
start. The same C code without them; compact, and without NaN or infinities.
"""

from __future__ import annotations

import _json  # CPython's own half of ``json``; the same since 3.2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Context:
    """What the scanner reads its settings from."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


def _no_default(value: object) -> None:
    raise TypeError(f"a {type(value).__name__} is not JSON")


_scan = _json.make_scanner(_Context())  # type: ignore[arg-type]  # any object with these
_chunks = _json.make_encoder(None, _no_default, _json.encode_basestring_ascii, None, ":", ",", False, False, False)


def loads(text: str | bytes | bytearray) -> Any:
    """
    Raises:
        ValueError: not JSON (RFC 8259), or not UTF-8.
    """
    if not isinstance(text, str):
        text = text.decode()
    text = text.strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def dumps(value: object) -> str:
    """
    Raises:
        TypeError, ValueError: it holds something that JSON has not.
    """
    return "".join(_chunks(value, 0))
