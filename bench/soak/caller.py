"""Runs inside a sandbox, started in its terminal: calls models, and writes down every answer it received whole.

Standard library only. ``answered.txt`` gets a line ``REQUEST-ID KIND`` after the last byte, ``errors.txt`` a reason.
"""

import http.client
import json
import os
import random
import sys
import time

HOME = os.path.expanduser("~")
TOKEN = os.environ["CHOIR_PROVIDER_GATEWAY_TOKEN"]
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}


def note(name, line):
    descriptor = os.open(os.path.join(HOME, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def call(provider, stream):
    path = "/provider/v1/soak/chat/completions" if provider == "soak" else "/provider/v1/local/v1/chat/completions"
    body = {"model": "m", "max_tokens": 4, "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
    connection = http.client.HTTPConnection("127.0.0.1", 7070, timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), HEADERS)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            try:
                return "", f"{answer.status} {json.loads(data)['error']['reason']}"
            except (ValueError, KeyError, TypeError):
                return "", f"{answer.status}"
        if stream and b"data: [DONE]" not in data:
            return "", "cut stream"
        if not stream:
            json.loads(data)
        return answer.getheader("x-choir-request-id"), ""
    finally:
        connection.close()


until = time.monotonic() + float(sys.argv[1])
chance = random.Random()
while time.monotonic() < until:
    provider = "local" if sys.argv[2] == "local" and chance.random() < 0.05 else "soak"
    stream = provider == "soak" and chance.random() < 0.7
    try:
        request_id, error = call(provider, stream)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        request_id, error = "", type(problem).__name__
    if request_id:
        note("answered.txt", f"{request_id} {provider} {'stream' if stream else 'whole'}")
    else:
        note("errors.txt", error)
        time.sleep(0.1)
    time.sleep(chance.uniform(0.02, 0.15))
