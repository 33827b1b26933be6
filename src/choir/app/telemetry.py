"""``python -I -m choir.app.telemetry --channel-fd N``: spans of calls to an OTLP/HTTP receiver; the extra ``otel``.

A process of its own that holds no key: it reads the ledger, where the gateway puts every record, and sends what is new.
Where it is, is kept in the state folder once the receiver has taken it, so that nothing is left out while the receiver
is away. What was recorded before it was first started is not sent.

Start message: ``{"state": DIR, "endpoint": URL}``. Answer: ``{"ready": true}``.
"""

from __future__ import annotations

import logging
import os
import select
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from choir import __version__
from choir.app.spans import CallSpan, call_span
from choir.channel import Channel, ChannelClosed, Message
from choir.errors import StartError
from choir.paths import State
from choir.service import serve
from choir.storage.ledger import Ledger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

BATCH = 500  # spans
POLL_SECONDS = 1.0
LONGEST_BACK_OFF = 30.0
SEND_SECONDS = 5.0

Send = Callable[[list[CallSpan]], bool]
"""Whether the receiver took them."""


class Start(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    state: str
    endpoint: str


class Exporter:
    """From the ledger to ``send``."""

    def __init__(self, ledger: Ledger, cursor: Path, send: Send, log: Callable[[str], None]) -> None:
        """
        Args:
            cursor: the file that keeps how far it came.
            log: told once when the receiver stops taking spans and once when it takes them again.
        """
        self._ledger = ledger
        self._cursor = cursor
        self._send = send
        self._log = log
        self._failing = False
        self._pause = POLL_SECONDS
        self._at = self._begin()

    def step(self) -> float:
        """Send what is new; seconds until the next step."""
        try:
            while batch := self._ledger.after(self._at, BATCH):
                if not self._send([call_span(record) for _, record in batch]):
                    raise _NotTaken
                self._keep(batch[-1][0])
        except (_NotTaken, sqlite3.Error, OSError) as error:
            if not self._failing:
                self._failing = True
                why = "the receiver takes none" if isinstance(error, _NotTaken) else type(error).__name__
                self._log(f"spans wait in the ledger: {why}")
            self._pause = min(self._pause * 2, LONGEST_BACK_OFF)
            return self._pause
        if self._failing:
            self._failing = False
            self._log("spans are sent again")
        self._pause = POLL_SECONDS
        return POLL_SECONDS

    def _begin(self) -> int:
        try:
            last = self._ledger.last()
        except sqlite3.Error:
            last = 0
        try:
            kept = int(self._cursor.read_text())
        except (OSError, ValueError):
            self._keep(last)
            return last
        return min(kept, last)  # less when an older ledger was put back

    def _keep(self, seq: int) -> None:
        self._at = seq
        draft = self._cursor.with_name(self._cursor.name + ".new")
        draft.write_text(f"{seq}\n")
        os.replace(draft, self._cursor)


class _NotTaken(Exception):  # noqa: N818 - an everyday state
    pass


def otlp(endpoint: str) -> Send:
    """Sends to ``endpoint``/v1/traces.

    Raises:
        StartError: ``otel_missing``.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import SpanExportResult
        from opentelemetry.sdk.trace.id_generator import IdGenerator
        from opentelemetry.trace import SpanKind, Status, StatusCode
    except ImportError as error:
        raise StartError(
            "otel_missing",
            "telemetry.otlp_endpoint is set, and the OpenTelemetry SDK is not installed.",
            "Install choir[otel], or remove it.",
        ) from error

    class Ids(IdGenerator):
        span: CallSpan

        def generate_trace_id(self) -> int:
            return self.span.trace_id

        def generate_span_id(self) -> int:
            return self.span.span_id

    class Collector(SpanProcessor):
        def __init__(self) -> None:
            self.ended: list[ReadableSpan] = []

        def on_end(self, span: ReadableSpan) -> None:
            self.ended.append(span)

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)  # the exporter says it once, here
    ids, collector = Ids(), Collector()
    resource = Resource({"service.name": "choir-gateway", "service.version": __version__})
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(collector)
    tracer = provider.get_tracer("choir", __version__)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=SEND_SECONDS)

    def send(spans: Iterable[CallSpan]) -> bool:
        for call in spans:
            ids.span = call
            span = tracer.start_span(call.name, kind=SpanKind.CLIENT, attributes=call.attributes, start_time=call.start)
            if call.error:
                span.set_status(Status(StatusCode.ERROR))
            span.end(call.end)
        ended, collector.ended = collector.ended, []
        return exporter.export(ended) is SpanExportResult.SUCCESS

    return send


def run(channel: Channel, message: Message, descriptors: list[int]) -> None:
    """Until the channel closes."""
    start = msgspec.convert(message, Start)
    state = State(Path(start.state))
    exporter = Exporter(Ledger(state.ledger), state.root / "telemetry.cursor", otlp(start.endpoint), _log)
    channel.send({"ready": True})
    pause = 0.0
    try:
        while True:
            if select.select([channel.fileno()], [], [], pause)[0]:
                channel.receive()  # nothing is expected but the end
            pause = exporter.step()
    except ChannelClosed:
        return


def _log(line: str) -> None:
    print(f"telemetry: {line}", file=sys.stderr, flush=True)


def main() -> None:
    serve(run)


if __name__ == "__main__":
    main()
