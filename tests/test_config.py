from __future__ import annotations

from pathlib import Path

import pytest

from choir import config
from choir.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "choir.toml"
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_known_providers_need_no_file() -> None:
    loaded = config.load()
    assert loaded.path is None
    known = (
        "openai anthropic google mistral aws-bedrock azure openrouter groq xai deepseek zai kimi ollama "
        "together fireworks "
        "tavily brave exa local"
    )
    assert set(config.known_providers()) == set(known.split())
    # azure has no address of its own and ollama is asked for by name.
    assert set(known.split()) - set(loaded.providers) == {"azure", "ollama"}


def test_nothing_is_read_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "choir.toml").write_text("[limits]\nrequests_per_minute = 1\n")
    (work / ".env").write_text("OPENAI_API_KEY=x\n")
    monkeypatch.chdir(work)
    loaded = config.load()
    assert loaded.path is None
    assert loaded.env_file == tmp_path / "config" / "choir" / ".env"


def test_five_lines_add_a_provider(tmp_path: Path) -> None:
    loaded = config.load(
        write(
            tmp_path,
            """
[providers.ours]
like = "openai"
base_url = "https://llm.example.org/v1"
key = "file:/etc/choir/ours.key"
models = ["large"]
""",
        )
    )
    ours = loaded.providers["ours"]
    assert ours.carrier == "Authorization: Bearer {key}"
    assert "POST /chat/completions" in ours.allow
    assert ours.models == ("large",)
    assert ours.environment == {}
    assert ours.named


def test_a_known_one_is_overridden_or_switched_off(tmp_path: Path) -> None:
    text = (
        '[providers.openai]\nbase_url = "http://127.0.0.1:9"\n[providers.groq]\nenabled = false\n[providers.ollama]\n'
    )
    loaded = config.load(write(tmp_path, text))
    assert loaded.providers["openai"].base_url == "http://127.0.0.1:9"
    assert loaded.providers["openai"].keys == ("env:OPENAI_API_KEY",)
    assert "groq" not in loaded.providers
    assert "ollama" in loaded.providers


BAD = [
    ("[limits\n", "config_malformed", ":1:8"),
    ("a = 1\nb = \n", "config_malformed", ":2:5"),
    ("[limits]\nrequests_per_minute = 1\n requests = 2\n", "config_invalid", ":3:2: unknown key `requests`"),
    ("[limits]\nrequests_per_minute = 'many'\n", "config_invalid", ":2:1: Expected `int`, got `str`"),
    ("[limit]\n", "config_invalid", ":1:1: unknown key `limit`"),
    ("[providers.openai]\nkye = 'env:X'\n", "config_invalid", ":2:1: unknown key `kye`"),
    ("[providers.x]\nbase_url = 'http://x'\n", "config_invalid", ":1:1: unknown provider `x`"),
    ("[providers.x]\nlike = 'nobody'\n", "config_invalid", ":2:1: unknown provider `nobody`"),
    ("[providers.x]\nlike = 'openai'\n", "config_invalid", ":1:1: provider `x` needs `base_url`"),
    ("[providers.openai]\nbase_url = 'http://user:pw@x/'\n", "config_invalid", ":2:1"),
    ("[providers.openai]\nbase_url = 'ftp://x/'\n", "config_invalid", ":2:1"),
    ("[providers.openai]\nallow = ['/x']\n", "config_invalid", ":2:1"),
    ("[providers.openai]\ncarrier = 'Bearer'\n", "config_invalid", ":2:1"),
    ("[providers.OpenAI]\nlike = 'openai'\nbase_url = 'http://x'\n", "config_invalid", ":1:1"),
    ("[hypervisor]\nport = 70000\n", "config_invalid", ":2:1"),
    ("[providers.openai]\nkey = 'env:A'\nkeys = ['env:B']\n", "config_invalid", ":3:1: give `key` or `keys`"),
    ("[providers.openai]\nkeys = ['env:B', 'env:B']\n", "config_invalid", ":2:1: a key is there twice"),
    ("[providers.openai]\n\nkeys = ['env:B', 'B']\n", "config_invalid", ":3:1: a key is a reference"),
    ("[providers.openai]\ncircuit_failures = -1\n", "config_invalid", ":2:1: circuit_failures must not"),
    ("[limits]\nrequests_per_minute = -1\n", "config_invalid", ":2:1: `requests_per_minute` must not"),
    ("[limits]\nusd_per_day = inf\n", "config_invalid", ":2:1: `usd_per_day` must not"),
    ("[prices]\n'x/*' = {}\n'y/*' = { input = 'much' }\n", "config_invalid", ":3:1: Expected `float`"),
    ("[users.ann]\nmodels = ['openai/*']\n[users.bob]\nmodels = 3\n", "config_invalid", ":4:1: Expected `array"),
    ('[users.ann]\n[users."b.o.b"]\nmodel = 3\n', "config_invalid", ":3:1: unknown key `model`"),
    ("[users.ann]\nproviders = ['opnai']\n", "config_invalid", ":2:1: unknown provider `opnai`"),
    ("[users.ann]\ndeny_providers = ['opnai']\n", "config_invalid", ":2:1: unknown provider `opnai`"),
    ("[users.ann]\nmodels = ['gpt-5']\n", "config_invalid", ":2:1: `gpt-5` is not a pattern"),
    ("[users.ann]\ndeny_models = ['opnai/*']\n", "config_invalid", ":2:1: `opnai/*` is not a pattern"),
    ("[users.ann.limits]\nusd_per_day = -1\n", "config_invalid", ":2:1: `usd_per_day` must not"),
    ("[users.ann]\nlimits = { usd_per_day = 'no' }\n", "config_invalid", ":2:1: Invalid enum value 'no'"),
    ("[telemetry]\notlp_endpoint = 'collector:4318'\n", "config_invalid", ":2:1: otlp_endpoint is an http(s) URL"),
]


@pytest.mark.parametrize(("text", "reason", "position"), BAD)
def test_what_is_wrong_and_where(tmp_path: Path, text: str, reason: str, position: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.reason == reason
    assert f"{path}{position}" in caught.value.message


def test_a_key_written_into_the_file_is_refused_and_not_repeated(tmp_path: Path) -> None:
    secret = "sk-" + "x" * 40
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, f"[providers.openai]\nkey = '{secret}'\n"))
    assert secret not in caught.value.message
    assert "reference" in caught.value.message


def test_a_named_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "none.toml")
    assert caught.value.reason == "config_missing"


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "choir.toml"
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.reason == "config_malformed"


def test_several_keys(tmp_path: Path) -> None:
    text = "[providers.openai]\nkeys = ['env:A', 'file:/b']\n[providers.ours]\nlike = 'openai'\nbase_url = 'http://x'\n"
    loaded = config.load(write(tmp_path, text))
    assert loaded.providers["openai"].keys == ("env:A", "file:/b")
    assert loaded.providers["ours"].keys == ()
    assert loaded.providers["anthropic"].keys == ("env:ANTHROPIC_API_KEY",)


def test_limits_of_a_user(tmp_path: Path) -> None:
    text = """
[limits]
usd_per_day = 5.0
tokens_per_minute = 1000
[users.ann.limits]
requests_per_minute = 7
usd_per_day = "none"
usd_per_month = 9
"""
    loaded = config.load(write(tmp_path, text))
    assert loaded.limits_of("bob") is loaded.limits
    assert loaded.limits_of("ann") == config.Limits(requests_per_minute=7, tokens_per_minute=1000, usd_per_month=9.0)
