"""The mistralai SDK. It knows no variable for its server, so the program names it."""

import json
import os

from mistralai.client import Mistral

client = Mistral(api_key=os.environ["MISTRAL_API_KEY"], server_url=os.environ["MISTRAL_SERVER_URL"])
asked = {
    "model": "mistral-small-latest",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
}
said = {}

said["chat"] = client.chat.complete(**asked).choices[0].message.content
said["stream"] = "".join(event.data.choices[0].delta.content or "" for event in client.chat.stream(**asked))
fim = client.fim.complete(model="codestral-latest", prompt="The capital of France", suffix=".")
said["fim"] = fim.choices[0].message.content

print(json.dumps(said))
