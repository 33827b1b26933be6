from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import config, inside, keyless
from choir.errors import KeylessError
from choir.tokens import new_key, sign

NAMES = files("choir").joinpath("data/credential_env_names.txt").read_text().split()
TOKEN = sign(new_key(), "01test")


def rnd(length: int, alphabet: str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))


# Built at run time, so that no scanner finds a key in this file.
SHAPES: dict[str, Callable[[], str]] = {
    "anthropic": lambda: "sk-" + "ant-api03-" + rnd(40),
    "openai project": lambda: "sk-" + "proj-" + rnd(48),
    "openai": lambda: "sk-" + rnd(48),
    "openrouter": lambda: "sk-" + "or-v1-" + rnd(64),
    "stripe": lambda: "sk_" + "live_" + rnd(24),
    "google": lambda: "AI" + "za" + rnd(35),
    "google oauth": lambda: "ya29" + "." + rnd(60),
    "aws": lambda: "AK" + "IA" + rnd(16, "ABCDEFGHIJ234567"),
    "aws session": lambda: "AS" + "IA" + rnd(16, "ABCDEFGHIJ234567"),
    "github": lambda: "gh" + "p_" + rnd(36),
    "github app": lambda: "gh" + "o_" + rnd(36),
    "github fine": lambda: "github" + "_pat_" + rnd(60),
    "gitlab": lambda: "gl" + "pat-" + rnd(20),
    "slack": lambda: "xo" + "xb-" + rnd(24, "0123456789"),
    "groq": lambda: "gs" + "k_" + rnd(52),
    "hugging face": lambda: "h" + "f_" + rnd(34),
    "npm": lambda: "np" + "m_" + rnd(36),
    "pem": lambda: "-----BEGIN " + "RSA PRIVATE KEY-----\n" + rnd(64),
    "jwt": lambda: "ey" + "J" + rnd(30) + ".ey" + "J" + rnd(60) + "." + rnd(43),
    "url": lambda: f"postgresql://ada:{rnd(16)}@db.example.org/main",
    "header": lambda: "Authorization: " + "Bearer " + rnd(32),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_name_is_caught(name: str) -> None:
    assert keyless.is_credential_name(name)
    with pytest.raises(KeylessError) as caught:
        keyless.check_environment({name: "value-" + rnd(8)})
    assert caught.value.reason == "credential_in_environment"
    assert name in caught.value.message


def test_the_rule_alone_catches_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyless, "_names", {"-"})
    missed = [name for name in NAMES if not keyless.is_credential_name(name)]
    assert len(missed) < 25, missed


@pytest.mark.parametrize(
    "name",
    [
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "MAX_THINKING_TOKENS", "TOKENIZERS_PARALLELISM", "KEYBOARD_LAYOUT", "MONKEY",
        "PATH", "PWD", "OLDPWD", "GIT_AUTHOR_NAME", "XAUTHORITY", "GIT_CONFIG_KEY_0", "OPENAI_BASE_URL",
        "SSL_CERT_FILE", "AWS_CA_BUNDLE", "AWS_REGION", "TERM_SESSION_ID", "PATTERN", "COMPATIBLE", "PASSAGE",
        "HOMEBREW_KEYRING", "SECRETARY", "COOKIECUTTER_CONFIG",
    ],
)  # fmt: skip
def test_harmless_names_are_spared(name: str) -> None:
    assert not keyless.is_credential_name(name)
    keyless.check_environment({name: "some value"})


@pytest.mark.parametrize(
    "name", ["FOO_API_KEY", "foo_api_key", "MY_SECRET", "X_TOKEN", "DB_PASSWORD", "NPM_CONFIG__AUTH"]
)
def test_unlisted_credentials_are_caught(name: str) -> None:
    with pytest.raises(KeylessError):
        keyless.check_environment({name: rnd(12)})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_API_KEY", ""),
        ("OPENAI_API_KEY", TOKEN),
        ("FOO_SECRET_ENABLED", "true"),
        ("CHOIR_PROVIDER_GATEWAY_TOKEN", TOKEN),
        ("DATABASE_URL", "sqlite:////home/choir/choir.db"),
        ("FOO_TOKEN_LIMIT", "4096"),
        ("ANTHROPIC_BASE_URL", "http://127.0.0.1:7070/provider/v1/anthropic"),
        ("PROXY", f"http://choir:{TOKEN}@127.0.0.1:7070"),
        ("NOTE", "the task-" + "a" * 40),
        ("LS_COLORS", "rs=0:di=01;34:ln=01;36:*.tar=01;31"),
    ],
)
def test_harmless_values_are_spared(name: str, value: str) -> None:
    keyless.check_environment({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://db.example.org/main"),
        ("FOO_TOKEN", "4096"),
        ("OPENAI_API_KEY", "choir-gt-"),
        ("OPENAI_API_KEY", "choir-gt-a.b"),
        ("OPENAI_API_KEY", "x" + TOKEN),
    ],
)
def test_what_only_looks_harmless_is_caught(name: str, value: str) -> None:
    with pytest.raises(KeylessError):
        keyless.check_environment({name: value})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("around", ["{}", "prefix {} suffix", '"{}"', "x={}", "{}\n"])
