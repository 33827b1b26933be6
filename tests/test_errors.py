from __future__ import annotations

import errno
import sqlite3

import pytest

from choir.errors import is_full


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied", "/srv/full"), False),
        (sqlite3.OperationalError("database or disk is full"), True),
        (sqlite3.DatabaseError("database disk image is malformed"), False),
    ],
)
def test_no_room_is_told_from_other_failures(error: Exception, full: bool) -> None:
    assert is_full(error) is full
