"""What a body may not ask of a provider (pure): tools of the provider's own that reach the internet, and ids of things
stored under the operator's key, which may be another sandbox's.

Tools are judged by what a client carries out itself; any other kind is the provider's own, also one that is not known
yet. Ids are looked for where the API reads them, never in text, tool arguments or schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from choir.config import Provider
from choir.gateway.body import UNREADABLE, strict_members, strict_value, string
from choir.gateway.names import Undecodable, exact_among
from choir.gateway.refusals import Refusal, refused
from choir.gateway.routing import Dialect

Members = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one dialect."""

    client_tools: tuple[str, ...]
    """Values of a tool's ``type`` that the client itself carries out; one that ends in ``_`` is a prefix."""
    typed: bool
    """Whether a tool is told by its ``type`` (absent: the client's own), or else by its keys."""
    tool_members: dict[str, str]
    """Members of the body that switch a tool on, and the name it is allowed by."""
    id_members: tuple[str, ...]
    """Members of the body that name something stored."""
    messages: tuple[str, ...]
    """Members in which ids can be nested."""
    id_keys: tuple[str, ...]
    """Keys that name something stored, nested in ``messages``."""
    id_types: tuple[str, ...] = ()
    """Values of ``type`` that do."""


_EXTRAS = {"web_search_options": "web_search", "search_parameters": "web_search", "plugins": "plugins"}
"""OpenAI's, xAI's and OpenRouter's."""
_RULES: dict[Dialect, Rules] = {
    "chat": Rules(
        client_tools=("function", "custom"),
        typed=True,
        tool_members=_EXTRAS,
        id_members=(),
        messages=("messages",),
        id_keys=("file_id",),
    ),
    "completions": Rules(client_tools=(), typed=True, tool_members=_EXTRAS, id_members=(), messages=(), id_keys=()),
    "responses": Rules(
        client_tools=("function", "custom", "local_shell", "apply_patch", "image_generation"),
        typed=True,
        tool_members=_EXTRAS,
        id_members=("previous_response_id", "conversation", "prompt", "container"),
        messages=("input",),
        id_keys=("file_id", "file_ids"),
        id_types=("item_reference",),
    ),
    "messages": Rules(
        client_tools=("custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"),
        typed=True,
        tool_members={"mcp_servers": "mcp", "plugins": "plugins"},
        id_members=("container",),
        messages=("messages", "system"),
        id_keys=("file_id", "file_ids"),
    ),
    "generate": Rules(
        client_tools=("functionDeclarations", "function_declarations"),
        typed=False,
        tool_members={},
        id_members=("cachedContent", "cached_content"),
        messages=("contents", "systemInstruction", "system_instruction"),
        id_keys=("fileUri", "file_uri"),
    ),
}
_WATCHED = {
    dialect: (
        rules,
        frozenset(("tools", *rules.tool_members, *rules.id_members)),
        tuple(b'"%b"' % word.encode() for word in rules.id_types),
    )
    for dialect, rules in _RULES.items()
}
"""The members that can be a reason to refuse, and the quoted values that an id in the messages comes with."""
_I = rb"(?:i|\xc4[\xb0\xb1]|\\u013[01])"
_ID_KEY = re.compile(rb'(?i)"f%ble_?(?:%bd|ur%b)' % (_I, _I, _I))
"""How every one of ``id_keys`` begins, in any case."""
_CLIENTS_OWN = {"tool_use": "input", "function_call": "arguments"}
_ESCAPED = (b"\\u004", b"\\u005", b"\\u006", b"\\u007")
"""Nobody has to write a letter in this way: it may hide a name."""
_list = msgspec.json.Decoder(list[msgspec.Raw])


def refusal(provider: Provider, dialect: Dialect, body: bytes, members: Members) -> Refusal | None:
    """Why a body may not be forwarded, or None.

    Args:
        members: of ``strict_members(body)``.

    Raises:
        Undecodable: what has to be judged cannot be.
    """
    rules, watched, marks = _WATCHED[dialect]
    if not watched.isdisjoint(members):
        found = _member_refusal(rules, provider, members)
        if found is not None:
            return found
    if rules.messages and not provider.allow_stored and _may_hold_id(body, marks):
        where = _nested_id(rules, members)
        if where is not None:
            return _id_denied(provider, where)
    return None


