from __future__ import annotations

import pytest

from choir.hypervisor.people.words import label, whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("007", 7),
        ("", 20),
        ("-1", 20),
        ("\u00b2", 20),
        ("\u0663", 20),
        ("9" * 5000, 20),
        (" 7", 20),
        ("1e3", 20),
    ],
)
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text, 20) == number


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  Key  of\nmine ", "Key of mine"),
        ("Schl\u00fcssel \U0001f511", "Schl\u00fcssel \U0001f511"),
        ("a\x1b[2Jb\x00", "a [2Jb"),
        ("x\u202egnp", "x gnp"),
        ("\u200b\ufeff", "none"),
        ("a" * 100, "a" * 60),
    ],
)
def test_labels(text: str, name: str) -> None:
    assert label(text, "none") == name
