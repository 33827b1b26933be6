from __future__ import annotations

import pytest

from choir.toml_place import place

TEXT = """
top = 1
[users.ann]
  models = ["x"]
["users" . 'b.o.b']
limits.usd = 1
'a/b*' = {}
[[list]]
a = 2
"""


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        (["top"], ":2:1"),
        (["users", "ann"], ":3:1"),
        (["users", "ann", "models"], ":4:3"),
        (["users", "ann", "gone"], ":3:1"),
        (["users", "b.o.b", "limits", "usd"], ":6:1"),
        (["users", "b.o.b", "a/b*"], ":7:1"),
        (["users", "eve"], ""),
        (["list", "a"], ":9:1"),
        (["a"], ""),
    ],
)
def test_the_innermost_key_that_is_there(keys: list[str], where: str) -> None:
    assert place(TEXT, keys) == where
