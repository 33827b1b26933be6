"""The exporter as a process, against an OTLP/HTTP receiver of our own."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from choir.app.spans import CallSpan
from choir.app.telemetry import BATCH, Exporter
from choir.contract import UsageRecord
from choir.paths import State
from choir.service import Service
from choir.storage.ledger import Ledger

from .test_spans import RECORD

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


def records(first: int, count: int) -> list[UsageRecord]:
    return [msgspec.structs.replace(RECORD, request_id=f"r{first + n}") for n in range(count)]


class Receiver:
    def __init__(self) -> None:
        self.spans: list[object] = []
        self.resources: list[dict[str, str]] = []
        self.news = threading.Condition()
        self.refuse = False
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if receiver.refuse or self.path != "/v1/traces":
                    self.send_response(400)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    with receiver.news:
                        receiver.news.notify_all()
                    return
                request = trace_service.ExportTraceServiceRequest.FromString(body)
                with receiver.news:
                    for each in request.resource_spans:
                        found = {attr.key: attr.value.string_value for attr in each.resource.attributes}
                        receiver.resources.append(found)
                        receiver.spans += [span for scope in each.scope_spans for span in scope.spans]
                    receiver.news.notify_all()
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *ignored: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def wait(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.spans) >= count, 20), len(self.spans)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    receiver.thread.join(10)


def start(state: State, endpoint: str) -> Service:
    service = Service.spawn("telemetry", "choir.app.telemetry", log=state.root / "telemetry.log")
    assert asyncio.run(service.start({"state": str(state.root), "endpoint": endpoint})) == {"ready": True}
    return service


def test_every_record_is_a_span(receiver: Receiver, tmp_path: Path) -> None:
    state = State(tmp_path / "state").prepare()
    ledger = Ledger(state.ledger)
    ledger.append(records(0, 3))  # before it was ever started
    service = start(state, receiver.url)
    ledger.append(records(10, BATCH + 2))
    receiver.wait(BATCH + 2)
    assert service.stop() == 0
    ledger.append(records(1000, 1))
    service = start(state, receiver.url + "/")
    receiver.wait(BATCH + 3)
    assert service.stop() == 0
    spans = receiver.spans
    assert len({span.trace_id for span in spans}) == len(spans) == BATCH + 3  # type: ignore[attr-defined]
    span = spans[0]
    values = {attr.key: attr.value for attr in span.attributes}  # type: ignore[attr-defined]
    assert span.name == "generate_content gemini-x"  # type: ignore[attr-defined]
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_500_000  # type: ignore[attr-defined]
    assert values["gen_ai.usage.input_tokens"].int_value == 7
    assert values["choir.request.id"].string_value == "r10"
    assert receiver.resources[0]["service.name"] == "choir-gateway"
    assert (tmp_path / "state" / "telemetry.log").read_bytes() == b""


def test_what_is_not_taken_waits(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    ledger.append(records(0, 1))
    taken: list[str] = []
    log: list[str] = []
    away = False

    def send(spans: list[CallSpan]) -> bool:
        if not away:
            taken.extend(str(span.attributes["choir.request.id"]) for span in spans)
        return not away

    cursor = tmp_path / "cursor"
    exporter = Exporter(ledger, cursor, send, log.append)
    assert exporter.step() == 1.0
    away = True
    ledger.append(records(1, 3))
    assert [exporter.step() for _ in range(7)] == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    exporter = Exporter(ledger, cursor, send, log.append)
    exporter.step()
    away = False
    assert exporter.step() == 1.0
    assert taken == ["r1", "r2", "r3"]
    assert log == ["spans wait in the ledger: the receiver takes none"] * 2 + ["spans are sent again"]
    # An older ledger was put back.
    ledger.close()
    ledger.path.unlink()
    for rest in ("-wal", "-shm"):
        ledger.path.with_name(ledger.path.name + rest).unlink(missing_ok=True)
    ledger.append(records(100, 1))
    exporter = Exporter(ledger, cursor, send, log.append)
    ledger.append(records(101, 1))
    exporter.step()
    assert taken[3:] == ["r101"]
    ledger.close()


def test_a_receiver_that_refuses_is_told_of_once(receiver: Receiver, tmp_path: Path) -> None:
    state = State(tmp_path / "state").prepare()
    receiver.refuse = True
    service = start(state, receiver.url)
    ledger = Ledger(state.ledger)
    with receiver.news:
        ledger.append(records(0, 1))
        assert receiver.news.wait(20)
    receiver.refuse = False
    receiver.wait(1)
    assert service.stop() == 0
    ledger.close()
    log = (tmp_path / "state" / "telemetry.log").read_text().splitlines()
    assert log[:1] == ["telemetry: spans wait in the ledger: the receiver takes none"]
    assert len(log) <= 2


def test_without_the_extra_it_says_so(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from choir.app.telemetry import otlp\n"
        "from choir.errors import StartError\n"
        "try: otlp('http://h')\n"
        "except StartError as error: print(error.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "otel_missing\n"


def test_the_process_with_the_keys_does_not_import_it() -> None:
    code = "import choir.gateway.main, sys; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
