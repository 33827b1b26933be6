"""Web search through the gateway, by whichever search provider the operator enabled."""

from __future__ import annotations

from typing import Any

MOST_RESULTS = 10
SECONDS = 30.0
SNIPPET_CHARACTERS = 800


async def search(name: str, base_url: str, token: str, query: str, results: int) -> str:
    """Title, address and excerpt of each result, as a model reads it.

    Raises:
        RuntimeError: a sentence: what the gateway or the provider refused.
    """
    import httpx2

    count = min(max(results, 1), MOST_RESULTS)
    try:
        async with httpx2.AsyncClient(timeout=SECONDS) as client:
            answer = await client.send(request(client, name, base_url, token, query, count))
    except httpx2.HTTPError as error:
        raise RuntimeError(f"The web search did not answer ({type(error).__name__}).") from error
    try:
        body = answer.json()
    except ValueError:
        body = {}
    if answer.status_code != 200:
        said = body.get("error") if isinstance(body, dict) else None
        message = said.get("message") if isinstance(said, dict) else None
        raise RuntimeError(message or f"The web search answered with status {answer.status_code}.")
    return rendered(found(name, body))


def request(client: Any, name: str, base_url: str, token: str, query: str, count: int) -> Any:
    """Each provider's own API."""
    if name == "tavily":
        headers = {"Authorization": f"Bearer {token}"}
        return client.build_request(
            "POST", f"{base_url}/search", headers=headers, json={"query": query, "max_results": count}
        )
    if name == "exa":
        wanted = {"query": query, "numResults": count, "contents": {"text": {"maxCharacters": SNIPPET_CHARACTERS}}}
        return client.build_request("POST", f"{base_url}/search", headers={"x-api-key": token}, json=wanted)
    return client.build_request(
        "GET",
        f"{base_url}/res/v1/web/search",
        headers={"X-Subscription-Token": token},
        params={"q": query, "count": count},
    )


def found(name: str, body: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(title, address, excerpt) of each result. Pure."""
    listed = (body.get("web") or {}).get("results") if name == "brave" else body.get("results")
    excerpt = {"tavily": "content", "exa": "text", "brave": "description"}[name]
    return [(str(e.get("title") or ""), str(e.get("url") or ""), str(e.get(excerpt) or "")) for e in listed or ()]


def rendered(results: list[tuple[str, str, str]]) -> str:
    lines = [f"{title}\n{url}\n{text[:SNIPPET_CHARACTERS]}" for title, url, text in results]
    return "\n\n".join(lines) or "[nothing found]"
