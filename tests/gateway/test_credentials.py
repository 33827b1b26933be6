from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from choir.config import Config, Provider
from choir.errors import ConfigError
from choir.gateway.credentials import Credentials, Unresolved, read_env_file


def provider(key: str) -> Provider:
    return Provider(name="p", base_url="http://h", keys=(key,) if key else (), carrier="x-api-key: {key}")


def only(credentials: Credentials, key: str) -> str:
    (value,) = credentials.keys(provider(key)).values()
    return value


def test_references(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=from-file\nB=only-file\n")
    (tmp_path / ".env").chmod(0o600)
    (tmp_path / "key").write_text("in-a-file\n")
    (tmp_path / "key").chmod(0o640)
    credentials = Credentials(Config(path=tmp_path / "choir.toml"), {"A": "handed-over"}, {"local": "k"})
    assert only(credentials, "env:A") == "handed-over"
    assert only(credentials, "env:B") == "only-file"
    assert only(credentials, f"file:{tmp_path}/key") == "in-a-file"
    assert only(credentials, "service:local") == "k"
    assert credentials.keys(provider("")) == {}
    for missing in ("env:C", f"file:{tmp_path}/none", "service:other"):
        with pytest.raises(Unresolved, match=missing.partition(":")[2]):
            credentials.keys(provider(missing))
    assert "handed-over" not in repr(credentials)
    with pytest.raises(TypeError):
        pickle.dumps(credentials)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("K=v", "v"),
        ("  export K = v  # comment", "v"),
        ("K='a # b'", "a # b"),
        ('K="a b" # c', "a b"),
        ("K=a#b", "a#b"),
        ("K=", ""),
        ("# c\n\nK=v", "v"),
        ("K=a\nK=v", "v"),
        ("K=a=b", "a=b"),
    ],
)
def test_env_files(tmp_path: Path, line: str, value: str) -> None:
    path = tmp_path / ".env"
    path.write_text(line + "\n")
    path.chmod(0o600)
    assert read_env_file(path) == {"K": value}


@pytest.mark.parametrize("text", ["K", "1K=v", "K='open", 'K="a"b', "K-K=v"])
def test_env_files_that_are_wrong_name_the_line_not_the_value(tmp_path: Path, text: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"A=1\n{text}secret\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r":2: not KEY=VALUE") as raised:
        read_env_file(path)
    assert "secret" not in str(raised.value)


def test_exposed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert read_env_file(path) == {}
    path.write_text("A=1\n")
    for mode, reason in ((0o640, "env_file_exposed"), (0o604, "env_file_exposed")):
        path.chmod(mode)
        with pytest.raises(ConfigError) as raised:
            read_env_file(path)
        assert raised.value.reason == reason
        assert "chmod 600" in raised.value.hint
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o644)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="everyone"):
        Credentials(Config(path=tmp_path / "choir.toml"), {}, {}).keys(provider(f"file:{key}"))


@pytest.mark.parametrize("value", ["a b", "a\nInjected: 1", "ä"])
def test_a_key_that_no_header_can_carry(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Credentials(Config(path=tmp_path / "choir.toml"), {"A": value}, {}).keys(provider("env:A"))
    assert raised.value.reason == "key_malformed"
    assert value not in str(raised.value)


def test_several_keys(tmp_path: Path) -> None:
    several = Provider(name="p", base_url="http://h", keys=("env:A", "env:GONE", "env:B"), carrier="x-api-key: {key}")
    config = Config(path=tmp_path / "choir.toml")
    found = Credentials(config, {"A": "one", "B": "two"}, {}).keys(several)
    assert list(found.items()) == [("env:A", "one"), ("env:B", "two")]
    with pytest.raises(Unresolved, match="no key in A"):
        Credentials(config, {}, {}).keys(several)
    with pytest.raises(ConfigError) as raised:
        Credentials(config, {"A": "same-key", "B": "same-key"}, {}).keys(several)
    assert raised.value.reason == "keys_same"
    assert "same-key" not in str(raised.value)
