from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from choir.sandbox.memory.actor import memory_actor
from choir.sandbox.memory.http_api import MAX_BODY, PREFIX, MemoryApi


def ask(path: str, *requests: tuple[str, str, bytes]) -> list[tuple[int, Any]]:
    async def one(api: MemoryApi, method: str, route: str, body: bytes) -> tuple[int, Any]:
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
        events = [{"type": "http.request", "body": part, "more_body": at == 0} for at, part in enumerate(parts)]
        sent: list[Any] = []

        async def receive() -> Any:
            return events.pop(0)

        async def send(event: Any) -> None:
            sent.append(event)

        await api({"type": "http", "method": method, "path": PREFIX + route}, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])

    async def main() -> list[tuple[int, Any]]:
        actor = memory_actor(path)
        actor.start()
        try:
            return [await one(MemoryApi(actor), *each) for each in requests]
        finally:
            await actor.stop()

    return asyncio.run(main())


def post(route: str, **body: Any) -> tuple[str, str, bytes]:
    return "POST", route, json.dumps(body).encode()


def test_remember_and_recall(path: str) -> None:
    draft = {"collection": "user_inputs", "content": "likes green tea", "thread": "t"}
    answers = ask(
        path,
        post("ingest", draft=draft),
        post("ingest_batch", drafts=[draft, {"collection": "user_inputs", "content": "with milk", "thread": "t"}]),
        post("search", collection="user_inputs", query="tea", k=1),
        post("context_snapshot", query="tea"),
        post("context_pack", objective="tea", token_budget=50),
        post("stats"),
        ("POST", "check", b""),
        post("forget", before=1e10),
    )
    assert [status for status, _ in answers] == [200] * 8
    results = [body["result"] for _, body in answers]
    assert results[1][0] == {"item_id": results[0]["item_id"], "duplicate": True}
    assert results[2][0]["item"]["content"] == "likes green tea"
    assert results[4]["tokens"] <= 50
    assert results[5]["items"]["user_inputs"] == 2
    assert results[7] == 2


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (post("nothing"), 404, "unknown_route"),
        (("GET", "search", b""), 405, "bad_method"),
        (post("search", collection="nothing", query="x"), 400, "unknown_collection"),
        (post("search", collection="user_inputs"), 400, "bad_request"),
        (post("search", collection="user_inputs", query="x", limit=3), 400, "bad_request"),
        (post("search", collection="user_inputs", query=5), 400, "bad_request"),
        (post("expand", item_ids=["x"]), 400, "unknown_item"),
        (("POST", "search", b"\xff"), 400, "bad_request"),
        (("POST", "search", b"[]"), 400, "bad_request"),
        (("POST", "search", b" " * (MAX_BODY + 1)), 413, "body_too_long"),
    ],
)
def test_refusals(path: str, request_: tuple[str, str, bytes], status: int, reason: str) -> None:
    [(got, body)] = ask(path, request_)
    assert (got, body["error"]["reason"]) == (status, reason)
    assert body["error"]["message"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"before": 1e308}'])
def test_hostile_bodies_are_refused(path: str, body: bytes) -> None:
    assert [status for status, _ in ask(path, *[("POST", "forget", body)] * 10)] == [400] * 10
