"""A short soak of the whole system, with kills; ``bench/soak/run.py`` is the long one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "bench/soak/run.py"


@pytest.mark.long
def test_twenty_seconds_of_everything_with_kills() -> None:
    done = subprocess.run(
        [sys.executable, RUN, "--minutes", "0.35", "--people", "2", "--every", "2", "--no-local"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "held"
