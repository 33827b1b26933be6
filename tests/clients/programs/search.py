"""Tavily, Exa and Brave over plain HTTP clients, and one of them over TLS."""

import json
import os
import urllib.request

import httpx2
import requests

query = "capital of France"
said = {}

tavily = requests.post(
    os.environ["TAVILY_API_BASE_URL"] + "/search",
    headers={"Authorization": "Bearer " + os.environ["TAVILY_API_KEY"]},
    json={"query": query},
    timeout=30,
)
said["tavily"] = tavily.json()["results"][0]["title"]

exa = httpx2.post(
    os.environ["EXA_BASE_URL"] + "/search", headers={"x-api-key": os.environ["EXA_API_KEY"]}, json={"query": query}
)
said["exa"] = exa.json()["results"][0]["title"]

brave = urllib.request.Request(
    os.environ["BRAVE_BASE_URL"] + "/res/v1/web/search?q=capital+of+France&count=1",
    headers={"X-Subscription-Token": os.environ["BRAVE_API_KEY"]},
)
with urllib.request.urlopen(brave, timeout=30) as answer:
    said["brave"] = json.load(answer)["results"][0]["title"]

# The same listener over TLS, by both names, in each client's own way to find the CA.
for host in ("127.0.0.1", "localhost"):
    url = os.environ["EXA_BASE_URL"].replace("http://127.0.0.1", f"https://{host}") + "/search"
    token = {"x-api-key": os.environ["EXA_API_KEY"]}
    said[f"httpx {host}"] = httpx2.post(url, headers=token, json={"query": query}).status_code
    said[f"requests {host}"] = requests.post(url, headers=token, json={"query": query}, timeout=30).status_code
    posted = urllib.request.Request(url, json.dumps({"query": query}).encode(), token)
    with urllib.request.urlopen(posted, timeout=30) as answer:
        said[f"urllib {host}"] = answer.status

print(json.dumps(said))
