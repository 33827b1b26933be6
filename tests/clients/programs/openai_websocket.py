"""The openai SDK's responses API over a WebSocket, unmodified: everything from the environment."""

import json

import openai

with openai.OpenAI().responses.connect() as connection:
    connection.response.create(model="gpt-5", input="The capital of France?")
    for event in connection:
        if event.type == "response.completed":
            print(json.dumps({"text": event.response.output_text}))
            break
