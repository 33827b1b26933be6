from __future__ import annotations

import os
from pathlib import Path

import pytest

from choir import config
from choir.app import secrets
from choir.errors import StartError
from choir.places import clean_environment


def test_only_what_a_provider_names_is_handed_over() -> None:
    environment = {"OPENAI_API_KEY": "a", "GROQ_API_KEY": "", "AWS_SECRET_ACCESS_KEY": "b", "HOME": "/"}
    assert secrets.environment_secrets(config.Config(path=None), environment) == {}
    assert secrets.environment_secrets(config.load(), environment) == {"OPENAI_API_KEY": "a"}


def test_a_clean_environment_has_no_key() -> None:
    environment = {"OPENAI_API_KEY": "a", "PATH": "/bin", "LD_PRELOAD": "x", "PYTHONPATH": "y"}
    assert clean_environment(environment) == {"PATH": "/bin"}


def test_a_stored_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = secrets.stored_key(path)
    assert len(first) == 32
    assert secrets.stored_key(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_a_readable_or_damaged_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    path.chmod(0o644)
    with pytest.raises(StartError) as caught:
        secrets.stored_key(path)
    assert caught.value.reason == "key_unsafe"
    path.chmod(0o600)
    with pytest.raises(StartError) as caught:
        secrets.stored_key(path)
    assert caught.value.reason == "key_damaged"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError) as caught:
        secrets.stored_key(path)
    assert caught.value.reason == "state_unwritable"
