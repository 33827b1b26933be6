from __future__ import annotations

from pathlib import Path

import pytest

from choir import config as configuration
from choir.app.audit import files
from choir.paths import State


@pytest.mark.parametrize(
    ("folder", "file", "what"),
    [
        (0o755, 0o600, ""),
        (0o755, 0o644, "read"),
        (0o755, 0o666, "write"),
        (0o750, 0o666, ""),
        (0o711, 0o604, "read"),
        (0o777, 0o600, "write"),
        (0o1777, 0o600, ""),
    ],
)
def test_what_others_may(tmp_path: Path, folder: int, file: int, what: str) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    path = tmp_path / "file"
    path.touch()
    path.chmod(file)
    tmp_path.chmod(folder)
    assert files.exposed(path) == what
    assert files.exposed(tmp_path / "nothing") == ""


def test_an_open_state_folder_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    state = State(tmp_path / "s").prepare()
    state.token_key.write_bytes(b"k" * 32)
    state.token_key.chmod(0o604)
    config = configuration.load(None)
    assert files.private(state, config).ok
    for folder in (tmp_path, state.root):
        folder.chmod(0o755)
    finding = files.private(state, config)
    assert not finding.ok
    assert "token.key (read)" in finding.came_back


def test_keys_in_files_of_their_own_that_are_open_are_red(tmp_path: Path) -> None:
    for parent in [*list(tmp_path.parents)[:2], tmp_path]:
        parent.chmod(0o755)
    state = State(tmp_path / "s").prepare()
    state.token_key.touch(0o600)
    keys = tmp_path / "keys"
    keys.mkdir()
    (tmp_path / "choir.toml").write_text(
        f'[providers.openai]\nkeys = ["file:{tmp_path}/one.key", "file:{tmp_path}/two.key"]\n'
    )
    config = configuration.load(tmp_path / "choir.toml")
    paths = [tmp_path / "one.key", tmp_path / "two.key", keys / "providers.env"]
    for path in paths:
        path.touch(0o600)
    assert files.private(state, config).ok
    for path in paths:
        path.chmod(0o604)
        finding = files.private(state, config)
        path.chmod(0o600)
        assert not finding.ok
        assert f"{path.name} (read)" in finding.came_back


def test_a_configuration_in_a_folder_that_everybody_may_write_is_red(tmp_path: Path) -> None:
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    state = State(tmp_path / "s").prepare()
    state.token_key.touch(0o600)
    (tmp_path / "choir.toml").touch(0o644)
    config = configuration.load(tmp_path / "choir.toml")
    tmp_path.chmod(0o755)
    assert files.private(state, config).ok
    tmp_path.chmod(0o777)
    assert "choir.toml (write)" in files.private(state, config).came_back


def test_code_that_everybody_may_write_is_red(tmp_path: Path) -> None:
    for parent in [*list(tmp_path.parents)[:2], tmp_path]:
        parent.chmod(0o755)
    folder = tmp_path / "lib/choir"
    folder.mkdir(parents=True)
    (folder / "main.py").touch(0o644)
    (folder / "link.py").symlink_to("main.py")  # links are 0777 and mean nothing
    (tmp_path / ".lock").touch()
    (tmp_path / ".lock").chmod(0o666)  # as uv leaves it in an environment
    assert files.code(tmp_path).ok
    for path, mode in ((folder / "main.py", 0o646), (folder, 0o757), (tmp_path, 0o757)):
        before = path.stat().st_mode & 0o7777
        path.chmod(mode)
        finding = files.code(tmp_path)
        path.chmod(before)
        assert (finding.ok, finding.layer) == (False, "host files")
        assert str(path) in finding.came_back
    tmp_path.chmod(0o700)
    (folder / "main.py").chmod(0o666)
    assert files.code(tmp_path).ok, "nobody else gets there"
