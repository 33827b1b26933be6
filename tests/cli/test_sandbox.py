"""What ``choir sandbox`` prints; a real hypervisor is asked in ``tests/hypervisor/test_control.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from choir.cli import sandbox as module
from choir.cli.main import main

SANDBOX = {
    "label": "ann-live", "user": "ann", "role": "live", "state": "failed", "phase": None, "since": 0.0, "warm": False,
    "note": "", "message": "The home holds a key.", "hint": "Remove it.",
}  # fmt: skip


@pytest.mark.parametrize(("state", "code", "hint"), [("failed", 69, "Remove it."), ("ready", 0, "")])
@pytest.mark.parametrize("action", ["start", "restart"])
def test_a_sandbox_that_did_not_start(
    action: str,
    state: str,
    code: int,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Hypervisor:
        def __init__(self, _state: Any) -> None: ...
        def __enter__(self) -> Hypervisor:
            return self

        def __exit__(self, *_: object) -> None: ...
        def ask(self, _op: str, **_fields: Any) -> Any:
            return {"sandbox": {**SANDBOX, "state": state}}

    monkeypatch.setattr(module, "Hypervisor", Hypervisor)
    assert main(["sandbox", action, "--state", str(tmp_path)]) == code
    said = capsys.readouterr()
    assert "ann-live" in said.out
    assert said.err.strip() == hint
