"""The smallest agent: asks a model through the openai SDK. It holds no key; inside a sandbox none is needed.

choir run -- python examples/agent.py "What is the capital of France?"
"""

import sys

import openai

question = " ".join(sys.argv[1:]) or "What is the capital of France?"

# Choir sets OPENAI_BASE_URL and a short-lived token that is worth nothing outside this sandbox.
client = openai.OpenAI()
model = client.models.list().data[0].id
stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question}], stream=True)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
