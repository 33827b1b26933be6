"""Requests that no strict reader takes, by grammar and by mutation, and the oracle that says so.

The oracle is RFC 9112 read strictly (and RFC 9110 for field values), apart from any parser the gateway uses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Literal

Verdict = Literal["valid", "refused", "malformed", "incomplete"]
"""``refused``: well formed, but of a kind that is never relayed. ``incomplete``: more bytes could make it whole."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"(%b) ([!-~]+) HTTP/([0-9]\.[0-9])\Z" % _TOKEN)
_FIELD = re.compile(rb"(%b):[ \t]*([\t -~\x80-\xff]*?)[ \t]*\Z" % _TOKEN)
_SIZE = re.compile(rb"([0-9A-Fa-f]+)((?:[ \t]*;[\t -~\x80-\xff]*)?)\Z")
_MAX = 1 << 64


def verdict(data: bytes) -> Verdict:
    """What a strict reader makes of the first message in ``data``."""
    data = data.lstrip(b"\r\n")
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return "incomplete"
    line, *lines = head.split(b"\r\n")
    request = _LINE.match(line)
    if request is None:
        return "malformed"
    fields: dict[bytes, list[bytes]] = {}
    for text in lines:
        field = _FIELD.match(text)
        if field is None:
            return "malformed"
        fields.setdefault(field[1].lower(), []).append(field[2])
    lengths, codings = fields.get(b"content-length", []), fields.get(b"transfer-encoding", [])
    if len(fields.get(b"host", [])) != 1 or len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        return "malformed"
    if codings and codings[0].lower() != b"chunked":
        return "malformed"
    if lengths and (not re.fullmatch(rb"[0-9]+", lengths[0]) or int(lengths[0]) >= _MAX):
        return "malformed"
    if request[1] == b"CONNECT" or not request[2].startswith(b"/") or request[3] != b"1.1":
        return "refused"
    if b"upgrade" in fields or b"expect" in fields:
        return "refused" if fields.get(b"upgrade", [b"websocket"])[0].lower() != b"websocket" else "valid"
    if codings:
        return _chunked(body)
    return "valid" if not lengths or len(body) >= int(lengths[0]) else "incomplete"


def _chunked(body: bytes) -> Verdict:
    while True:
        line, found, body = body.partition(b"\r\n")
        if not found:
            return "malformed" if b"\n" in line else "incomplete"
        size = _SIZE.match(line)
        if size is None or int(size[1], 16) >= _MAX:
            return "malformed"
        count = int(size[1], 16)
        if count == 0:
            break
        if len(body) < count + 2:
            return "incomplete"
        if body[count : count + 2] != b"\r\n":
            return "malformed"
        body = body[count + 2 :]
    while True:
        line, found, body = body.partition(b"\r\n")
        if not found:
            return "incomplete"
        if not line:
            return "valid"
        if _FIELD.match(line) is None:
            return "malformed"


