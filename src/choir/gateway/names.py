"""Member names that policy reads, and no other spelling of them (pure).

JSON's names are exact, but encoding/json of Go and System.Text.Json of ASP.NET take them in any case, Go also with
U+017F for s and U+212A for k, and Java's readers with U+0130 and U+0131 for i: such a server would read what policy did
not.
"""

from __future__ import annotations

from collections.abc import Mapping

READ = frozenset(
    (
        *("model", "models", "tools", "type", "stream", "stream_options", "include_usage", "session", "response"),
        *("messages", "input", "contents", "system", "systemInstruction", "system_instruction"),
        *("web_search_options", "search_parameters", "plugins", "mcp_servers"),
        *("previous_response_id", "response_id", "conversation", "prompt", "container"),
        *("cachedContent", "cached_content", "file_id", "file_ids", "fileUri", "file_uri"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "n"),
        *("candidateCount", "candidate_count", "generationConfig", "generation_config"),
        *("service_tier", "serviceTier", "speed", "inference_geo"),
    )
)
"""Anywhere in a body."""


class Undecodable(ValueError):  # noqa: N818 - says what the body is
    """Not one JSON object with each key once."""


class InAnotherCase(Undecodable):
    """A member's name is one that policy reads, but for the case of its letters. ``name`` is the right one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def folded(name: str) -> str:
    """The same for names that some server may take for the same."""
    if name.isascii():
        return name.lower()
    return name.upper().casefold().replace("\u0307", "")  # the dot that U+0130 leaves


_FOLDED = {folded(name): name for name in READ}


def exact(members: Mapping[str, object]) -> None:
    """
    Raises:
        InAnotherCase: a server may read one of ``members`` as another name, one that policy reads.
    """
    for name in members.keys() - READ:
        if folded(name) in _FOLDED:
            raise InAnotherCase(_FOLDED[folded(name)])


def exact_among(name: str, names: tuple[str, ...]) -> None:
    """The same for one name where only ``names`` are read.

    Raises:
        InAnotherCase
    """
    if name not in names:
        for other in names:
            if folded(name) == folded(other):
                raise InAnotherCase(other)
