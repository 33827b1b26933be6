"""boto3, unmodified: region, endpoint, CA and bearer token from the environment."""

import json

import boto3
import botocore.exceptions

client = boto3.client("bedrock-runtime")
model = "anthropic.claude-3-5-sonnet-20240620-v1:0"
asked = {"modelId": model, "messages": [{"role": "user", "content": [{"text": "What is the capital of France?"}]}]}
said = {"endpoint": client.meta.endpoint_url}

said["converse"] = client.converse(**asked)["output"]["message"]["content"][0]["text"]

events = list(client.converse_stream(**asked)["stream"])
said["converse-stream"] = "".join(
    event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event
)
said["usage"] = events[-1]["metadata"]["usage"]["outputTokens"]

body = json.dumps({"prompt": "What is the capital of France?"})
said["invoke"] = json.loads(client.invoke_model(modelId=model, body=body)["body"].read())["generation"]
stream = client.invoke_model_with_response_stream(modelId=model, body=body)["body"]
said["invoke stream"] = "".join(json.loads(event["chunk"]["bytes"]).get("generation", "") for event in stream)
arn = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-3-5-sonnet-20240620-v1:0"
said["by ARN"] = client.converse(**{**asked, "modelId": arn})["output"]["message"]["content"][0]["text"]

broken = []
try:
    for event in client.converse_stream(**{**asked, "modelId": "breaks"})["stream"]:
        broken += event
except botocore.exceptions.EventStreamError as error:
    broken.append(error.response["Error"]["Code"])
    said["why"] = error.response["Error"]["Message"]
said["broken"] = broken

print(json.dumps(said))
