from __future__ import annotations

import pytest

from choir import config, contract, inside, tokens

ALL = config.known_providers()


def enabled(*names: str) -> list[config.Provider]:
    loaded = config._resolve(
        config.File(providers={name: config.ProviderEntry(base_url="http://x") for name in ("azure", "ollama")}),
        None,
        "",
    )
    return [loaded.providers[name] for name in names]


@pytest.mark.parametrize(
    ("names", "openai", "anthropic"),
    [
        (["local"], "local/v1", "local"),
        (["openai", "local"], "openai", "local"),
        (["local", "anthropic"], "local/v1", "anthropic"),
        (["groq", "local"], "groq/openai/v1", "local"),
        (["groq", "openai", "anthropic"], "openai", "anthropic"),
        (["mistral"], "mistral/v1", None),
        (["tavily"], None, None),
    ],
)
def test_whose_api_the_sdks_are_pointed_at(names: list[str], openai: str | None, anthropic: str | None) -> None:
    environment = inside.provider_environment(enabled(*names), "T")
    base = inside.GATEWAY_ORIGIN + "/provider/v1/"
    assert environment.get("OPENAI_BASE_URL") == (openai and base + openai)
    assert environment.get("ANTHROPIC_BASE_URL") == (anthropic and base + anthropic)
    assert environment.get("OPENAI_API_KEY") == (openai and "T")


def test_every_key_in_a_sandbox_is_the_token() -> None:
    token = tokens.sign(tokens.new_key(), "s")
    environment = inside.provider_environment(enabled(*(name for name in ALL)), token)
    keys = {name: value for name, value in environment.items() if "KEY" in name or "TOKEN" in name}
    assert len(keys) >= 15
    assert set(keys.values()) == {token}
    urls = {value for name, value in environment.items() if "URL" in name or "ENDPOINT" in name}
    origins = (inside.GATEWAY_ORIGIN, inside.GATEWAY_TLS_ORIGIN)
    assert all(url.startswith(tuple(f"{origin}/provider/v1/" for origin in origins)) for url in urls)


def test_only_what_insists_on_https_is_sent_there() -> None:
    environment = inside.provider_environment(enabled(*ALL), "T")
    over_tls = {name for name, value in environment.items() if value.startswith("https:")}
    assert over_tls == {"AWS_ENDPOINT_URL_BEDROCK_RUNTIME"}
    assert inside.wants_tls(enabled("openai", "aws-bedrock"))
    assert not inside.wants_tls(enabled(*(name for name in ALL if name != "aws-bedrock")))


def test_no_client_finds_two_keys_for_one_thing() -> None:
    environment = inside.provider_environment(enabled(*ALL), "T")
    assert "GEMINI_API_KEY" in environment
    assert "GOOGLE_API_KEY" not in environment, "google-genai warns when it finds both"


def test_the_record_has_a_fixed_set_of_fields() -> None:
    assert contract.UsageRecord.__struct_fields__[:8] == (
        "ts", "request_id", "sandbox_id", "user_id", "provider", "model", "route", "status",
    )  # fmt: skip
