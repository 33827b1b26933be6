from __future__ import annotations

import pytest

from choir.sandbox.database import database_path


def test_database_path() -> None:
    assert database_path("sqlite:////home/choir/.choir/choir.db") == "/home/choir/.choir/choir.db"


@pytest.mark.parametrize("wrong", ["", "sqlite:///relative", "postgresql://x/y"])
def test_no_other_database(wrong: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        database_path(wrong)
