"""What policy and the usage record read from a request body (pure). The body itself passes unchanged."""

from __future__ import annotations

import re

import msgspec

SIDE_COPY = 1024 * 1024
"""Bytes of a body kept beside the relay to read the model's name from; of a longer one only the ends are searched."""
_ENDS = 64 * 1024

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,128})"')
_KEY = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"\s*:\s*', re.DOTALL)
_SPACE = re.compile(rb"\s*")


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Undecodable(ValueError):  # noqa: N818 - says what the body is
    """Not one JSON object with each key once."""


def printable(model: str | None) -> str | None:
    """As a usage record holds it: 128 printable ASCII characters at most."""
    if not model:
        return None
    return "".join(c if " " <= c <= "~" else "?" for c in model[:128])


def model_of(body: bytes) -> str | None:
    """The ``model`` of a JSON object, as well as it can be told cheaply; None when there is none."""
    if b'"model"' not in body:
        return None
    try:
        return _named.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def model_in_ends(head: bytes, tail: bytes) -> str | None:
    """A guess for a body too long to keep: the name in its first bytes, else the last one in its last bytes."""
    found = _MODEL.findall(head[:_ENDS])[:1] or _MODEL.findall(tail[-_ENDS:])[-1:]
    return found[0].decode("ascii", "replace") if found else None


def strict_members(body: bytes) -> dict[str, bytes]:
    """The members of a JSON object, values as they stand.

    Raises:
        Undecodable: not JSON, not an object, or a key comes twice, so that two readers could see two bodies.
    """
    try:
        members = _members.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable from error
    # The decoder keeps the last of two equal keys. Walking the text with what it kept finds the other.
    at = _skip(body, body.index(b"{") + 1)
    result: dict[str, bytes] = {}
    for index, (name, raw) in enumerate(members.items()):
        if index:
            if body[at : at + 1] != b",":
                raise Undecodable
            at += 1
        key = _KEY.match(body, at)
        value = bytes(raw)
        if key is None or not body.startswith(value, key.end()) or _decoded(key[1]) != name:
            raise Undecodable
        at = _skip(body, key.end() + len(value))
        result[name] = value
    if body[at : at + 1] != b"}":
        raise Undecodable
    return result


def strict_model(body: bytes) -> str | None:
    """The ``model`` of a JSON body that must say it in one way only.

    Raises:
        Undecodable: as ``strict_members``.
    """
    value = strict_members(body).get("model")
    if value is None:
        return None
    decoded = msgspec.json.decode(value)
    return decoded if isinstance(decoded, str) else None


def _skip(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return found.end() if found else at


def _decoded(key: bytes) -> str:
    decoded: str = msgspec.json.decode(b'"' + key + b'"', type=str)
    return decoded
