"""The binary event stream, as botocore itself reads it."""

from __future__ import annotations

import itertools

import botocore.session
import pytest
from botocore.eventstream import ChecksumMismatch, EventStream, EventStreamBuffer
from botocore.exceptions import EventStreamError
from botocore.parsers import EventStreamJSONParser
from hypothesis import given
from hypothesis import strategies as st

from choir.gateway.event_stream import Messages, exception_message, message
from choir.gateway.refusals import refused, upstream_failed

SERVICE = botocore.session.get_session().get_service_model("bedrock-runtime")
OPERATIONS = (("ConverseStream", "stream"), ("InvokeModelWithResponseStream", "body"))


def test_botocore_reads_what_is_encoded() -> None:
    reader = EventStreamBuffer()
    reader.add_data(message({":event-type": "chunk", ":message-type": "event"}, b'{"a": "\xc3\xa9"}') * 2)
    for _ in range(2):
        event = reader.next()
        assert event.headers == {":event-type": "chunk", ":message-type": "event"}
        assert event.payload == b'{"a": "\xc3\xa9"}'


def test_botocore_notices_a_changed_byte() -> None:
    damaged = bytearray(message({"a": "b"}, b"payload"))
    damaged[-6] ^= 1
    reader = EventStreamBuffer()
    reader.add_data(bytes(damaged))
    with pytest.raises(ChecksumMismatch):
        reader.next()


class Raw:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self) -> list[bytes]:
        return [self.data]

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("operation", "member"), OPERATIONS)
@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (upstream_failed(502, "reset", "The provider bedrock broke off its answer."), "modelStreamErrorException"),
        (upstream_failed(504, "idle_timeout", "The provider bedrock fell silent."), "modelStreamErrorException"),
        (refused(503, "gateway_stopping", "the gateway is being stopped."), "serviceUnavailableException"),
    ],
)
def test_boto_raises_the_exception_of_a_broken_stream(operation: str, member: str, refusal: object, code: str) -> None:
    shape = SERVICE.operation_model(operation).output_shape.members[member]
    assert code in shape.members, "a name that Bedrock's own model knows"
    stream = EventStream(Raw(exception_message(refusal, "req-1")), shape, EventStreamJSONParser(), operation)  # type: ignore[arg-type]
    with pytest.raises(EventStreamError) as raised:
        list(stream)
    assert raised.value.response["Error"]["Code"] == code
    assert raised.value.response["Error"]["Message"] == refusal.message  # type: ignore[attr-defined]


@given(
    st.lists(st.binary(max_size=40), max_size=5).map(lambda payloads: [message({"a": "b"}, each) for each in payloads]),
    st.lists(st.integers(0, 400)),
)
def test_ends_of_messages_are_found_however_it_is_cut(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    ends = {0}
    for each in stream:
        ends.add(max(ends) + len(each))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    messages = Messages()
    for start, end in itertools.pairwise(places):
        messages.feed(data[start:end])
        assert messages.whole == (end in ends)


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_anything_can_be_fed(pieces: list[bytes]) -> None:
    messages = Messages()
    for piece in pieces:
        messages.feed(piece)


def test_a_length_that_cannot_be_never_ends() -> None:
    messages = Messages()
    messages.feed(b"\x00\x00\x00\x00")
    assert not messages.whole
