from __future__ import annotations

import subprocess
import sys
from pathlib import Path

AT_ONCE = """
import sys
from pathlib import Path
from choir.app.alone import Gateway
for _ in range(30):
    Gateway(Path(sys.argv[1])).stop()
print("ended")
"""


def test_a_gateway_that_was_just_forked_is_ended(tmp_path: Path) -> None:
    """Its client may be gone before it leads a process group of its own."""
    done = subprocess.run([sys.executable, "-c", AT_ONCE, tmp_path / "log"], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ended\n", "")
