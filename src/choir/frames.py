"""One direction of a WebSocket (RFC 6455, section 5) as it passes: where frames begin and end. Pure.

What messages say is for the two ends; here they pass as they come, as long as they may. Control frames are taken out:
they are between neighbours. No extension is agreed on, so a frame holds what it says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MESSAGES = (CONTINUATION, TEXT, BINARY)
LONGEST_CONTROL = 125
LARGEST_HEAD = 14
PROTOCOL_ERROR = 1002
TOO_BIG = 1009

_FINAL = 0x80
_MASKED = 0x80


@dataclass(frozen=True, slots=True)
class Control:
    """A close, ping or pong; ``content`` is plain."""

    opcode: int
    content: bytes


class BadFrames(Exception):  # noqa: N818 - a verdict on the other side
    """What came is not what RFC 6455 allows there, or longer than allowed; ``code`` is the close code that says so."""

    before: list[bytes | Control]
    """What may go on before it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Frames:
    """Feed it what comes; it gives what may go on, in order.

    Args:
        masked: whether its frames come from a client, which masks them.
        max_bytes: of a message.
    """

    __slots__ = ("_head_bytes", "_held", "_left", "_mask", "_max_bytes", "_message")

    def __init__(self, masked: bool, max_bytes: int) -> None:
        self._mask = _MASKED if masked else 0
        self._head_bytes = 6 if masked else 2
        self._max_bytes = max_bytes
        self._held = b""
        """A frame's head that is not whole, or a control frame that is not."""
        self._left = 0
        """Bytes to come of the frame that is passing."""
        self._message = -1
        """Bytes so far of a message of several frames; -1 between messages."""

    @property
    def between(self) -> bool:
        """Whether what has passed ends where a frame does: there another may be put in."""
        return not self._left

    def feed(self, data: bytes) -> list[bytes | Control]:
        """Bytes are frames of messages, or pieces of them, as they came.

        Raises:
            BadFrames: nothing after this can be understood.
        """
        return [data] if self.is_small_message(data) else self._follow(data)

    def is_small_message(self, data: bytes) -> bool:
        """Whether ``data``, which comes next, is one small message, whole and alone: as a key press is, and its echo.
        Then it need not be fed."""
        return (
            not self._left
            and not self._held
            and self._message < 0
            and len(data) > 1
            and data[0] in (_FINAL | TEXT, _FINAL | BINARY)
            and (length := data[1] ^ self._mask) <= LONGEST_CONTROL
            and length + self._head_bytes == len(data)
        )

    def _follow(self, data: bytes) -> list[bytes | Control]:
        if self._held:
            data, self._held = self._held + data, b""
        found: list[bytes | Control] = []
        begin = at = 0  # data[begin:at] may pass
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            try:
                frame = self._frame(data, at)
            except BadFrames as bad:
                bad.before = [*found, data[begin:at]]
                raise
            if frame is None:
                self._held = data[at:]
                break
            opcode, head, length = frame
            if opcode in MESSAGES:
                at += head
                self._left = length
                continue
            if begin < at:
                found.append(data[begin:at])
            begin = at + head + length
            found.append(Control(opcode, self._plain(data, at + head, begin)))
            at = begin
        if begin < at:
            found.append(data[begin:at])
        return found

    def _frame(self, data: bytes, at: int) -> tuple[int, int, int] | None:
        """(opcode, bytes of its head, bytes of its content) of the frame at ``at``; None when more is needed."""
        if len(data) < at + 2:
            return None
        opcode, final = data[at] & 0x0F, data[at] & _FINAL
        length = data[at + 1] & 0x7F
        if data[at] & 0x70 or data[at + 1] & _MASKED != self._mask:
            raise BadFrames(PROTOCOL_ERROR)
        if opcode in (CLOSE, PING, PONG):
            if length > LONGEST_CONTROL or not final:
                raise BadFrames(PROTOCOL_ERROR)
            return (opcode, self._head_bytes, length) if len(data) >= at + self._head_bytes + length else None
        if opcode not in MESSAGES or (opcode == CONTINUATION) == (self._message < 0):
            raise BadFrames(PROTOCOL_ERROR)  # a message begins within another, or goes on that never began
        wide = {126: 2, 127: 8}.get(length, 0)
        head = self._head_bytes + wide
        if len(data) < at + head:
            return None
        if wide:
            length = int.from_bytes(data[at + 2 : at + 2 + wide], "big")
        size = max(self._message, 0) + length
        if size > self._max_bytes:
            raise BadFrames(TOO_BIG)
        self._message = -1 if final else size
        return opcode, head, length

    def _plain(self, data: bytes, begin: int, end: int) -> bytes:
        content = data[begin:end]
        return masked(content, data[begin - 4 : begin]) if self._mask else content


def masked(content: bytes, key: bytes) -> bytes:
    """``content`` with the mask put on or taken off (RFC 6455, section 5.3)."""
    size = len(content)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(content, "big") ^ int.from_bytes(mask, "big")).to_bytes(size, "big")


def message_frame(opcode: int, content: bytes) -> bytes:
    """A whole message from a server, in one frame."""
    size = len(content)
    if size <= LONGEST_CONTROL:
        return bytes((_FINAL | opcode, size)) + content
    if size < 1 << 16:
        return bytes((_FINAL | opcode, 126)) + size.to_bytes(2, "big") + content
    return bytes((_FINAL | opcode, 127)) + size.to_bytes(8, "big") + content


def control_frame(opcode: int, content: bytes, to_server: bool) -> bytes:
    """A whole control frame; what a client sends is masked."""
    head = bytes((_FINAL | opcode, len(content) | (_MASKED if to_server else 0)))
    if not to_server:
        return head + content
    key = os.urandom(4)
    return head + key + masked(content, key)
