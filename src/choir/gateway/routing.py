"""Where a call goes: the operator's provider table, compiled, and the match of a request target against it (pure).

A path is matched in its decoded form, segment by segment, and only when that form is the only one it can have; what
was matched is byte for byte what is forwarded. Everything else is refused: empty, ``.`` and ``..`` segments, encoded
dots, slashes, backslashes, percent signs, controls, and what is not ASCII. One exception: a model id of Bedrock may
hold ``%2F`` (an ARN), where the pattern's segment is ``*`` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from choir.config import Family, Provider
from choir.gateway.refusals import Refusal, refused

PREFIX = b"/provider/v1/"

_PATH = re.compile(rb"/[A-Za-z0-9\-._~!$&'()*+,=:@%/]*\Z")
_QUERY = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@%/?\[\]|]*\Z")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NOT_PLAIN = re.compile(rb"[\x00-\x20\x7f-\xff%\\;?#]")
_QUERY_KEYS = frozenset((b"key", b"api_key", b"api-key", b"apikey", b"access_token"))
_NAMES_A_MODEL = frozenset((b"model", b"models", b"deployments"))
_CACHE_SIZE = 4096
_CACHED_TARGET = 512  # bytes
_WEBSOCKETS = (b"realtime", b"responses")
"""Last segments of the paths that a GET opens a WebSocket at."""


Dialect = Literal["chat", "completions", "responses", "messages", "generate"]
"""Bodies that policy reads: OpenAI's three, Anthropic's and Google's."""
_ENDINGS: tuple[tuple[bytes, Dialect], ...] = (
    (b"/chat/completions", "chat"),
    (b"/completions", "completions"),
    (b"/responses", "responses"),
    (b"/responses/input_tokens", "responses"),
    (b"/responses/compact", "responses"),
    (b"/messages", "messages"),
    (b"/messages/count_tokens", "messages"),
    (b":generatecontent", "generate"),
    (b":streamgeneratecontent", "generate"),
)


Billing = Literal["free", "request", "input", "output", "unbounded"]
"""What a call can cost: nothing, a price per call, the tokens it sends, those it gets as well, or who knows."""
_FREE = (
    b"/count_tokens",
    b"/count-tokens",
    b"/input_tokens",
    b":counttokens",
    b"/estimate-token-count",
    b"/moderations",
    b"/api/show",
)
_INPUT_ONLY = (b"/embeddings", b":embedcontent", b":batchembedcontents", b"/api/embed")


@dataclass(frozen=True, slots=True)
class Match:
    """An authorised destination."""

    provider: Provider
    pattern: str
    """Of ``Provider.allow``; what the usage record calls the route."""
    target: bytes
    """Native path and query, exactly as received."""
    family: Family
    path_model: str | None
    query_model: str | None
    websocket: bool
    dialect: Dialect | None
    """What the body is read as."""
    billing: Billing
    says_model: bool = False
    """A WebSocket on which each question says its model."""


class Unroutable(Exception):  # noqa: N818 - carries the answer
    """No destination. ``provider`` is set when the path named one of the table."""

    def __init__(self, refusal: Refusal, provider: Provider | None = None) -> None:
        super().__init__(refusal.outcome)
        self.refusal = refusal
        self.provider = provider


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: str
    segments: tuple[re.Pattern[bytes] | None, ...]
    """None stands for ``**``."""
    whole: tuple[bool, ...]
    """Where the segment's pattern is ``*`` alone."""
    model_at: int
    """Index of the segment that names the model, or -1."""

    def matches(self, segments: list[bytes], slashed: int, i: int = 0, j: int = 0) -> bool:
        """Whether ``segments[j:]`` match from pattern segment ``i`` on; ``slashed`` may only meet a whole ``*``."""
        while i < len(self.segments):
            pattern = self.segments[i]
            if pattern is None:
                return slashed < 0 and any(
                    self.matches(segments, slashed, i + 1, k) for k in range(j, len(segments) + 1)
                )
            if j == len(segments) or (j == slashed and not self.whole[i]) or not pattern.fullmatch(segments[j]):
                return False
            i, j = i + 1, j + 1
        return j == len(segments)


class Table:
    """The compiled provider table."""

    def __init__(self, providers: Iterable[Provider], disabled: dict[str, str] | None = None) -> None:
        """
        Args:
            disabled: provider names with the reason why they cannot be called.
        """
        self._providers = {provider.name.encode(): provider for provider in providers}
        self._routes: dict[tuple[str, str], list[_Route]] = {}
        for provider in self._providers.values():
            for pattern in provider.allow:
                method, _, path = pattern.partition(" ")
                self._routes.setdefault((provider.name, method), []).append(_compile(pattern, path))
        self._disabled = dict(disabled or {})
        self._cache: dict[tuple[str, bytes], Match] = {}

    def match(self, method: str, target: bytes) -> Match:
        """The destination of a request line.

        Raises:
            Unroutable: with the answer.
        """
        found = self._cache.get((method, target))
        if found is None:
            found = self._match(method, target)
            if len(target) <= _CACHED_TARGET:  # a query can be as long as a head
                if len(self._cache) >= _CACHE_SIZE:
                    self._cache.clear()
                self._cache[method, target] = found
        return found

    def _match(self, method: str, target: bytes) -> Match:
        path, mark, query = target.partition(b"?")
        if not _PATH.match(path) or not _QUERY.match(query) or _BAD_ESCAPE.search(target):
            raise Unroutable(refused(400, "path_not_canonical", "the path holds characters that cannot be matched."))
        if not path.startswith(PREFIX):
            raise Unroutable(refused(404, "unknown_path", "paths start with /provider/v1/PROVIDER/."))
        name, slash, _ = path[len(PREFIX) :].partition(b"/")
        provider = self._providers.get(name)
        if provider is None:
            raise Unroutable(refused(404, "unknown_provider", "there is no such provider in the operator's table."))
        native = path[len(PREFIX) + len(name) :]
        if provider.name in self._disabled:
            why = self._disabled[provider.name]
            raise Unroutable(refused(404, "provider_not_enabled", f"{provider.name} is off: {why}."), provider)
        if not slash:
            raise Unroutable(
                refused(404, "unknown_path", "a path of the provider's API must follow its name."), provider
            )
        segments, slashed = _segments(native, "bedrock" in provider.speaks, provider)
        query_model = _query_model(query, provider)
        for route in self._routes.get((provider.name, method), ()):
            if route.matches(segments, slashed):
                dialect = _dialect(segments) if method == "POST" else None
                return Match(
                    provider=provider,
                    pattern=route.pattern,
                    target=native + mark + query,
                    family=family_of(provider, native),
                    path_model=_model(segments[route.model_at]) if route.model_at >= 0 else None,
                    query_model=query_model,
                    websocket=method == "GET" and segments[-1] in _WEBSOCKETS,
                    dialect=dialect,
                    billing=_billing(provider, method, segments, dialect),
                    says_model=query_model is None and segments[-1] == b"responses",
                )
        raise Unroutable(
            refused(
                403,
                "route_not_allowed",
                f"the operator's table does not allow this method and path of {provider.name}.",
            ),
            provider,
        )


