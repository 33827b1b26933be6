from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AT_ONCE = """
import sys
from pathlib import Path

import pytest
from choir.app.alone import Gateway
for _ in range(30):
    Gateway(Path(sys.argv[1])).stop()
print("ended")
"""


def test_a_gateway_that_was_just_forked_is_ended(tmp_path: Path) -> None:
    """Its client may be gone before it leads a process group of its own."""
    done = subprocess.run([sys.executable, "-c", AT_ONCE, tmp_path / "log"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ended\n", "")


COSTLY = (
    "msgspec",
    "tomllib",
    "inspect",
    "dataclasses",
    "hashlib",
    "json",
    "socket",
    "subprocess",
    "shutil",
    "asyncio",
)


@pytest.mark.parametrize("modules", ["choir.app.alone, choir.app.alone_run", "choir.gateway.main, choir.service"])
def test_what_a_start_waits_for_is_little(modules: str) -> None:
    """Both are imported by somebody's ``choir run`` while they wait for it."""
    code = f"import sys, {modules}; print([name for name in {COSTLY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
