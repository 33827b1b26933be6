"""The scrollback of a terminal: offsets only grow, memory does not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.terminal_buffer import Scrollback


@given(st.lists(st.binary(max_size=50_000), max_size=20), st.integers(1, 40_000))
def test_what_is_kept_is_the_end_of_what_was_shown(pieces: list[bytes], limit: int) -> None:
    scrollback = Scrollback(limit)
    shown = b""
    for piece in pieces:
        scrollback.append(piece)
        shown += piece
        assert scrollback.end == len(shown)
        assert scrollback.end - scrollback.start <= limit + 64 * 1024
        assert scrollback.end - scrollback.start >= min(limit, len(shown))
    kept = b""
    at = scrollback.start
    while part := scrollback.since(at, 1000):
        assert len(part) <= 1000
        kept += part
        at += len(part)
    assert kept == shown[scrollback.start :]
    assert scrollback.since(0, len(shown) + 1) == kept


def test_it_is_shown_again_from_the_beginning_of_a_line() -> None:
    scrollback = Scrollback(100)
    scrollback.append(b"short\nlines\n")
    assert scrollback.beginning() == 0
    scrollback.append(b"x" * 200_000 + b"\xc3\xa9 cut here\nwhole line\n")
    assert scrollback.start > 0
    assert scrollback.since(scrollback.beginning()) == b"whole line\n"
    scrollback.append(b"y" * 200_000)  # no line at all: all that is kept
    assert scrollback.beginning() == scrollback.start
