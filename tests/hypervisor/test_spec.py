from __future__ import annotations

from pathlib import Path

import pytest

from choir.errors import StartError
from choir.hypervisor.spec import host_label, make_home


@pytest.mark.parametrize(
    ("user", "label"),
    [
        ("ada", "ada-live"),
        ("Ada Lovelace", "ada-lovelace-live"),
        ("a_b.c@d", "a-b-c-d-live"),
        ("ÄÖ", "user-live"),
        ("x" * 80, "x" * 40 + "-live"),
        ("-", "user-live"),
    ],
)
def test_host_label(user: str, label: str) -> None:
    assert host_label(user, "live", ()) == label


def test_host_labels_do_not_collide() -> None:
    assert host_label("a.b", "live", ("a-b-live", "a-b-2-live")) == "a-b-3-live"


def test_make_home_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError) as caught:
        make_home(tmp_path / "file" / "home", None)
    assert caught.value.reason == "home_unusable"
