"""The same through the anthropic SDK.

choir run -- python examples/agent_anthropic.py "What is the capital of France?"
"""

import os
import sys

import anthropic

question = " ".join(sys.argv[1:]) or "What is the capital of France?"

# Choir sets ANTHROPIC_BASE_URL and a short-lived token that is worth nothing outside this sandbox.
client = anthropic.Anthropic()
# The local model takes any name; with a key of Anthropic's, name one of its models.
model = os.environ.get("MODEL", "SmolLM2-135M")
with client.messages.stream(model=model, max_tokens=200, messages=[{"role": "user", "content": question}]) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
