"""The ledger's disk full, or the ledger locked: calls go on, records wait, and the operator is told."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from choir.cli.ledger_notes import ledger_notes, note
from choir.paths import State

from .conftest import StartGateway
from .harness import Double, Gateway, Sandbox, provider


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gauges(gateway: Gateway) -> dict[str, int]:
    lines = [
        line.split() for line in gateway.metrics_text().splitlines() if line.startswith("choir_") and "{" not in line
    ]
    return {name: int(value) for name, value in lines}


def ledger_status(gateway: Gateway) -> dict[str, object]:
    return gateway.ask({"op": "status"})["ledger"]  # type: ignore[no-any-return]


def usage_says(gateway: Gateway) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "choir.cli.main", "usage", "--state", str(gateway.state.root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """1 MB; root only."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder]).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def recovered(gateway: Gateway, sandbox: Sandbox, calls: int) -> None:
    """Every record is in the ledger in the end."""
    wait_for(lambda: not ledger_status(gateway)["failing"])
    wait_for(lambda: len(gateway.ledger()) == calls)
    assert gauges(gateway)["choir_ledger_failing"] == 0
    assert ledger_notes(gateway.state) == []
    assert sandbox.call().status == 200
    assert gateway.stop() == 0
    assert len(gateway.ledger()) == calls + 1
    assert b"ledger: takes records again" in gateway.log.read_bytes()


def test_a_full_disk(double: Double, small_disk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "gw"
    folder.mkdir()
    (folder / "state").symlink_to(small_disk)
    gateway = Gateway(folder, provider("mock", double.port))
    try:
        sandbox = gateway.sandbox()
        assert sandbox.call().status == 200
        wait_for(lambda: len(gateway.ledger()) == 1)
        filler = (small_disk / "filler").open("wb", buffering=0)
        with filler, contextlib.suppress(OSError):
            while True:
                filler.write(b"x" * 4096)
        assert [sandbox.call().status for _ in range(200)] == [200] * 200
        wait_for(lambda: ledger_status(gateway)["journal_failing"])
        found = gauges(gateway)
        assert found["choir_journal_failing"] == 1
        assert found["choir_records_waiting"] > 0
        assert b"up to 100000 records wait in memory" in gateway.log.read_bytes()
        assert "wait in memory, and are lost if the gateway dies. Free disk space." in usage_says(gateway)
        (small_disk / "filler").unlink()
        recovered(gateway, sandbox, 201)
    finally:
        gateway.stop()


def test_a_file_that_may_not_grow(double: Double, start_gateway: StartGateway) -> None:
    """As the full disk, for everybody: RLIMIT_FSIZE of the worker."""
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    assert sandbox.call().status == 200
    wait_for(lambda: len(gateway.ledger()) == 1)
    _, hard = resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE, (1, hard))
    assert [sandbox.call().status for _ in range(50)] == [200] * 50
    wait_for(lambda: gauges(gateway)["choir_ledger_failing"])
    assert ledger_status(gateway)["journal_failing"]
    assert gauges(gateway)["choir_records_waiting"] == 50
    resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE, (hard, hard))
    recovered(gateway, sandbox, 51)


def test_a_locked_ledger(double: Double, start_gateway: StartGateway) -> None:
    gateway = start_gateway(provider("mock", double.port))
    sandbox = gateway.sandbox()
    with contextlib.closing(sqlite3.connect(gateway.state.ledger, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        assert [sandbox.call().status for _ in range(20)] == [200] * 20
        wait_for(lambda: ledger_status(gateway)["failing"])
        assert gauges(gateway)["choir_ledger_failing"] == 1
        assert ledger_notes(gateway.state) == [
            f"gateway {gateway.worker_pid}: the ledger takes no records just now; 20 wait in its journal. Calls go on."
        ]
        # What waits outlives the process.
        os.kill(gateway.service.pid, signal.SIGKILL)
        gateway.service.process.wait(10)
        gateway.lost()
        blocker.execute("COMMIT")
    again = start_gateway(provider("mock", double.port))
    assert len(again.ledger()) == 20


def test_no_place_at_all(
    double: Double, start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A gateway that keeps 20 records in memory."""
    module = "import choir.gateway.usage as u; u.MAX_WAITING = 20; import choir.gateway.main as m; m.main()"
    popen = subprocess.Popen

    def start(command: list[str], **how: object) -> subprocess.Popen[bytes]:
        python, isolated, _, name, *rest = command
        assert name == "choir.gateway.main"
        return popen([python, isolated, "-c", module, *rest], **how)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", start)
    gateway = start_gateway(provider("mock", double.port))
    monkeypatch.undo()
    sandbox = gateway.sandbox()
    _, hard = resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE, (1, hard))
    served = 0
    while (answer := sandbox.call()).status == 200:
        served += 1
        assert served <= 20
    assert (answer.status, answer.error["reason"], answer.headers["retry-after"]) == (503, "ledger_full", "5")
    for _ in range(700):  # refusals take no place
        assert sandbox.call().status == 503
    assert ledger_status(gateway) == {"waiting": served, "failing": True, "journal_failing": True, "full": True}
    assert "calls are refused with `ledger_full`" in usage_says(gateway)
    asked = len(double.requests)
    assert asked == served, "nothing went to the provider"
    resource.prlimit(gateway.worker_pid, resource.RLIMIT_FSIZE, (hard, hard))
    wait_for(lambda: sandbox.call().status == 200)
    assert gateway.stop() == 0
    records = gateway.ledger()
    assert sum(record.count for record in records if record.outcome == "refused:ledger_full") >= 701
    assert sum(record.count for record in records if record.outcome == "ok") == served + 1


def test_words() -> None:
    fine = {"waiting": 3, "failing": False, "journal_failing": False, "full": False}
    assert note(fine) == ""
    assert note(fine | {"failing": True}) == "the ledger takes no records just now; 3 wait in its journal. Calls go on."
    assert note(fine | {"waiting": 0, "journal_failing": True}) == ""
    assert "lost if the gateway dies" in note(fine | {"failing": True, "journal_failing": True})
    assert "`ledger_full`" in note(fine | {"full": True, "journal_failing": True})


def test_usage_says_that_the_ledger_cannot_be_read(tmp_path: Path) -> None:
    state = State(tmp_path).prepare()
    state.ledger.write_bytes(b"not a database" * 1000)
    done = subprocess.run(
        [sys.executable, "-m", "choir.cli.main", "usage", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"The usage ledger {state.ledger} cannot be read" in done.stderr