def family_of(provider: Provider, path: bytes) -> Family:
    """Which API family a path of ``provider`` belongs to, so that an error has the shape its client reads."""
    if len(provider.speaks) == 1:
        return provider.speaks[0]
    if b"/messages" in path:
        return "anthropic"
    return provider.speaks[0] if provider.speaks else "openai"


def guess_family(target: bytes) -> Family:
    """The same when the provider is unknown, from the path alone."""
    if b"/messages" in target:
        return "anthropic"
    if b"/model/" in target:
        return "bedrock"
    if b"/v1beta/" in target or b":generateContent" in target or b":streamGenerateContent" in target:
        return "google"
    return "openai"


def _dialect(segments: list[bytes]) -> Dialect | None:
    # Some servers do not mind case.
    path = b"/" + b"/".join(segments).lower()
    return next((dialect for ending, dialect in _ENDINGS if path.endswith(ending)), None)


def _billing(provider: Provider, method: str, segments: list[bytes], dialect: Dialect | None) -> Billing:
    path = b"/" + b"/".join(segments).lower()
    if path.endswith(_FREE):
        return "free"
    if dialect is not None and dialect != "completions":  # which writes `best_of` times as much, of each prompt
        return "output"
    if provider.speaks == ("search",):
        return "request"
    if method == "GET":
        return "unbounded" if segments[-1] in _WEBSOCKETS else "free"
    return "input" if path.endswith(_INPUT_ONLY) else "unbounded"


def _compile(pattern: str, path: str) -> _Route:
    parts = path[1:].split("/")
    expressions = [None if part == "**" else re.compile(_expression(part), re.DOTALL) for part in parts]
    model_at = -1
    for index in range(1, len(parts)):
        if "*" in parts[index] and parts[index] != "**" and parts[index - 1].encode() in _NAMES_A_MODEL:
            model_at = index
    if "**" in parts[: model_at + 1]:
        model_at = -1
    return _Route(pattern, tuple(expressions), tuple(part == "*" for part in parts), model_at)


def _expression(part: str) -> bytes:
    if part == "*":
        return rb".+"
    pieces = [re.escape(piece.encode()) for piece in part.split("*")]
    # A star beside a literal does not run over a colon: "x:streamGenerateContent:generateContent" is nobody's verb.
    return rb"[^:/]+".join(pieces)


def _segments(native: bytes, slashes: bool, provider: Provider) -> tuple[list[bytes], int]:
    """The decoded segments, and which of them holds an encoded slash (-1: none)."""
    segments, slashed = [], -1
    for index, raw in enumerate(native[1:].split(b"/")):
        decoded = unquote_to_bytes(raw)
        pieces = decoded.split(b"/")
        if len(pieces) > 1:
            if not slashes or slashed >= 0:
                raise _not_canonical("an encoded slash", provider)
            slashed = index
        for piece in pieces:
            if piece in (b"", b".", b".."):
                raise _not_canonical("an empty, `.` or `..` segment", provider)
        if _NOT_PLAIN.search(decoded) or b"%2e" in raw.lower():
            raise _not_canonical("an encoded character that could be read in two ways", provider)
        segments.append(decoded)
    return segments, slashed


def _not_canonical(what: str, provider: Provider) -> Unroutable:
    return Unroutable(refused(400, "path_not_canonical", f"the path holds {what}."), provider)


def _query_model(query: bytes, provider: Provider) -> str | None:
    model: str | None = None
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        name = unquote_to_bytes(name.replace(b"+", b" ")).strip().lower()
        if name in _QUERY_KEYS:
            message = (
                "a key in the query string is not taken; send the gateway token as a header (x-goog-api-key, Bearer)."
            )
            raise Unroutable(refused(401, "key_in_query", message), provider)
        if name == b"model":
            if model is not None:
                raise _not_canonical("two `model` parameters", provider)
            model = _model(unquote_to_bytes(value))
    return model


def _model(decoded: bytes) -> str:
    """Without the verb after it: ``gemini-2.5-pro:generateContent``; Bedrock's own colons stay."""
    name = decoded.decode("ascii", "replace")
    head, colon, verb = name.rpartition(":")
    return head if colon and verb.isalpha() and not head.startswith("arn:") else name
