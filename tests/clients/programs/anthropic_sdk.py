"""The anthropic SDK, unmodified: everything from the environment."""

import json

import anthropic

client = anthropic.Anthropic()
asked = {"model": "claude-sonnet-5", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
said = {}

said["messages"] = client.messages.create(max_tokens=50, **asked).content[0].text
with client.messages.stream(max_tokens=50, **asked) as stream:
    said["messages stream"] = "".join(stream.text_stream)
    said["usage"] = stream.get_final_message().usage.output_tokens
said["count_tokens"] = client.messages.count_tokens(**asked).input_tokens
# As Claude Code and older SDKs call it.
more = {"betas": ["a-beta"], "extra_query": {"beta": "true"}}
said["beta"] = client.beta.messages.create(max_tokens=50, **more, **asked).content[0].text

print(json.dumps(said))
