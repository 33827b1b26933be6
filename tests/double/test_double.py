"""That the double speaks the protocols as the real SDKs do, and that its front sees what it should."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import openai
import pytest

from tests.double.double import Double, provider_double
from tests.double.keyed import Recorder, recorded

KEY = "a-key-of-this-test"
QUESTION = {"role": "user", "content": "What is the capital of France?"}
WORK = {"role": "user", "content": "Write the proof."}
SHELL = {"type": "object", "properties": {"command": {"type": "string"}}}


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with provider_double(KEY) as running:
        yield running


@pytest.fixture
def front(double: Double) -> Iterator[Recorder]:
    with recorded(double.origin) as recorder:
        yield recorder


def openai_at(origin: str, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=origin + "/v1", api_key=key, max_retries=0)


def anthropic_at(origin: str, key: str = KEY) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=origin, api_key=key, max_retries=0)


def test_openai(double: Double) -> None:
    with openai_at(double.origin) as client:
        answer = client.chat.completions.create(model="m", messages=[QUESTION])
        assert "Paris" in answer.choices[0].message.content
        chunks = list(client.chat.completions.create(model="m", messages=[QUESTION], stream=True))
        assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert "Paris" in client.responses.create(model="m", input=QUESTION["content"]).output_text


def test_anthropic(double: Double) -> None:
    with anthropic_at(double.origin) as client:
        answer = client.messages.create(model="m", max_tokens=50, messages=[QUESTION])
        assert "Paris" in answer.content[0].text
        with client.messages.stream(model="m", max_tokens=50, messages=[QUESTION]) as stream:
            assert "Paris" in "".join(stream.text_stream)


def test_tool_calls(double: Double) -> None:
    tool = {"type": "function", "function": {"name": "bash", "parameters": SHELL}}
    with openai_at(double.origin) as client:
        answer = client.chat.completions.create(model="m", messages=[WORK], tools=[tool])
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "bash"
    assert "proof.txt" in json.loads(call.function.arguments)["command"]
    with anthropic_at(double.origin) as client:
        tools = [{"name": "Bash", "input_schema": SHELL}]
        answer = client.messages.create(model="m", max_tokens=50, messages=[WORK], tools=tools)
    assert answer.stop_reason == "tool_use"
    assert "proof.txt" in answer.content[-1].input["command"]


def test_refuses_another_key(double: Double) -> None:
    with openai_at(double.origin, "another") as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="m", messages=[QUESTION])
    with anthropic_at(double.origin, "another") as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(model="m", max_tokens=5, messages=[QUESTION])


def test_what_it_has_no_fixture_for_is_an_error(double: Double) -> None:
    with openai_at(double.origin) as client, pytest.raises(openai.APIStatusError):
        client.embeddings.create(model="m", input="")


def test_front_keeps_what_came(front: Recorder) -> None:
    with openai_at(front.origin) as client:
        for text in ("What is the capital of France?", "The capital of France, again?"):
            messages = [{"role": "user", "content": text}]
            list(client.chat.completions.create(model="m", messages=messages, stream=True))
    heads = front.heads()
    assert [line for line, _ in heads] == ["POST /v1/chat/completions"] * 2
    assert all(headers["authorization"] == [f"Bearer {KEY}"] for _, headers in heads)
    assert b"again?" in front.raw


def test_journal(double: Double) -> None:
    with openai_at(double.origin) as client:
        client.chat.completions.create(model="of-the-journal", messages=[QUESTION])
    assert double.journal()[-1]["body"]["model"] == "of-the-journal"
    assert double.paths()[-1] == "POST /v1/chat/completions"
    assert KEY not in json.dumps(double.journal())
