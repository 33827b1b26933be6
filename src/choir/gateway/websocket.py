"""The messages of one direction of a WebSocket (RFC 6455), read as they pass (pure). No extension is agreed on, so a
frame holds what it says."""

from __future__ import annotations

from dataclasses import dataclass

from choir.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, control_frame, masked, message_frame

POLICY_VIOLATION = 1008
"""Status of a close frame (RFC 6455, 7.4.1)."""
_MAX_REASON = 123  # bytes; a control frame holds 125
_MAX_FRAMING = 16 * 1024
"""Bytes of frame heads in a message, beyond the bytes of its content."""


class BadFrames(Exception):  # noqa: N818 - a verdict on the other side
    """What came is not what RFC 6455 allows there, or longer than allowed."""

    before: list[Message]
    """What was whole before it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message, or one control frame, which may come between the frames of a message."""

    raw: bytes
    """Its frames as they came."""
    opcode: int
    text: bytes
    """Its content, plain."""


class Reader:
    """Feed it what comes; it gives what is whole."""

    __slots__ = ("_buffer", "_frames", "_masked", "_max_bytes", "_opcode", "_text")

    def __init__(self, masked: bool, max_bytes: int) -> None:
        """
        Args:
            masked: whether its frames come from a client, which masks them.
            max_bytes: of a message.
        """
        self._masked = masked
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._frames = bytearray()
        """Of the message under way, as they came, and below plain."""
        self._text = bytearray()
        self._opcode = 0

    @property
    def waiting(self) -> int:
        """Bytes held until their message is whole."""
        return len(self._buffer) + len(self._frames)

    @property
    def begun(self) -> int | None:
        """Bytes of a frame that is not whole; None between the frames of one message."""
        return None if self._frames else len(self._buffer)

    def feed(self, data: bytes) -> list[Message]:
        """
        Raises:
            BadFrames: nothing after this can be understood.
        """
        buffer = self._buffer
        buffer += data
        found: list[Message] = []
        at = 0
        while True:
            try:
                frame = self._frame(buffer, at)
            except BadFrames as bad:
                bad.before = found
                raise
            if frame is None:
                break
            start, end = frame
            raw, text = bytes(buffer[at:end]), self._plain(buffer, at, start, end)
            at = end
            message = self._take(raw, text)
            if message is not None:
                found.append(message)
        del buffer[:at]
        return found

    def _frame(self, buffer: bytearray, at: int) -> tuple[int, int] | None:
        """Where the content of the frame at ``at`` begins and ends; None while it is not whole."""
        if len(buffer) < at + 2:
            return None
        first, second = buffer[at], buffer[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        control = opcode >= CLOSE
        if first & 0x70 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise BadFrames
        if bool(second & 0x80) != self._masked or (control and (length > 125 or not first & 0x80)):
            raise BadFrames
        if not control and (opcode == CONTINUATION) == (self._opcode == 0):
            raise BadFrames  # a message begins within another, or goes on that never began
        start = at + 2
        wide = {126: 2, 127: 8}.get(length, 0)
        if wide:
            if len(buffer) < start + wide:
                return None
            length = int.from_bytes(buffer[start : start + wide], "big")
            start += wide
        start += 4 if self._masked else 0
        if not control and len(self._text) + length > self._max_bytes:
            raise BadFrames
        if len(self._frames) - 2 * len(self._text) > _MAX_FRAMING:  # frames without content would go on for ever
            raise BadFrames
        return (start, start + length) if len(buffer) >= start + length else None

    def _plain(self, buffer: bytearray, at: int, start: int, end: int) -> bytes:
        content = bytes(buffer[start:end])
        return masked(content, bytes(buffer[start - 4 : start])) if self._masked else content

    def _take(self, raw: bytes, text: bytes) -> Message | None:
        opcode, final = raw[0] & 0x0F, raw[0] & 0x80
        if opcode >= CLOSE:
            return Message(raw, opcode, text)
        self._opcode = self._opcode or opcode
        if final and not self._frames:
            message = Message(raw, self._opcode, text)
        else:
            self._frames += raw
            self._text += text
            if not final:
                return None
            message = Message(bytes(self._frames), self._opcode, bytes(self._text))
            self._frames, self._text = bytearray(), bytearray()
        self._opcode = 0
        return message


def text_frame(text: bytes) -> bytes:
    """A message from a server."""
    return message_frame(TEXT, text)


def close_frame(status: int, reason: str) -> bytes:
    """A close from a server; ``reason`` is cut to what fits."""
    content = status.to_bytes(2, "big") + reason.encode("ascii", "replace")[:_MAX_REASON]
    return control_frame(CLOSE, content, to_server=False)


def without_extensions(header_lines: bytes) -> bytes:
    """``header_lines`` of a handshake, so that no extension (compression) can be agreed on."""
    lines = header_lines.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"sec-websocket-extensions:"))
