from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.storage.people import People
from choir.storage.registry import Registry


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    """With the users ada, an admin, and ben."""
    registry = Registry(tmp_path / "registry.db")
    people = People(registry.database)
    people.add_user("ada", True, 1.0)
    people.add_user("ben", False, 2.0)
    yield people
    registry.close()
