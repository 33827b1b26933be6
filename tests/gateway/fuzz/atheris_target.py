"""Coverage-guided search for what the gateway and h11 read differently: ``scripts/test-long`` runs it.

    python tests/gateway/fuzz/atheris_target.py request|response [libFuzzer's options] [CORPUS]

Needs atheris, in an environment of its own that also sees Choir and its packages.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

with atheris.instrument_imports(include=["choir.gateway", "h11"]):
    from tests.gateway.fuzz.differential import ANSWERS, CUT, REQUESTS, Pair


def main() -> None:
    side = sys.argv.pop(1)
    corpus = next((Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")), None)
    if corpus is not None:
        corpus.mkdir(parents=True, exist_ok=True)
        seeds = (*REQUESTS, *(CUT.join([request] * 3) for request in REQUESTS)) if side == "request" else ANSWERS
        for number, seed in enumerate(seeds):
            (corpus / f"seed{number}").write_bytes(seed)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder))
        target = pair.request if side == "request" else pair.response

        def one_input(data: bytes) -> None:
            target(data)

        atheris.Setup(sys.argv, one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
