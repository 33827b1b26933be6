from __future__ import annotations

import msgspec
import pytest

from choir.config import Config, Limits, Provider, load
from choir.gateway.admission import Denied, Settings, decide
from choir.gateway.inspection import inspect
from choir.gateway.prices import PriceTable
from choir.gateway.request_head import RequestHead
from choir.gateway.routing import Table


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("name", ["generationConfig", "generation_config"])
def test_what_is_refused_does_not_depend_on_the_limits(name: str, bounded: bool) -> None:
    provider = Provider(
        name="g", base_url="https://x", speaks=("google",), allow=("POST /v1/models/*:generateContent",)
    )
    match = Table([provider]).match("POST", b"/provider/v1/g/v1/models/m:generateContent")
    for value, outcome in (
        (b'{"maxOutputTokens":1,"maxOutputTokens":9}', "refused:body_undecodable"),
        (b'{"maxOutputTokens":1,"maxOutputT\\u006fkens":9}', "refused:body_undecodable"),
        (b"[]", "refused:body_undecodable"),
        (b'{"maxOutputTokens":1}', None),
        (b"null", None),
    ):
        found = inspect(match, b'{"%b":%b}' % (name.encode(), value), b"", 1000, bounded).refusal
        assert (found and found.outcome) == outcome


@pytest.mark.parametrize(
    ("models", "bounded", "body", "outcome"),
    [
        (("a", "b"), False, b'{"model":"a","models":["a","dear"]}', "refused:fallback_models_denied"),
        (("a", "b"), False, b'{"model":"dear","models":["a"]}', "refused:model_not_allowed"),
        (("a", "b"), False, b'{"model":"a"}', None),
        ((), True, b'{"model":"a","models":["dear"],"max_tokens":1}', "refused:fallback_models_denied"),
        ((), False, b'{"model":"a","models":["dear"]}', None),
    ],
)
def test_fallback_models_are_no_way_around_a_list(
    models: tuple[str, ...], bounded: bool, body: bytes, outcome: str | None
) -> None:
    provider = Provider(
        name="o", base_url="https://x", speaks=("openai",), allow=("POST /chat/completions",), models=models
    )
    match = Table([provider]).match("POST", b"/provider/v1/o/chat/completions")
    found = inspect(match, body, b"", 1000, bounded)
    assert (found.refusal and found.refusal.outcome) == outcome


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Provider]:
    path = tmp_path_factory.mktemp("known") / "choir.toml"
    path.write_text(
        '[providers.azure]\nbase_url = "https://x"\n[providers.mine]\nlike = "openrouter"\nbase_url = "https://x"\n'
    )
    return load(path).providers


@pytest.mark.parametrize(
    ("name", "path", "body", "denied"),
    [
        ("openrouter", "/chat/completions", b'{"model":"a/b:online"}', True),
        ("openrouter", "/chat/completions", b'{"model":"a/b:Online "}', True),
        ("openrouter", "/chat/completions", b'{"model":"a/b","models":["a/c","a/b:free:online"]}', True),
        ("openrouter", "/chat/completions", b'{"model":"a/b:free","models":["a/c"]}', False),
        ("openrouter", "/completions", b'{"model":"a/b:online","prompt":"x"}', True),
        ("openrouter", "/completions", b'{"model":"a/b","prompt":"x","plugins":[{"id":"web"}]}', True),
        ("openrouter", "/completions", b'{"model":"a/b","prompt":"x","stream":true}', False),
        ("openrouter", "/chat/completions", b'{"model":"perplexity/sonar"}', False),
        ("openrouter", "/messages", b'{"model":"a/b:online"}', True),
        ("mine", "/chat/completions", b'{"model":"a/b:online"}', True),
        ("groq", "/openai/v1/chat/completions", b'{"model":"compound-beta"}', True),
        ("groq", "/openai/v1/chat/completions", b'{"model":"groq/compound-mini"}', True),
        ("groq", "/openai/v1/chat/completions", b'{"model":"llama-3.3-70b-versatile"}', False),
        ("openai", "/chat/completions", b'{"model":"gpt-4o-mini-search-preview-2025-03-11"}', True),
        ("openai", "/chat/completions", b'{"model":"gpt-5-search-api"}', True),
        ("openai", "/responses", b'{"model":"o4-mini-deep-research"}', True),
        ("openai", "/responses", b'{"model":"gpt-5"}', False),
        ("azure", "/openai/deployments/o3-deep-research/chat/completions", b"{}", True),
        ("azure", "/openai/v1/responses", b'{"model":"o3-deep-research"}', True),
    ],
)
def test_models_that_search_by_name(
    known: dict[str, Provider], name: str, path: str, body: bytes, denied: bool
) -> None:
    for names, expected in (((), denied), (("web_search", "plugins"), False), (("*",), False), (("code",), denied)):
        provider = msgspec.structs.replace(known[name], allow_tools=names)
        settings = Settings(Config(path=None), Table([provider]), {name: None}, PriceTable({}, {}))  # type: ignore[dict-item]
        head = RequestHead(b"Host: h\r\nContent-Type: application/json\r\n")
        target = f"/provider/v1/{name}{path}".encode()
        decided = decide(settings, Limits(), None, "POST", target, head)
        if isinstance(decided, Denied):
            found = decided.refusal
        else:
            assert decided.needs_body
            found = inspect(decided.match, body, b"", 1000, False).refusal  # type: ignore[assignment]
        assert (found and found.outcome) == ("refused:provider_tool_denied" if expected else None)


@pytest.mark.parametrize(
    ("member", "value", "dearer"),
    [
        ("service_tier", b'"priority"', True),
        ("service_tier", b'"prior\\u0069ty"', True),
        ("service_tier", b'"performance"', True),
        ("service_tier", b'{"type":"priority"}', True),
        ("service_tier", b'"flex"', False),
        ("service_tier", b'"auto"', False),
        ("service_tier", b'"standard_only"', False),
        ("service_tier", b"null", False),
        ("serviceTier", b'"priority"', True),
        ("generationConfig", b'{"serviceTier":"priority"}', True),
        ("speed", b'"fast"', True),
        ("speed", b'"standard"', False),
        ("inference_geo", b'"us"', True),
        ("inference_geo", b'"global"', False),
    ],
)
def test_what_asks_for_more_than_the_plain_price(member: str, value: bytes, dearer: bool) -> None:
    provider = Provider(name="p", base_url="https://x", allow=("POST /**", "POST /m/*:generateContent"))
    path = b"m/x:generateContent" if member == "generationConfig" else b"chat/completions"
    match = Table([provider]).match("POST", b"/provider/v1/p/" + path)
    body = b'{"model":"m","%b":%b}' % (member.encode(), value)
    assert inspect(match, body, b"", 1000, True).dearer == (member if dearer else None)
    assert inspect(match, body, b"", 1000, False).refusal is None
