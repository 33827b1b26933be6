"""What policy and the usage record read from a request body (pure). The body itself passes unchanged."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

import msgspec

from choir.gateway.names import Undecodable, exact

SIDE_COPY = 1024 * 1024
"""Bytes of a body kept beside the relay to read the model's name from; of a longer one only the ends are searched."""
_ENDS = 64 * 1024

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,128})"')
_KEY = re.compile(rb'\s*"((?:[^"\\]|\\.)*)"\s*:\s*', re.DOTALL)
_CLOSERS = (b",", b"}")
_SPACE = re.compile(rb"\s*")


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for text that is not what it should be; the last for what is nested too deeply."""


def printable(model: str | None) -> str | None:
    """As a usage record holds it: 128 printable ASCII characters at most."""
    if not model:
        return None
    if len(model) <= 128 and model.isascii() and model.isprintable():
        return model
    return "".join(c if " " <= c <= "~" else "?" for c in model[:128])


def model_of(body: bytes) -> str | None:
    """The ``model`` of a JSON object, as well as it can be told cheaply; None when there is none."""
    if b'"model"' not in body:
        return None
    try:
        return _named.decode(body).model
    except UNREADABLE:
        return None


def model_in_ends(head: bytes, tail: bytes) -> str | None:
    """A guess for a body too long to keep: the name in its first bytes, else the last one in its last bytes."""
    found = _MODEL.findall(head[:_ENDS])[:1] or _MODEL.findall(tail[-_ENDS:])[-1:]
    return found[0].decode("ascii", "replace") if found else None


def strict_spans(body: bytes) -> dict[str, tuple[int, int]]:
    """Where the value of each member of a JSON object begins and ends.

    Raises:
        Undecodable: not JSON, not an object, or a key comes twice, so that two readers could see two bodies.
    """
    try:
        members = _members.decode(body)
    except UNREADABLE as error:
        raise Undecodable from error
    return _spans(body, members)


def _spans(body: bytes, members: dict[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    # The decoder keeps the last of two equal keys. Walking the text with what it kept finds the other.
    at = _skip(body, body.index(b"{") + 1)
    result: dict[str, tuple[int, int]] = {}
    for index, (name, raw) in enumerate(members.items()):
        if index:
            if body[at : at + 1] != b",":
                raise Undecodable
            at += 1
        value = bytes(raw)
        plain = b'"%b":' % name.encode()
        if body.startswith(plain, at) and '"' not in name and "\\" not in name:  # as most clients write it
            start = at + len(plain)
            if not body.startswith(value, start):
                start = _skip(body, start)
        else:
            key = _KEY.match(body, at)
            if key is None or _decoded(key[1]) != name:
                raise Undecodable
            start = key.end()
        if not body.startswith(value, start):
            raise Undecodable
        end = start + len(value)
        result[name] = start, end
        at = end if body[end : end + 1] in _CLOSERS else _skip(body, end)
    if body[at : at + 1] != b"}":
        raise Undecodable
    return result


def strict_members(body: bytes) -> dict[str, msgspec.Raw]:
    """The members of a JSON object, values as they stand.

    Raises:
        Undecodable: as ``strict_spans``.
        InAnotherCase: a name is one that policy reads in other letters.
    """
    try:
        members = _members.decode(body)
    except UNREADABLE as error:
        raise Undecodable from error
    # Braces, commas, colons, quotes, keys and values take up at least so much. An escape, white space or a key that
    # comes twice, whose first value the decoder dropped, makes the text longer.
    if len(body) != 1 + 4 * len(members) + sum(map(len, members)) + sum(map(len, members.values())):
        _spans(body, members)
    exact(members)
    return members


def strict_value(text: bytes) -> Any:
    """A JSON value whose objects, at every depth, have each key once.

    Raises:
        Undecodable: not JSON, or a key comes twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise Undecodable from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Undecodable
    return members


def _constant(name: str) -> None:
    raise Undecodable  # NaN and the infinities are not JSON


def inflated(body: bytes, coding: bytes, limit: int) -> bytes:
    """A body without its content coding.

    Raises:
        Undecodable: the coding is not known or broken, or the plain body is longer than ``limit`` bytes.
    """
    if coding in (b"", b"identity"):
        return body
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Undecodable
    inflate = zlib.decompressobj(wbits=47 if b"gzip" in coding else 15)
    try:
        plain = inflate.decompress(body, limit)
    except zlib.error as error:
        raise Undecodable from error
    if not inflate.eof or inflate.unused_data:  # cut, too long, or something behind it that another reader might take
        raise Undecodable
    return plain


def string(value: bytes | msgspec.Raw) -> str | None:
    """A JSON value that is a string, or None.

    Raises:
        Undecodable: a string with bytes or escapes that mean nothing.
    """
    text = bytes(value)
    if not text.startswith(b'"'):
        return None
    try:
        return _string.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Undecodable from error


def _skip(body: bytes, at: int) -> int:
    found = _SPACE.match(body, at)
    return found.end() if found else at


def _decoded(key: bytes) -> str | None:
    return string(b'"' + key + b'"')
