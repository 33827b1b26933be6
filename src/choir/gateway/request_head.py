"""Which headers of a caller pass (pure): everything but what carries credentials or identity, frames or routes the
message, or lets a caller override what was authorised."""

from __future__ import annotations

import re

from choir.gateway.refusals import Refusal, refused

MAX_HEADERS = 200

_CARRIERS = frozenset((b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"x-subscription-token"))
_DROPPED = frozenset(
    (
        # hop by hop (RFC 9110, 7.6.1) and framing, which is written anew
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"content-length", b"upgrade"),
        *(b"http2-settings", b"expect", b"host"),
        # who is asking, or on whose account
        *(b"cookie", b"cookie2", b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"from"),
        *(b"openai-organization", b"openai-project", b"x-goog-user-project", b"x-goog-iam-authorization-token"),
        *(b"x-auth-token", b"x-access-token", b"x-amz-security-token", b"ocp-apim-subscription-key"),
        # what would make an upstream see another method, path or host than the authorised one
        *(b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-url", b"x-rewrite-url"),
        *(b"x-original-host", b"x-original-uri", b"x-host"),
    )
)
_DROPPED_PREFIXES = (b"x-forwarded-", b"proxy-", b"x-choir-", b"cf-", b"x-envoy-")
_KEPT, _DROP, _CARRIER, _LENGTH, _TRANSFER, _HOST, _EXPECT, _CONNECTION, _UPGRADE, _TYPE, _ENCODING, _ACCEPT = range(12)
_KIND: dict[bytes, int] = {
    b"": _DROP,
    **dict.fromkeys(_DROPPED, _DROP),
    **dict.fromkeys(_CARRIERS, _CARRIER),
    b"content-length": _LENGTH,
    b"transfer-encoding": _TRANSFER,
    b"host": _HOST,
    b"expect": _EXPECT,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
    b"accept-encoding": _ACCEPT,
}
_KIND_CACHE_SIZE = 512
_TARGET = re.compile(rb"/[!-~]*\Z")


class RequestHead:
    """A caller's header lines, read once. The body's length is not among them: see ``split_length``.

    Attributes:
        kept: header lines that go to the provider, each with its CRLF, byte for byte.
        token: the gateway token, b"" when there is none.
        ambiguous: several carriers that do not agree.
        chunked: the body comes in chunks.
        bad: why the head cannot be relayed, or None.
    """

    __slots__ = (
        "ambiguous",
        "bad",
        "chunked",
        "content_encoding",
        "content_type",
        "expects_continue",
        "kept",
        "token",
        "websocket",
    )

    def __init__(self, block: bytes) -> None:
        """
        Args:
            block: header lines, each with its CRLF, as a strict parser let them pass: no folds, no bare CR or LF.
        """
        self.token = b""
        self.ambiguous = False
        self.chunked = False
        self.bad: Refusal | None = None
        self.content_type = b""
        self.content_encoding = b""
        self.expects_continue = False
        hosts = 0
        connection = b""
        upgrade = b""
        kept = []
        lines = block.split(b"\r\n")
        for line in lines:
            name, _, value = line.partition(b":")
            kind = _KIND.get(name)
            if kind is None:
                kind = _kind(name)
            if kind == _KEPT:
                kept.append(line)
                continue
            value = value.strip(b" \t")
            if kind == _CARRIER:
                self._carrier(name.lower(), value)
            elif kind == _HOST:
                hosts += 1
            elif kind == _TYPE:
                self.content_type = value.lower()
                kept.append(line)
            elif kind == _CONNECTION:
                connection = connection + b"," + value.lower() if connection else value.lower()
            elif kind == _ENCODING:
                # Of two lines neither is the one that counts: together they are a coding that policy does not read.
                self.content_encoding += b"," + value.lower() if self.content_encoding else value.lower()
                kept.append(line)
            elif kind == _ACCEPT:
                kept.append(b"%b: %b" % (name, _readable_codings(value)))
            elif kind == _TRANSFER:
                if self.chunked or value.lower() != b"chunked":
                    self.bad = refused(400, "ambiguous_framing", "Transfer-Encoding may only be `chunked`, once.")
                self.chunked = True
            elif kind == _EXPECT:
                self.expects_continue = value.lower() == b"100-continue"
                if not self.expects_continue:
                    self.bad = refused(400, "expectation_unknown", "Expect may only be `100-continue`.")
            elif kind == _UPGRADE:
                upgrade = value.lower()
        if connection and connection not in (b"keep-alive", b"close"):
            named = {token.strip() for token in connection.split(b",")}
            kept = [line for line in kept if line.partition(b":")[0].lower() not in named]
        self.websocket = upgrade == b"websocket" and b"upgrade" in connection
        kept.append(b"")
        self.kept = b"\r\n".join(kept)
        if hosts != 1:
            self.bad = refused(400, "host_missing", "exactly one Host header is needed.")
        elif len(lines) > MAX_HEADERS:
            self.bad = refused(431, "head_too_large", f"it has more than {MAX_HEADERS} headers.")

    def _carrier(self, name: bytes, value: bytes) -> None:
        if name == b"authorization":
            scheme, _, value = value.partition(b" ")
            value = value.strip()
            if scheme.lower() != b"bearer":
                value = b"\x00"  # never a token, and not the same as one
        if self.token and value != self.token:
            self.ambiguous = True
        self.token = value or b"\x00"


def _kind(name: bytes) -> int:
    """Classify a name not seen before, in this spelling."""
    lower = name.lower()
    kind = _KIND.get(lower)
    if kind is None:
        # An underscore becomes a dash in many a server, and so another header.
        kind = _DROP if lower.startswith(_DROPPED_PREFIXES) or b"_" in lower else _KEPT
    if len(_KIND) < _KIND_CACHE_SIZE and len(name) < 64:
        _KIND[name] = kind
    return kind


def _readable_codings(value: bytes) -> bytes:
    """Accept-Encoding without the codings that a usage count could not be read from."""
    codings = [coding.strip() for coding in value.split(b",")]
    allowed = [c for c in codings if c.partition(b";")[0].strip().lower() in (b"gzip", b"deflate", b"identity")]
    return b", ".join(allowed) or b"identity"


_ACCEPT_LINE = re.compile(rb"(?im)^accept-encoding:[^\r]*\r\n")


def uncompressed(kept: bytes) -> bytes:
    """Header lines that ask for an answer without a content coding."""
    return _ACCEPT_LINE.sub(b"", kept) + b"Accept-Encoding: identity\r\n"


def head_refusal(words: list[bytes]) -> Refusal | None:
    """What is wrong with a request line that the parser let pass.

    Args:
        words: method, target and version.
    """
    if len(words) != 3 or words[2] != b"HTTP/1.1":
        return refused(505, "http_version", "only HTTP/1.1 is spoken here.")
    if words[0] == b"CONNECT" or not _TARGET.match(words[1]):
        return refused(400, "target_form", "the request target must be a path.")
    return None