_GATHERED = b"POST /provider/v1/mock/chat/completions"
"""A route whose bodies are read before anything is forwarded."""
BODY = b'{"model":"m1","messages":[]}'
_SPECIAL = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b";", b",", b"\x0b", b"\x7f", b"\x80"),
    *(b"\xff", b"\xc2\xa0", b"\r\n ", b"\r\n\t", b"%2f", b"%2e%2e", b"%00", b"//", b"/../", b"\\", b"HTTP/1.1", b"0"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: evil\r\n"),
    *(
        b"content-length:7\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"0\r\n\r\n",
        b"-1",
        b"+",
        b"0x",
        b"ffffffffffffffff",
    ),
)
_CODINGS = (
    *(
        b"chunked ",
        b" chunked",
        b"\tchunked",
        b"xchunked",
        b"chunked, identity",
        b"identity, chunked",
        b"gzip",
        b"\x0bchunked",
    ),
    *(
        b"chunked\x00",
        b"chunked;q=1",
        b'"chunked"',
        b"CHUNKED",
        b"chunked,",
        b",chunked",
        b"identity",
        b"",
        b"chunked\r\n x",
    ),
    *(b"chun\xc5\xbfed", b"chunked chunked", b"deflate, chunked", b"cow", b"chunked\x0c"),
)
_LENGTHS = (
    *(
        b"+5",
        b"-5",
        b"5 5",
        b"5,5",
        b"5, 6",
        b"0x5",
        b"5.0",
        b"5e0",
        b"",
        b" ",
        b"\xd9\xa5",
        b"99999999999999999999",
        b"5\x00",
    ),
    *(b"5;x", b"05 ", b"5\t6", b"1_0", b"18446744073709551617", b"5\r\n 6", b"five", b"'5'", b"5\x0b"),
)
_NAMES = (
    *(b"Transfer-Encoding", b"transfer-encoding", b"Transfer-Encoding ", b" Transfer-Encoding", b"Transfer_Encoding"),
    *(
        b"Transfer-Encoding\t",
        b"\tTransfer-Encoding",
        b"Transfer-Encod\x00ing",
        b"X\r\nTransfer-Encoding",
        b"Transfer\xadEncoding",
    ),
)
_TARGETS = (
    *(
        b"http://evil/provider/v1/mock/chat/completions",
        b"evil:443",
        b"*",
        b"//evil/x",
        b"/a b",
        b"/\x80",
        b"/a\tb",
        b"?x",
    ),
    *(
        b"provider/v1/mock/chat/completions",
        b"/provider/v1/mock/../x",
        b"https:/x",
        b"",
        b"/\x00",
        b"/\x7f",
        b"#",
        b"/a\r\nX: b",
    ),
)
_VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/1",
    b"HTTP/1.10",
    b"http/1.1",
    b"HTTP/ 1.1",
    b"",
    b"HTTQ/1.1",
)
_CHUNKS = (
    *(
        b"g\r\n",
        b"-1\r\nx\r\n",
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n",
        b"3 \r\nabc",
    ),
    *(
        b"ffffffffffffffffff\r\nabc",
        b"3;a\x00b\r\nabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"\r\n3\r\nabc\r\n",
        b"3\r\r\nabc\r\n",
        b"3,\r\n",
    ),
    *(
        b"3\r\nabc\r\n0\r\nX : y\r\n\r\n",
        b"3\r\nabc\r\n0\r\n x\r\n\r\n",
        b"3\r\nabc\r\n0\nX: y\r\n\r\n",
        b"3\r\nabcX0\r\n\r\n",
    ),
    *(
        b"3\r\nab\r\n\r\n0\r\n\r\n",
        b"0_3\r\nabc\r\n0\r\n\r\n",
        b"\xef\xbc\x93\r\nabc\r\n",
        b"3\t;\r\nabc",
        b"10000000000000000\r\nabc",
    ),
)


def mutated(chance: random.Random, message: bytes) -> bytes:
    """A message, changed in one place or a few."""
    data = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            data[at:at] = chance.choice(_SPECIAL)
        elif kind == 2:
            del data[at : at + chance.choice((1, 1, 2, 5, 30))]
        elif kind == 3:
            data[at:at] = data[at : at + chance.choice((2, 20, 100))]
        elif kind == 4:
            lines = bytes(data).split(b"\r\n")
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            data = bytearray(b"\r\n".join(lines))
        elif kind == 5:
            data[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice((1, 2, 16))))
        elif data:
            data = bytearray(bytes(data).replace(*chance.choice(((b"\r\n", b"\n"), (b"\r\n", b"\r"), (b": ", b" : ")))))
    return bytes(data)


