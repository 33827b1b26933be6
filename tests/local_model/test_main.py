"""The real process, the real model, the real SDKs, over the real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from choir.errors import StartError
from choir.local_model import main, weights
from choir.service import Service

pytestmark = pytest.mark.skipif(not weights.available(), reason="choir[local] is not installed")

KEY = "a-key-of-this-test"
QUESTION = {"role": "user", "content": "What is the capital of France?"}
MODULE = "choir.local_model.main"


@dataclass
class Model:
    socket: Path
    service: Service

    def http(self) -> httpx2.Client:
        return httpx2.Client(transport=httpx2.HTTPTransport(uds=str(self.socket)))

    def openai(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url="http://local/v1", api_key=key, http_client=self.http(), max_retries=0)

    def anthropic(self, key: str = KEY) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url="http://local", api_key=key, http_client=self.http(), max_retries=0)


def spawn(path: Path | str, log: Path | None = None, **more: str) -> Service:
    service = Service.spawn("local model", MODULE, log=log)
    try:
        asyncio.run(service.start({"socket": str(path), "key": KEY, **more}))
    except StartError:
        service.stop()
        raise
    return service


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("model")
    service = spawn(folder / "local.sock", folder / "log")
    yield Model(folder / "local.sock", service)
    assert service.stop() == 0


def test_is_private(model: Model) -> None:
    assert stat.S_IMODE(os.stat(model.socket).st_mode) == 0o600


def test_names_itself_and_no_path(model: Model) -> None:
    with model.openai() as client:
        listed = client.models.list()
    assert [each.id for each in listed] == [main.MODEL]
    assert weights.FILE not in listed.to_json()


def test_chat(model: Model) -> None:
    with model.openai() as client:
        answer = client.chat.completions.create(model="any", messages=[QUESTION])
    assert "Paris" in answer.choices[0].message.content
    assert answer.model == "any" or answer.model == main.MODEL
    assert answer.usage.completion_tokens > 0


def test_chat_streams(model: Model) -> None:
    with model.openai() as client:
        chunks = list(client.chat.completions.create(model="any", messages=[QUESTION], stream=True))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Paris" in "".join(texts)
    assert len([text for text in texts if text]) > 3


def test_responses(model: Model) -> None:
    with model.openai() as client:
        answer = client.responses.create(model="any", input=QUESTION["content"])
    assert "Paris" in answer.output_text


def test_messages(model: Model) -> None:
    with model.anthropic() as client:
        answer = client.messages.create(model="any", max_tokens=50, messages=[QUESTION])
    assert "Paris" in answer.content[0].text
    assert answer.usage.output_tokens > 0


def test_messages_stream(model: Model) -> None:
    with model.anthropic() as client, client.messages.stream(model="any", max_tokens=50, messages=[QUESTION]) as stream:
        texts = list(stream.text_stream)
    assert "Paris" in "".join(texts)
    assert len(texts) > 3


def test_wrong_key(model: Model) -> None:
    with model.openai("another") as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="any", messages=[QUESTION])
    with model.anthropic("another") as client, pytest.raises(anthropic.AuthenticationError):
        client.messages.create(model="any", max_tokens=5, messages=[QUESTION])


def test_says_nothing_of_calls(model: Model) -> None:
    """Whoever watches the log learns nothing of what people ask, nor the key."""
    with model.openai() as client:
        client.chat.completions.create(model="any", messages=[QUESTION], max_tokens=4)
    assert (model.socket.parent / "log").read_text() == ""


def test_ends_with_its_channel_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    service = spawn(tmp_path / "local.sock")
    model = Model(tmp_path / "local.sock", service)
    with model.openai() as client:
        story = [{"role": "user", "content": "Tell a long story."}]
        with client.chat.completions.create(model="any", messages=story, stream=True, max_tokens=4000) as stream:
            next(iter(stream))
            assert service.stop(grace=20) == 0
    assert not model.socket.exists()


def test_replaces_a_dead_socket(tmp_path: Path) -> None:
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "local.sock"))
    dead.close()
    assert spawn(tmp_path / "local.sock").stop() == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 200 + ".sock", "socket_path_too_long"),
        ("local.socket", "socket_taken"),
        ("file.sock", "socket_taken"),
        ("missing/folder.sock", "local_model_failed"),
    ],
)
def test_refuses_a_path(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file.sock").write_text("mine")
    with pytest.raises(StartError) as caught:
        spawn(tmp_path / name)
    assert caught.value.reason == reason
    assert (tmp_path / "file.sock").read_text() == "mine"


def test_longest_path(tmp_path: Path) -> None:
    """One byte under the kernel's limit is served, one over is refused, never cut."""
    fits = Path(str(tmp_path / "p").ljust(main.MAX_SOCKET_PATH - 5, "p") + ".sock")
    main.make_way(str(fits))
    with pytest.raises(StartError, match="108 bytes"):
        main.make_way(str(fits)[:-5] + "p.sock")


def test_weights_missing(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        spawn(tmp_path / "local.sock", weights=str(tmp_path / "nowhere.gguf"))
    assert caught.value.reason == "local_weights_missing"


def test_weights_broken(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(StartError) as caught:
        spawn(tmp_path / "local.sock", weights=str(tmp_path / "broken.gguf"))
    assert caught.value.reason == "local_model_failed"
