from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from choir.isolation import begin
from choir.isolation.host import inspect


@pytest.mark.parametrize("change", ["text", "time"])
def test_old_bytecode_of_the_first_process_is_made_anew(tmp_path: Path, change: str) -> None:
    """It cannot write any itself, and would compile its modules at each start."""
    for name in begin._FIRST_PROCESS:
        path = tmp_path / "choir" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one = 1\n")
    host = inspect()._replace(source=str(tmp_path))
    init = tmp_path / "choir" / "sandbox" / "init.py"
    compiled = Path(importlib.util.cache_from_source(str(init)))
    begin.precompile.__wrapped__(host)
    first = compiled.read_bytes()
    begin.precompile.__wrapped__(host)
    assert compiled.read_bytes() == first
    if change == "text":
        init.write_text("two = 22\n")
    else:
        os.utime(init, (1, 1))
    begin.precompile.__wrapped__(host)
    assert compiled.read_bytes() != first
