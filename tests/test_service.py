from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from choir.channel import Channel
from choir.errors import StartError
from choir.service import LOG_BYTES, Child, Service, describe_exit, rotate

CHILD = """
import sys
sys.path.insert(0, {source!r})
from choir import service
from choir.channel import ChannelClosed
from choir.errors import StartError
def run(channel, message, descriptors):
    match message["do"]:
        case "serve":
            channel.send({{"ready": True, "pid": 1}})
            try:
                channel.receive()
            except ChannelClosed:
                return
        case "refuse":
            raise StartError("port_in_use", "Port 1 is in use.", "Choose another.")
        case "die":
            import os; os.abort()
        case "hang":
            import signal; signal.pause()
service.serve(run)
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module name that ``Service.spawn`` can run."""
    import choir

    source = str(Path(choir.__file__).parents[1])
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(source=source))
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        at = command.index("-m")
        return real([*command[:at], str(script), *command[at + 2 :]], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(subprocess, "Popen", popen)
    return "child"


def started(child: str, tmp_path: Path, what: str, deadline: float = 30.0) -> tuple[Service, dict[str, object]]:
    service = Service.spawn("thing", child, log=tmp_path / "log")
    return service, asyncio.run(service.start({"do": what}, deadline=deadline))


def test_ready_then_the_end_of_the_channel_is_its_end(child: str, tmp_path: Path) -> None:
    service, answer = started(child, tmp_path, "serve")
    assert answer == {"ready": True, "pid": 1}
    environ = Path(f"/proc/{service.pid}/environ").read_bytes()
    assert environ == b""
    assert service.stop() == 0


@pytest.mark.parametrize(
    ("what", "reason"), [("refuse", "port_in_use"), ("die", "thing_exited"), ("hang", "thing_silent")]
)
def test_why_it_did_not_start(child: str, tmp_path: Path, what: str, reason: str) -> None:
    with pytest.raises(StartError) as caught:
        started(child, tmp_path, what, deadline=2.0 if what == "hang" else 30.0)
    assert caught.value.reason == reason


def test_ended_tells_the_signal(child: str, tmp_path: Path) -> None:
    service, _ = started(child, tmp_path, "serve")

    async def scenario() -> int:
        ended = asyncio.create_task(service.ended())
        await asyncio.sleep(0)
        os.kill(service.pid, signal.SIGKILL)
        return await ended

    assert describe_exit(asyncio.run(scenario())) == "signal 9"
    service.channel.close()


def test_a_child_kept_over_execve_is_still_waited_for() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "input(); raise SystemExit(7)"], {}, file_actions=[])
    child = Child(pid)
    os.kill(pid, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    assert child.wait() == -signal.SIGTERM
    ours, theirs = Channel.pair()
    ours.close()
    theirs.close()


def test_a_long_log_is_begun_anew(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for _ in range(2):
        log.write_bytes(b"short")
        rotate(log)
        assert log.read_bytes() == b"short"
        with log.open("wb") as file:
            file.truncate(LOG_BYTES + 1)
        rotate(log)
        assert not log.exists()
        assert (tmp_path / "x.log.1").stat().st_size == LOG_BYTES + 1
