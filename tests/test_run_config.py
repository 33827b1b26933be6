from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from choir import config, run_config
from choir.errors import ConfigError

FILE = """
[sandbox]
forward_env = ["EDITOR"]
read_only_paths = ["/opt/tools"]
max_memory_bytes = 1000000000

[providers.openai]
models = ["gpt-*"]
keys = ["env:ONE", "env:TWO"]

[providers.mine]
like = "openai"
base_url = "http://127.0.0.1:9/v1"
key = "file:/run/key"

[providers.anthropic]
enabled = false
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CHOIR_ENV_FILE", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config" / "choir").mkdir(parents=True)
    return tmp_path / "config" / "choir"


def check(found: config.Config, real: config.Config) -> None:
    """They say the same, as far as ``found`` goes."""
    assert found.path == real.path
    assert found.env_file == real.env_file
    assert found.key_variables == real.key_variables
    assert list(found.providers) == list(real.providers)
    pairs = [(found.sandbox, real.sandbox), *zip(found.providers.values(), real.providers.values(), strict=True)]
    for one, other in pairs:
        for field in msgspec.structs.fields(other):
            assert getattr(one, field.name) == getattr(other, field.name), field.name


@pytest.mark.parametrize("text", [None, "", FILE])
def test_it_is_the_configuration(home: Path, text: str | None) -> None:
    if text is not None:
        (home / "choir.toml").write_text(text)
    for _ in range(2):  # read, and kept
        check(run_config.load(), config.load())


def test_a_named_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(FILE)
    for _ in range(2):
        check(run_config.load(str(tmp_path / "mine.toml")), config.load(tmp_path / "mine.toml"))


def test_a_change_counts_at_once(home: Path) -> None:
    run_config.load()
    for text in (FILE, "[sandbox]\nmax_processes = 7\n"):
        (home / "choir.toml").write_text(text)
        check(run_config.load(), config.load())
    (home / "choir.toml").unlink()
    check(run_config.load(), config.load())


def test_what_is_wrong_is_said_each_time(home: Path) -> None:
    run_config.load()
    (home / "choir.toml").write_text("[sandbox]\nmax_processes = 'many'\n")
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            run_config.load()
        assert caught.value.reason == "config_invalid"


def test_kept_it_costs_no_library() -> None:
    code = "import sys; from choir import run_config; run_config.load(); print('msgspec' in sys.modules)"
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)]
    assert said == ["True\n", "False\n"]
