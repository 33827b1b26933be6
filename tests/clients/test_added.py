"""A provider that the operator adds, a server of the operator's own, and what search providers do only when told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Person

OURS = """
[providers.ours]
like = "openai"
base_url = "{openai}/v1"
key = "env:K_OPENAI"
environment = {{ OURS_BASE_URL = "{{base}}", OURS_API_KEY = "{{token}}" }}
"""
LLAMA = """
[providers.llama]
like = "openai"
base_url = "{llama}/v1"
models = ["qwen3-8b"]
environment = {{ LLAMA_BASE_URL = "{{base}}" }}
"""
TAVILY = """
[providers.tavily]
base_url = "{tavily}"
key = "env:K_TAVILY"
[providers.exa]
base_url = "{exa}"
key = "env:K_EXA"
allow = ["POST /search", "POST /contents"]
[providers.local]
enabled = false
"""
PROGRAM = """
import json, os
import openai, requests

question = [{"role": "user", "content": "The capital of France?"}]

def ask(client, model):
    try:
        return client.chat.completions.create(model=model, messages=question).choices[0].message.content
    except openai.APIStatusError as error:
        return error.code

ours = openai.OpenAI(base_url=os.environ["OURS_BASE_URL"], api_key=os.environ["OURS_API_KEY"])
llama = openai.OpenAI(base_url=os.environ["LLAMA_BASE_URL"], max_retries=0)
token = {"x-api-key": os.environ["EXA_API_KEY"]}

def fetch(base, path):
    return requests.post(base + path, headers=token, json={"urls": ["x"]}, timeout=30)

print(json.dumps({
    "default": ask(openai.OpenAI(), "m"),
    "ours": ask(ours, "m"),
    "llama": ask(llama, "qwen3-8b"),
    "another model": ask(llama, "gpt-4o"),
    "models": [model.id for model in llama.models.list()],
    "extract": fetch(os.environ["TAVILY_API_BASE_URL"], "/extract").json()["error"]["reason"],
    "contents": fetch(os.environ["EXA_BASE_URL"], "/contents").status_code,
    "ca": [name for name in os.environ if "CA_" in name],
}))
"""


@pytest.fixture(scope="module")
def said(person: Person) -> dict[str, Any]:
    person.configure(OURS + LLAMA + TAVILY)
    (person.project / "added.py").write_text(PROGRAM)
    person.vendors.requests.clear()
    done = person.choir("run", "--", "python3", "added.py")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("text", [OURS, LLAMA], ids=["a provider", "a server"])
def test_five_lines_are_enough(said: dict[str, Any], text: str) -> None:
    assert len(text.strip().splitlines()) == 5


def test_a_provider_of_the_operators(said: dict[str, Any], person: Person) -> None:
    assert said["ours"] == "The capital of France is Paris."
    assert said["default"] == said["ours"], "the only one with the API: the SDK goes there by itself"
    assert all(
        request.headers["authorization"].endswith(person.vendors.keys["openai"])
        for request in person.vendors.of("openai")
    )


def test_a_server_without_a_key(said: dict[str, Any], person: Person) -> None:
    assert said["llama"] == "The capital of France is Paris."
    assert said["another model"] == "model_not_allowed"
    assert said["models"] == ["m"]
    assert not [request for request in person.vendors.of("llama") if "authorization" in request.headers]
    (record,) = [each for each in person.records() if each["provider"] == "llama" and each["model"] == "qwen3-8b"]
    assert (record["input_tokens"], record["output_tokens"]) == (19, 10)


def test_a_search_provider_fetches_a_given_page_only_when_told_to(said: dict[str, Any], person: Person) -> None:
    """A page of the caller's choosing is a way out: what stands in its address leaves."""
    assert said["extract"] == "route_not_allowed"
    assert person.vendors.of("tavily") == []
    assert said["contents"] == 404, "it reached the vendor, which does not have it here"
    assert [request.path for request in person.vendors.of("exa")] == ["/contents"]


def test_no_authority_where_no_client_wants_one(said: dict[str, Any]) -> None:
    assert said["ca"] == []
