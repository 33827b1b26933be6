"""Encrypted files of keys, with the real age."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from choir.errors import ConfigError
from choir.gateway.credentials import read_env_file
from choir.gateway.encrypted import decrypt, is_encrypted

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="needs age")
VALUE = f"sk-{secrets.token_hex(20)}"


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "age.key"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True, timeout=30)
    path.chmod(0o600)
    monkeypatch.setenv("CHOIR_AGE_KEY_FILE", str(path))
    return path


@pytest.fixture
def encrypted(tmp_path: Path, key: Path) -> Path:
    recipient = subprocess.run(["age-keygen", "-y", key], check=True, capture_output=True, text=True, timeout=30).stdout
    path = tmp_path / "providers.env.age"
    subprocess.run(
        ["age", "--recipient", recipient.strip(), "--output", path],
        input=f"OPENAI_API_KEY={VALUE}\n",
        text=True,
        check=True,
        timeout=30,
    )
    return path


@needs_age
def test_it_is_read_like_any_other(encrypted: Path) -> None:
    encrypted.chmod(0o644)  # everybody may see it; nobody can read it
    assert VALUE.encode() not in encrypted.read_bytes()
    assert read_env_file(encrypted) == {"OPENAI_API_KEY": VALUE}


@needs_age
def test_without_the_private_key(encrypted: Path, key: Path) -> None:
    key.unlink()
    with pytest.raises(ConfigError) as caught:
        decrypt(encrypted)
    assert caught.value.reason == "age_key_missing"


@needs_age
def test_with_another_private_key(encrypted: Path, key: Path) -> None:
    key.unlink()
    subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True, timeout=30)
    key.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        decrypt(encrypted)
    assert caught.value.reason == "decrypt_failed"
    assert VALUE not in caught.value.message


@needs_age
def test_a_private_key_that_others_can_read(encrypted: Path, key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        decrypt(encrypted)
    assert caught.value.reason == "key_file_exposed"


def test_without_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "age.key").write_text("x")
    (tmp_path / "age.key").chmod(0o600)
    monkeypatch.setenv("CHOIR_AGE_KEY_FILE", str(tmp_path / "age.key"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("providers.env.age", "providers.sops.env"):
        (tmp_path / name).write_text("x")
        with pytest.raises(ConfigError) as caught:
            decrypt(tmp_path / name)
        assert caught.value.reason == "decrypt_tool_missing"


@pytest.mark.parametrize(
    ("name", "it_is"), [("a.age", True), ("a.sops.env", True), ("a.sops", True), (".env", False), ("age", False)]
)
def test_by_its_name(name: str, it_is: bool) -> None:
    assert is_encrypted(Path(name)) == it_is
    assert decrypt(Path("/nonexistent") / name) == ""
