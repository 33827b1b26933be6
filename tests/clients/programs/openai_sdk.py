"""The openai SDK, unmodified: everything from the environment."""

import json

import openai

client = openai.OpenAI()
question = [{"role": "user", "content": "What is the capital of France?"}]
said = {}

said["chat"] = client.chat.completions.create(model="gpt-4o", messages=question).choices[0].message.content

chunks = list(client.chat.completions.create(model="gpt-4o", messages=question, stream=True))
said["chat stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
said["chunks without a choice"] = sum(not chunk.choices for chunk in chunks)

said["responses"] = client.responses.create(model="gpt-5", input="The capital of France?").output_text
events = list(client.responses.create(model="gpt-5", input="The capital of France?", stream=True))
said["responses stream"] = events[-1].response.output_text
said["events"] = [event.type for event in events]

said["embedding"] = client.embeddings.create(model="text-embedding-3-small", input="Paris").data[0].embedding
said["models"] = [model.id for model in client.models.list()]

with client.realtime.connect(model="gpt-realtime") as connection:
    words = []
    for event in connection:
        if event.type == "session.created":
            connection.response.create()
        elif event.type == "response.output_text.delta":
            words.append(event.delta)
        elif event.type == "response.done":
            break
said["realtime"] = "".join(words)

print(json.dumps(said))