def test_key_shapes_are_caught_under_any_name(shape: str, around: str) -> None:
    value = around.format(SHAPES[shape]())
    with pytest.raises(KeylessError) as caught:
        keyless.check_environment({"HARMLESS": value})
    assert "HARMLESS" in caught.value.message
    assert value.strip() not in str(caught.value.as_dict())


@pytest.mark.parametrize("shape", SHAPES)
def test_redact(shape: str) -> None:
    secret = SHAPES[shape]()
    text = keyless.redact(f"before {secret} {TOKEN} after")
    body = secret.removeprefix("Authorization: ").split("@")[0]
    assert body.splitlines()[0] not in text
    assert TOKEN not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


@pytest.mark.parametrize("prefix", ["sk-ant-api03-", "sk-proj-", "sk-or-v1-", "github_pat_", "ghp_", "gsk_", "AIza"])
@pytest.mark.parametrize("before", ["x", "key9", "\\n"])
def test_a_key_right_behind_a_letter_is_redacted(prefix: str, before: str) -> None:
    secret = (prefix + secrets.token_hex(40))[: 39 if prefix == "AIza" else None]
    assert keyless.redact(f"{before}{secret} after") == f"{before}[redacted] after"


@pytest.mark.parametrize("text", ["task-" + "0a" * 20, "disk-by-id-of-the-very-long-name", "risk-assessment-" * 3])
def test_what_only_ends_like_a_keys_beginning_is_left(text: str) -> None:
    assert keyless.redact(text) == text


@given(st.text(max_size=200))
def test_redaction_leaves_nothing_key_shaped(text: str) -> None:
    assert not keyless.has_credential_shape(keyless.redact(text + SHAPES["anthropic"]() + text))


def test_what_choir_itself_sets_passes(tmp_path: Path) -> None:
    (tmp_path / "choir.toml").touch()
    providers = config.load(tmp_path / "choir.toml").providers.values()
    environment = inside.provider_environment(providers, TOKEN) | inside.identity_environment(
        "01test", "ada", "live", TOKEN
    )
    assert len(environment) > 20
    keyless.check_environment(environment)


@pytest.fixture
def process_with_a_key() -> Iterator[tuple[int, str]]:
    secret = rnd(30)
    with subprocess.Popen(["sleep", "60"], env={"SOME_API_KEY": secret}) as process:
        yield process.pid, secret
        process.kill()


def test_a_key_in_another_process(process_with_a_key: tuple[int, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pid, secret = process_with_a_key
    monkeypatch.setattr(os, "listdir", lambda path: [str(pid), "self", "net"])
    with pytest.raises(KeylessError) as caught:
        keyless.check_processes()
    assert caught.value.reason == "credential_in_process"
    assert "SOME_API_KEY" in caught.value.message
    assert str(pid) in caught.value.message
    assert secret not in str(caught.value.as_dict())


def test_descriptors() -> None:
    code = "from choir import keyless; keyless.check_descriptors()"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    with open(os.devnull) as extra:
        number = extra.fileno()
        ended = subprocess.run(
            [sys.executable, "-c", code], env=environment, pass_fds=[number], capture_output=True, text=True
        )
    assert ended.returncode == 1
    assert f"inherited descriptor {number} ({os.devnull})" in ended.stderr


def test_importing_it_is_cheap() -> None:
    """The sandbox's first process imports this and ``choir.keyfiles``: nothing costly before it is needed."""
    code = "import sys; sys.path.append(sys.argv[1]); import choir.keyfiles; print(*sys.modules)"
    source = str(Path(keyless.__file__).parent.parent)
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", code, source], capture_output=True, text=True, check=True)
    assert not {"re", "typing", "pathlib", "hashlib", "dataclasses"} & set(ended.stdout.split())
