from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from choir.app.caller import Caller


def test_who_is_listed_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def unlisted(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unlisted)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    caller = Caller.of(Path("/srv/project"), {"environment": {}}, lambda sentence: None)
    assert (caller.user, caller.home) == (str(os.geteuid()), Path("/"))
    caller = Caller.of(Path("/srv/project"), {"environment": {"USER": "ann", "HOME": "/srv"}}, lambda sentence: None)
    assert (caller.user, caller.home) == ("ann", Path("/srv"))
