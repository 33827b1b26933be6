"""The google-genai SDK, unmodified: everything from the environment."""

import json

from google import genai

asked = {"model": "gemini-2.5-flash", "contents": "What is the capital of France?"}
said = {}

for name in ("v1beta", "v1"):
    client = genai.Client(http_options=genai.types.HttpOptions(api_version=name))
    said[f"{name} generate"] = client.models.generate_content(**asked).text
    said[f"{name} stream"] = "".join(part.text for part in client.models.generate_content_stream(**asked))
    said[f"{name} count"] = client.models.count_tokens(**asked).total_tokens

client = genai.Client()
said["default"] = client.models.generate_content(**asked).text

print(json.dumps(said))
