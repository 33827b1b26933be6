"""``choir run -- true`` beside ``bwrap … true``: ``python bench/sandbox/cli.py [ROUNDS]``.

Rounds in turn, so that a busy machine hits all alike; medians and least in milliseconds, and ratios to
``bwrap … python -c pass``
of the same run. With ``choir up`` running and without.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from run import bare

CHOIR = Path(sys.executable).parent / "choir"


def run(state: str, project: str) -> None:
    environment = {"HOME": project, "PATH": os.environ["PATH"], "CHOIR_STATE": state}
    subprocess.run([CHOIR, "run", "--", "true"], cwd=f"{project}/work", env=environment, check=True)


def main(rounds: int) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="choir-") as folder:
        os.mkdir(f"{folder}/work")
        environment = {"HOME": folder, "PATH": os.environ["PATH"], "CHOIR_STATE": f"{folder}/up"}
        up = subprocess.Popen(
            [CHOIR, "up", "--port", "0"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert up.stdout is not None
        while "isolation" not in up.stdout.readline():
            assert up.poll() is None, up.stdout.read()
        cases = {
            "bwrap … true": lambda: bare("true"),
            "bwrap … python -c pass": lambda: bare(sys.executable, "-c", "pass"),
            "choir run -- true, choir up running": lambda: run(f"{folder}/up", folder),
            "choir run -- true, alone": lambda: run(f"{folder}/alone", folder),
        }
        try:
            for number in range(rounds + 1):
                for name, case in cases.items():
                    began = time.perf_counter()
                    case()
                    if number:  # the first is to warm up
                        times[name].append((time.perf_counter() - began) * 1000)
        finally:
            up.terminate()
            up.wait()
            up.stdout.close()
    reference, best = statistics.median(times["bwrap … python -c pass"]), min(times["bwrap … python -c pass"])
    for name, values in times.items():
        middle, least = statistics.median(values), min(values)
        print(f"{name:38} {middle:7.1f} ms {middle / reference:6.2f} ×   least {least:7.1f} ms {least / best:6.2f} ×")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
