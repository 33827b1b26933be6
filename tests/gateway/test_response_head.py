from __future__ import annotations

from choir.gateway.response_head import ResponseHead


def test_response_list() -> None:
    head = ResponseHead(
        200,
        b"Content-Type: application/json\r\nContent-Length: 12\r\nSet-Cookie: a\r\nOpenAI-Organization: o\r\n"
        b"openai-processing-ms: 5\r\nanthropic-ratelimit-requests-limit: 9\r\nanthropic-organization-id: o\r\n"
        b"Location: http://evil\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\nX-Powered-By: x\r\n"
        b"X-Amzn-Bedrock-Input-Token-Count: 7\r\nX-Amzn-Bedrock-Output-Token-Count: 8\r\nx-request-id: SECRET-1\r\n",
        (b"OTHER", b"SECRET"),
    )
    assert head.kept == (
        b"Content-Type: application/json\r\nopenai-processing-ms: 5\r\nanthropic-ratelimit-requests-limit: 9\r\n"
        b"X-Amzn-Bedrock-Input-Token-Count: 7\r\nX-Amzn-Bedrock-Output-Token-Count: 8\r\n"
    )
    assert (head.length, head.chunked, head.input_tokens, head.output_tokens) == (12, False, 7, 8)
    assert not ResponseHead(200, b"Transfer-Encoding: chunked\r\n").bad
    for lines in (b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked\r\n" * 2):
        assert ResponseHead(200, lines).bad
