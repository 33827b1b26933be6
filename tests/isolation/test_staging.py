from __future__ import annotations

from pathlib import Path

import pytest

from choir.errors import IsolationError
from choir.isolation import staging


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = [str(tmp_path / name) for name in ("missing", "first", "second")]
    for path in found[1:]:
        Path(path).mkdir()
    monkeypatch.setattr(staging, "STAGES", tuple(found))
    return found


def test_the_first_that_is_there(folders: list[str]) -> None:
    assert staging.stage_folder(("/usr/lib/x.py",)) == folders[1]


def test_never_over_the_code_that_goes_on(folders: list[str], tmp_path: Path) -> None:
    code = Path(folders[1]) / "clone" / "staging.py"
    assert staging.stage_folder((str(code),)) == folders[2]
    link = tmp_path / "link"
    link.symlink_to(folders[1])
    assert staging.stage_folder((str(link / "x.py"),)) == folders[2]


def test_nowhere(folders: list[str]) -> None:
    with pytest.raises(IsolationError) as caught:
        staging.stage_folder(tuple(f"{folder}/x.py" for folder in folders))
    assert caught.value.reason == "no_stage"
