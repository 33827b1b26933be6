"""The openai SDK's Azure client, unmodified: endpoint, version and key from the environment."""

import json

import openai

client = openai.AzureOpenAI()
question = [{"role": "user", "content": "What is the capital of France?"}]
said = {}

said["chat"] = client.chat.completions.create(model="my-deployment", messages=question).choices[0].message.content
chunks = list(client.chat.completions.create(model="my-deployment", messages=question, stream=True))
said["chat stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
said["embedding"] = client.embeddings.create(model="my-deployment", input="Paris").data[0].embedding

print(json.dumps(said))
