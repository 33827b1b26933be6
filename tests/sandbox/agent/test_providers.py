from __future__ import annotations

import pytest

from choir import config, inside
from choir.sandbox.agent.events import AgentError
from choir.sandbox.agent.providers import DEFAULT_MODELS, Choice, choices, choose, search_provider, token

ORIGIN = inside.GATEWAY_ORIGIN
BASE = f"{ORIGIN}/provider/v1"


def environment(*names: str, **models: tuple[str, ...]) -> dict[str, str]:
    loaded = config._resolve(
        config.File(
            providers={
                name: config.ProviderEntry(base_url="http://x", models=models.get(name)) for name in (*names, "azure")
            }
        ),
        None,
        "",
    )
    made = inside.provider_environment([loaded.providers[name] for name in names], "T")
    return made | inside.identity_environment("s", "u", "live", "T")


def names(found: list[Choice]) -> list[str]:
    return [each.name for each in found]


def test_what_can_be_chosen() -> None:
    found = choices(environment("local", "groq", "anthropic", "tavily", anthropic=("claude-a", "claude-b", "*-fast")))
    assert names(found) == [
        f"groq/{DEFAULT_MODELS['groq']}", "anthropic/claude-a", "anthropic/claude-b", "local/SmolLM2-135M",
    ]  # fmt: skip
    assert [each.base_url for each in found] == [
        f"{BASE}/groq/openai/v1", f"{BASE}/anthropic", f"{BASE}/anthropic", f"{BASE}/local/v1",
    ]  # fmt: skip
    assert [each.plain for each in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("model", "chosen", "family"),
    [
        ("", f"openai/{DEFAULT_MODELS['openai']}", "openai"),
        ("anthropic", f"anthropic/{DEFAULT_MODELS['anthropic']}", "anthropic"),
        ("anthropic/claude-x", "anthropic/claude-x", "anthropic"),
        (DEFAULT_MODELS["anthropic"], f"anthropic/{DEFAULT_MODELS['anthropic']}", "anthropic"),
        ("meta/llama", "openai/meta/llama", "openai"),
        ("local", "local/SmolLM2-135M", "openai"),
        ("google", f"google/{DEFAULT_MODELS['google']}", "google"),
    ],
)
def test_choose(model: str, chosen: str, family: str) -> None:
    found = choose(environment("openai", "anthropic", "google", "local"), model)
    assert (found.name, found.family) == (chosen, family)


def test_the_operators_word_comes_first() -> None:
    given = environment("openai", "anthropic") | {"CHOIR_MODEL": "anthropic/claude-x"}
    assert names(choices(given))[0] == "anthropic/claude-x"
    assert choose(given).name == "anthropic/claude-x"


@pytest.mark.parametrize("given", [{}, environment("tavily"), environment()])
def test_no_provider_is_a_sentence(given: dict[str, str]) -> None:
    assert choices(given) == []
    for model in ("", "x", "openai/x"):
        with pytest.raises(AgentError, match="No model is available"):
            choose(given, model)


def test_without_the_list_the_sdks_variables_say_it() -> None:
    found = choose({"OPENAI_BASE_URL": "http://elsewhere/v1", "OPENAI_API_KEY": "k"})
    assert found == Choice("", "openai", "", "http://elsewhere/v1")
    assert choose({"ANTHROPIC_BASE_URL": f"{BASE}/anthropic"}).name == f"anthropic/{DEFAULT_MODELS['anthropic']}"
    assert token({"OPENAI_API_KEY": "k"}, "openai") == "k"
    assert token(environment("openai"), "google") == "T"


def test_search() -> None:
    assert search_provider(environment("openai", "exa", "tavily")) == ("tavily", f"{BASE}/tavily")
    assert search_provider(environment("openai", "brave")) == ("brave", f"{BASE}/brave")
    assert search_provider(environment("openai")) is None
