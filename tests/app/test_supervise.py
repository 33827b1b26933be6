from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from choir import config as configuration
from choir.app.supervise import banner
from choir.config import Config
from choir.paths import State

ISOLATION = "bubblewrap 0.11 · user+pid+net namespaces · no network · seccomp 50 rules · landlock ABI 7 · 512 processes"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "choir.toml"
    path.write_text("")
    return configuration.load(path)


def shown(config: Config, *enabled: str, isolation: str = ISOLATION, host: str | None = "127.0.0.1") -> list[str]:
    providers = [{"name": name, "enabled": name in enabled} for name in {**config.providers, **dict.fromkeys(enabled)}]
    answer: dict[str, Any] = {"login_url": "http://localhost:7000/login?once=x", "isolation": isolation}
    return banner({**answer, "providers": providers}, 1.94, State(Path("/s")), config, host).splitlines()


def test_what_matters_is_said_and_fits(config: Config) -> None:
    lines = shown(config, "local")
    assert lines[1].split() == ["desktop", "http://localhost:7000/login?once=x"]
    assert lines[3] == "  listens    127.0.0.1, for this machine only"
    assert lines[4] == "  providers  local (SmolLM2 135M, on this machine); no provider key yet:"
    assert lines[5] == f"             put one into {config.env_file}"
    assert lines[-1] == "  isolation  bubblewrap 0.11 · no network (more: choir doctor)"
    many = shown(config, *(f"provider-{number}" for number in range(20)))
    assert max(map(len, many)) <= 80
    assert "no provider key yet" not in " ".join(many)


def test_what_a_person_must_know_is_not_left_out(config: Config) -> None:
    assert "  listens    0.0.0.0, for whoever reaches this machine" in shown(config, host="0.0.0.0")
    assert not any("listens" in line for line in shown(config, host=None)), "systemd's socket: its unit says where"
    assert shown(config, isolation="process: NO ISOLATION at all")[-1] == "  isolation  process: NO ISOLATION at all"
    assert "none; no provider key yet" in " ".join(shown(config))
