from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from choir.app.audit import web
from choir.channel import Channel, listen
from choir.config import load


class Open(http.server.BaseHTTPRequestHandler):
    """Lets everybody in, whatever they ask."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("set-cookie", "choir-7000=abc; Path=/")
        self.send_header("content-length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
        return


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Open) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("number", range(7))
def test_a_door_that_is_open_is_red(port: int, number: int) -> None:
    attempt = web.attempts(f"http://localhost:{port}", single_user=False)[number]
    finding = web.judged(attempt, f"localhost:{port}", "127.0.0.1", port)
    assert not finding.ok
    assert "status 200, with a session" in finding.came_back


def test_a_single_users_own_door_is_open_by_design() -> None:
    many, one = (web.attempts("http://localhost:7000", single) for single in (False, True))
    assert {each.name for each in many} - {each.name for each in one} == {"without a session"}


def test_behind_a_proxy_it_goes_where_the_hypervisor_says_it_listens(port: int, tmp_path: Path) -> None:
    """Not where the configuration has it: systemd's socket may be another."""

    def answers() -> None:
        served, _ = listener.accept()
        with contextlib.closing(Channel(served)) as channel:
            channel.receive()
            channel.send({"ok": True, "url": "https://choir.example.org", "address": ["0.0.0.0", port]})

    with contextlib.closing(listen(str(tmp_path / "h.sock"))) as listener:
        thread = threading.Thread(target=answers)
        thread.start()
        found = web.findings(load(None), tmp_path / "h.sock", expected=True)
        thread.join()
    assert found
    assert all("status 200" in finding.came_back for finding in found)


def test_nobody_there() -> None:
    attempt = web.attempts("http://localhost:1", single_user=False)[0]
    assert not web.judged(attempt, "localhost:1", "127.0.0.1", 1).ok
    nowhere = Path("/nowhere/hypervisor.sock")
    assert web.findings(load(None), nowhere, expected=False) == []
    (finding,) = web.findings(load(None), nowhere, expected=True, patience=0.3)
    assert (finding.ok, finding.layer) == (False, "web")