class Requests:
    """An endless row of requests that must never reach a provider, the same for the same seed."""

    def __init__(self, token: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._auth = f"Authorization: Bearer {token}\r\n".encode()

    def __iter__(self) -> Iterator[tuple[bytes, Verdict]]:
        while True:
            data = self._smuggling() if self._random.random() < 0.4 else self._mutant()
            found = verdict(data)
            if not data.lstrip().startswith(_GATHERED):
                # Of other routes a whole head goes upstream before the body is whole: there only heads are judged.
                head, whole, _ = data.lstrip().partition(b"\r\n\r\n")
                if whole and verdict(head + whole) not in ("malformed", "refused"):
                    continue
            if found == "malformed" or found == "refused" or (found == "incomplete" and self._random.random() < 0.3):
                yield data, found

    def _head(
        self,
        *lines: bytes,
        target: bytes = b"/provider/v1/mock/chat/completions",
        version: bytes = b"HTTP/1.1",
        method: bytes = b"POST",
    ) -> bytes:
        fields = [b"Host: localhost:7070\r\n", self._auth, b"Content-Type: application/json\r\n", *lines]
        self._random.shuffle(fields)
        return b"%b %b %b\r\n%b\r\n" % (method, target, version, b"".join(fields))

    def _valid(self) -> bytes:
        """One of the requests that clients really send, and what may follow it."""
        kind = self._random.randrange(5)
        if kind == 0:
            return self._head(b"Content-Length: %d\r\n" % len(BODY)) + BODY
        if kind == 1:
            pieces = b"".join(
                b"%x\r\n%b\r\n" % (len(BODY[at : at + 9]), BODY[at : at + 9]) for at in range(0, len(BODY), 9)
            )
            return self._head(b"Transfer-Encoding: chunked\r\n") + pieces + b"0\r\n\r\n"
        if kind == 2:
            return self._head(target=b"/provider/v1/mock/models", method=b"GET")
        if kind == 3:
            length = b"Content-Length: %d\r\n" % len(BODY)
            return self._head(length, target=b"/provider/v1/mock/embeddings") + BODY
        return self._head(b"Content-Length: %d\r\nX-Stainless-Lang: python\r\nAccept: */*\r\n" % len(BODY)) + BODY

    def _mutant(self) -> bytes:
        return mutated(self._random, self._valid())

    def _smuggling(self) -> bytes:
        """Two readers, two opinions about where the request ends."""
        chance = self._random
        inner = self._head(b"Content-Length: 2\r\n") + b"{}"
        kind = chance.randrange(14)
        if kind == 0:  # CL.TE, TE.CL
            lines = [b"Content-Length: %d\r\n" % chance.choice((0, 4, 6, len(inner)))]
            lines.append(b"%b: %b\r\n" % (chance.choice(_NAMES), chance.choice((*_CODINGS, b"chunked"))))
            return self._head(*lines) + b"0\r\n\r\n" + inner
        if kind == 1:  # TE.TE
            lines = [b"Transfer-Encoding: %b\r\n" % coding for coding in (chance.choice(_CODINGS), b"chunked")]
            return self._head(*lines) + b"0\r\n\r\n" + inner
        if kind == 2:
            return self._head(b"Content-Length: %b\r\n" % chance.choice(_LENGTHS)) + b"abcde" + inner
        if kind == 3:
            return (
                self._head(b"Content-Length: 5\r\n", b"content-length: %d\r\n" % chance.randrange(9)) + b"abcde" + inner
            )
        if kind == 4:
            return self._head(b"Transfer-Encoding: chunked\r\n") + chance.choice(_CHUNKS) + inner
        if kind == 5:
            return self._head(target=chance.choice(_TARGETS)) + inner
        if kind == 6:
            return self._head(b"Content-Length: 0\r\n", version=chance.choice(_VERSIONS)) + inner
        if kind == 7:
            return (
                self._head(b"Host: evil\r\n")
                if chance.random() < 0.5
                else inner.replace(b"Host: localhost:7070\r\n", b"")
            )
        if kind == 8:
            return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(chance.randrange(256) for _ in range(20))
        if kind == 9:
            return chance.choice(
                (
                    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
                    b"GET /\r\n\r\n",
                    b"\0\r\n\r\n",
                    b"SSH-2.0-x\r\n\r\n",
                )
            )
        if kind == 10:
            name = chance.choice(
                (b"X-A", b"Content-Length", b"Connection", b"", b"X A", b"X\x80", b"(x)", b"X\0", b'"x"')
            )
            value = chance.choice(
                (b"a\rb", b"a\nb", b"a\0b", b"a\r\n b", b"\x01", b"\x7f", b"a\x0bb", b"\r", b"5\r\n\t5")
            )
            return self._head(b"%b: %b\r\n" % (name, value)) + inner
        if kind == 11:
            return self._head(b"X-Long: " + b"a" * chance.choice((66_000, 70_000, 90_000)) + b"\0\r\n")
        if kind == 12:
            method = chance.choice(
                (b"P OST", b"post", b"GET\x00", b"CONNECT", b"", b"@", b"POST\t", b"\x80", b"POST\r\n")
            )
            return self._head(b"Content-Length: 0\r\n", method=method) + inner
        return self._valid().replace(b"\r\n", chance.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n\r")))
