from __future__ import annotations

import os
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another")
def test_files_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o600)
    os.chown(path, 12345, 0)
    with pytest.raises(ConfigError, match="12345") as raised:
        read_env_file(path)
    assert raised.value.reason == "env_file_owner"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(ConfigError):  # systemd's are root's or the unit's user's
        read_env_file(path)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert read_env_file(path) == {"A": "1"}
    os.chown(path, 0, 0)
    path.chmod(0o640)
    assert read_env_file(path) == {"A": "1"}
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o640)
    os.chown(key, 23456, 0)
    credentials = Credentials(Config(path=tmp_path / "choir.toml"), {}, {})
    with pytest.raises(ConfigError) as raised:
        credentials.keys(provider(f"file:{key}"))
    assert raised.value.reason == "key_file_owner"


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    credentials = Credentials(Config(path=tmp_path / "choir.toml"), {}, {})
    key = tmp_path / "key"
    key.write_bytes(b"\xffsk")
    key.chmod(0o600)
    with pytest.raises(Unresolved, match="not UTF-8") as raised:
        credentials.keys(provider(f"file:{key}"))
    assert raised.value.reason == "key_file_unreadable"
    assert "\xff" not in str(raised.value)
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    with pytest.raises(Unresolved, match="Is a directory") as raised:
        credentials.keys(provider(f"file:{folder}"))
    assert raised.value.reason == "key_file_unreadable"
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(Unresolved, match="not a regular file"):
        credentials.keys(provider(f"file:{tmp_path}/pipe"))
    with pytest.raises(Unresolved, match="no key in"):
        credentials.keys(provider(f"file:{key}/none"))
    path = tmp_path / ".env"
    path.write_bytes(b"A=\xff\n")
    path.chmod(0o600)
    with pytest.raises(Unresolved) as raised:
        read_env_file(path)
    assert raised.value.reason == "env_file_unreadable"
    credentials = Credentials(Config(path=tmp_path / "choir.toml"), {"A": "handed-over"}, {})
    assert only(credentials, "env:A") == "handed-over"
    with pytest.raises(Unresolved, match="not UTF-8"):
        credentials.keys(provider("env:B"))
    long = tmp_path / "long"
    long.write_bytes(b"A=1\n" * 300_000)
    long.chmod(0o600)
    with pytest.raises(Unresolved, match="longer"):
        read_env_file(long)
