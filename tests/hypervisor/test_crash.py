from __future__ import annotations

from choir import tokens
from choir.hypervisor.crash import failure_of, redact

from .fakes import exited


def test_redact() -> None:
    token = tokens.sign(b"k" * 32, "b1")
    assert token not in redact(f"x {token} y\n")
    assert redact("a\tb\r\n\x1b[1;31mred\x1b[0m\x00") == "a\tb\nred"


def test_failure_of_a_plain_exit_says_how() -> None:
    assert "exit code 3" in failure_of(exited(3)).message
    assert "signal 9" in failure_of(exited(None, 9)).message
