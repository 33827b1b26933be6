from __future__ import annotations

import pytest

from choir.config import Provider
from choir.gateway.inspection import inspect
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
