from __future__ import annotations

from typing import Any

import httpx2
import pytest

from choir.sandbox.agent import web


@pytest.mark.parametrize(
    ("name", "method", "path", "carrier"),
    [
        ("tavily", "POST", "/search", ("authorization", "Bearer T")),
        ("exa", "POST", "/search", ("x-api-key", "T")),
        ("brave", "GET", "/res/v1/web/search?q=what+now&count=3", ("x-subscription-token", "T")),
    ],
)
def test_each_providers_request(name: str, method: str, path: str, carrier: tuple[str, str]) -> None:
    request = web.request(httpx2.AsyncClient(), name, f"http://gateway/{name}", "T", "what now", 3)
    assert (request.method, str(request.url)) == (method, f"http://gateway/{name}{path}")
    assert request.headers[carrier[0]] == carrier[1]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("tavily", {"results": [{"title": "A", "url": "http://a", "content": "text"}]}),
        ("exa", {"results": [{"title": "A", "url": "http://a", "text": "text"}]}),
        ("brave", {"web": {"results": [{"title": "A", "url": "http://a", "description": "text"}]}}),
    ],
)
def test_each_providers_answer(name: str, body: dict[str, Any]) -> None:
    assert web.rendered(web.found(name, body)) == "A\nhttp://a\ntext"
    assert web.rendered(web.found(name, {})) == "[nothing found]"