def _member_refusal(rules: Rules, provider: Provider, members: Members) -> Refusal | None:
    if "*" not in provider.allow_tools:
        for member, name in rules.tool_members.items():
            if member in members and name not in provider.allow_tools and not _empty(bytes(members[member])):
                return _tool_denied(provider, member, name)
        if "tools" in members:
            for where, tool in _provider_tools(rules, bytes(members["tools"])):
                if not _allowed(tool, provider.allow_tools):
                    return _tool_denied(provider, where, tool)
    if not provider.allow_stored:
        for member in rules.id_members:
            if member in members and not _empty(bytes(members[member])):
                return _id_denied(provider, member)
    return None


def _empty(value: bytes) -> bool:
    """Switches nothing on. An empty object does: OpenAI searches with ``"web_search_options": {}``."""
    return value in (b"null", b"[]", b'""')


def _allowed(tool: str, names: tuple[str, ...]) -> bool:
    return any(tool == name or tool.startswith(name + "_") for name in names)


def _provider_tools(rules: Rules, value: bytes, inside: bool = False) -> Iterator[tuple[str, str]]:
    """(member, name) of each tool that the provider would carry out."""
    if value == b"null":
        return
    try:
        tools = _list.decode(value) if value.startswith(b"[") else [msgspec.Raw(value)]  # Google takes one alone
    except UNREADABLE as error:
        raise Undecodable from error
    for index, raw in enumerate(tools):
        members = strict_members(bytes(raw))
        if not rules.typed:
            for name, content in members.items():
                if name not in rules.client_tools and bytes(content) != b"null":
                    yield f"tools[{index}].{_shown(name)}", _snake(name)
            continue
        kind_value = bytes(members.get("type", b"null"))
        if kind_value == b"null":
            continue
        kind = string(kind_value)
        if kind is None:
            raise Undecodable
        if kind == "namespace" and rules is _RULES["responses"] and not inside:  # a folder of tools, one level deep
            nested = _provider_tools(rules, bytes(members.get("tools", b"null")), inside=True)
            yield from ((f"tools[{index}].{where}", tool) for where, tool in nested)
        elif not any(kind == own or (own.endswith("_") and kind.startswith(own)) for own in rules.client_tools):
            yield f"tools[{index}].type", kind


def _may_hold_id(body: bytes, marks: tuple[bytes, ...]) -> bool:
    # A name in a text has its quotes escaped: as a key or a value of its own it can only be found when it is one.
    if _ID_KEY.search(body):
        return True
    for mark in marks:
        if mark in body:
            return True
    return b"\\" in body and b"\\u00" in body and any(escape in body for escape in _ESCAPED)


def _nested_id(rules: Rules, members: Members) -> str | None:
    """The first place of an id in the messages."""
    for member in rules.messages:
        if member in members:
            found = _walk(rules, strict_value(bytes(members[member])), member)
            if found is not None:
                return found
    return None


def _walk(rules: Rules, value: Any, name: str) -> str | None:
    waiting: list[tuple[Any, str]] = [(value, name)]
    while waiting:
        value, name = waiting.pop()
        if isinstance(value, list):
            waiting += [(item, name) for item in value]
        elif isinstance(value, dict):
            kind = value.get("type")
            for key in value:
                exact_among(key, (*rules.id_keys, "type") if rules.id_types else rules.id_keys)
            if isinstance(kind, str) and kind in rules.id_types:
                return f"{name}[].type"
            for key, inner in value.items():
                if key in rules.id_keys and inner:
                    return f"{name}[].{key}"
                if not _is_clients_own(name, kind, key):
                    waiting.append((inner, key))
    return None


def _is_clients_own(name: str, kind: Any, key: str) -> bool:
    """Whether a member is what the model said to a tool of the client, which no provider reads as its API."""
    if isinstance(kind, str):
        return _CLIENTS_OWN.get(kind) == key
    return name in ("functionCall", "function_call") and key == "args"


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)


def _shown(name: str) -> str:
    return "".join(c if " " < c <= "~" else "?" for c in name[:64])


def _tool_denied(provider: Provider, member: str, tool: str) -> Refusal:
    name = _shown(tool)
    return refused(
        403,
        "provider_tool_denied",
        f"`{member}` asks for `{name}`, which {provider.name} would carry out itself and which may reach the internet. "
        f"The operator can allow it: providers.{provider.name}.allow_tools.",
    )


def _id_denied(provider: Provider, member: str) -> Refusal:
    return refused(
        403,
        "foreign_id_denied",
        f"`{member}` names something stored at {provider.name}, which may be another sandbox's. "
        f"The operator can allow it: providers.{provider.name}.allow_stored.",
    )
