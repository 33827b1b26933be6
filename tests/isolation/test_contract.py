"""What every backend owes, isolating or not: start, stop, events, reasons, the keyless check. For real."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import secrets
import socket
import stat
from pathlib import Path

import pytest

from choir import inside
from choir.errors import IsolationError, KeylessError, StartError
from choir.isolation import backends, process
from choir.isolation.contract import Backend, Exited, PhaseReached, SandboxLimits, SandboxSpec
from choir.tokens import new_key, sign

from .conftest import ROOT, MakeSpec, alive, output_of, processes_with, started, until


@pytest.fixture(params=["bubblewrap", "process"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "process" and ROOT:
        monkeypatch.setattr(process, "_refuse_root", lambda: None)  # what is run here is ours
    made = backends.choose(request.param)
    assert made.name == request.param
    return made


@pytest.mark.parametrize(
    ("script", "code", "signal"), [("exit 0", 0, None), ("exit 7", 7, None), ("kill -TERM $$", None, 15)]
)
def test_exit_status(backend: Backend, make_spec: MakeSpec, script: str, code: int, signal: int) -> None:
    exited, _ = asyncio.run(output_of(backend, make_spec("sh", "-c", script)))
    assert (exited.code, exited.signal, exited.reason) == (code, signal, "")


def test_events_come_in_order_and_again_for_every_reader(backend: Backend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with started(backend, make_spec("true")) as running:
            exited = await running.wait()
            first = [event async for event in running.events()]
            assert first == [event async for event in running.events()]
            phases = [event.phase for event in first if isinstance(event, PhaseReached)]
            order = ("keeper", "namespace", "keyless", "listener", "ready")
            assert phases == [phase for phase in order if phase in phases]
            assert {"keyless", "listener", "ready"} <= set(phases)
            times = [event.at for event in first if isinstance(event, PhaseReached)]
            assert times == sorted(times)
            assert [event for event in first if isinstance(event, Exited)] == [first[-1]] == [exited]
            assert running.poll() == exited
            assert await running.stop() == exited

    asyncio.run(scenario())


def test_the_command_waits_until_told_to_proceed(backend: Backend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        spec = make_spec("sh", "-c", "echo done > ~/mark")
        running = await backend.start(spec)
        try:
            assert running.listener.getsockname()[0] == "127.0.0.1"
            assert alive(running.pid)
            assert running.poll() is None
            assert not (spec.home / "mark").exists()
            await running.wait_ready()
            assert (await running.wait()).code == 0
            assert (spec.home / "mark").read_text() == "done\n"
            with pytest.raises(StartError):
                _ = running.listener
        finally:
            running.close()

    asyncio.run(scenario())


def test_a_start_that_nobody_finishes_runs_nothing(backend: Backend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        spec = make_spec("sh", "-c", "echo done > ~/mark")
        running = await backend.start(spec)
        pid = running.pid
        running.close()
        await until(lambda: not alive(pid))
        assert not (spec.home / "mark").exists()

    asyncio.run(scenario())


def test_the_gateway_is_where_the_environment_says(backend: Backend, make_spec: MakeSpec) -> None:
    script = (
        "import os, socket, urllib.parse; url = urllib.parse.urlsplit(os.environ['OPENAI_BASE_URL']);"
        "s = socket.create_connection((url.hostname, url.port)); s.sendall(url.path.encode())"
    )

    async def scenario() -> None:
        from choir.isolation.host import inspect

        base = inside.gateway_base_url("openai")
        spec = make_spec(inspect().python, "-c", script, environment={"OPENAI_BASE_URL": base})
        async with started(backend, spec) as running:
            loop = asyncio.get_running_loop()
            running.listener.setblocking(False)
            connection, _ = await asyncio.wait_for(loop.sock_accept(running.listener), 20)
            with connection:
                assert await loop.sock_recv(connection, 100) == b"/provider/v1/openai"

    asyncio.run(scenario())


def test_environment_is_built_from_nothing(
    backend: Backend, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMLESS_NAME", "canary")
    token = sign(new_key(), "01test")
    spec = make_spec("env", environment={"OPENAI_API_KEY": token, "HOME": "/root", "LANG": "C.UTF-8"})
    _, text = asyncio.run(output_of(backend, spec))
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert found["OPENAI_API_KEY"] == token
    assert found["HOME"] in ("/home/choir", str(spec.home))
    assert set(found) <= {"OPENAI_API_KEY", "LANG", "PATH", "HOME", "USER", "PORT", "SSL_CERT_FILE"}


@pytest.mark.parametrize(("name", "named"), [("GROQ_API_KEY", "GROQ_API_KEY"), ("", ".aws/credentials")])
def test_a_credential_stops_the_start_and_is_named(
    backend: Backend, make_spec: MakeSpec, name: str, named: str
) -> None:
    secret = secrets.token_hex(20)
    spec = make_spec("true", environment={name: secret} if name else {})
    if not name:
        (spec.home / ".aws").mkdir(parents=True)
        (spec.home / ".aws" / "credentials").write_text(f"[default]\naws_secret_access_key = {secret}\n")
    with pytest.raises(KeylessError) as caught:
        asyncio.run(output_of(backend, spec))
    assert caught.value.reason == ("credential_in_environment" if name else "credential_in_file")
    assert named in caught.value.message
    assert secret not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("no-such-command",), "command_not_found"), (("/etc/hosts",), "command_not_executable")],
)
def test_a_command_that_cannot_run(
    backend: Backend, make_spec: MakeSpec, command: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(backend, make_spec(*command)))
    assert caught.value.reason == reason
    assert command[0] in caught.value.message
    assert caught.value.hint


def test_a_start_that_takes_too_long(backend: Backend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        running = await backend.start(make_spec("true", start_timeout=1.0))
        try:
            await asyncio.wait_for(running.reach("ready"), 20)  # type: ignore[attr-defined]
        finally:
            running.close()

    with pytest.raises(StartError) as caught:
        asyncio.run(scenario())
    assert caught.value.reason == "start_timeout"


def test_stop_is_polite_first(backend: Backend, make_spec: MakeSpec) -> None:
    spec = make_spec("sh", "-c", "trap 'echo bye > ~/bye; exit 3' TERM; echo up > ~/up; while :; do sleep 0.01; done")

    async def scenario() -> None:
        async with started(backend, spec) as running:
            await until((spec.home / "up").exists)
            exited = await running.stop(grace=30)
            assert (exited.code, exited.reason) == (3, "stopped")
            assert (spec.home / "bye").exists()
            assert await running.stop() == exited

    asyncio.run(scenario())


def test_stop_kills_what_does_not_listen(backend: Backend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"
    spec = make_spec("sh", "-c", f"trap '' TERM; sleep {marker} & echo up > ~/up; while :; do sleep {marker}; done")

    async def scenario() -> None:
        async with started(backend, spec) as running:
            await until((spec.home / "up").exists)
            exited = await running.stop(grace=0.05)
            assert (exited.signal, exited.reason) == (9, "stopped")
        await until(lambda: not processes_with(marker))

    asyncio.run(scenario())


def test_closing_ends_a_command(backend: Backend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"

    async def scenario() -> None:
        async with started(backend, make_spec("sleep", marker)):
            assert processes_with(marker)
        await until(lambda: not processes_with(marker))

    asyncio.run(scenario())


def test_background_processes_end_with_the_command(backend: Backend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"

    async def scenario() -> None:
        exited, _ = await output_of(backend, make_spec("sh", "-c", f"sleep {marker} >/dev/null 2>&1 & exit 0"))
        assert exited.code == 0
        await until(lambda: not processes_with(marker))

    asyncio.run(scenario())


def test_a_file_that_grows_past_the_limit(backend: Backend, make_spec: MakeSpec) -> None:
    spec = make_spec(
        "sh", "-c", "exec dd if=/dev/zero of=$HOME/large bs=1M count=9", limits=SandboxLimits(max_disk_bytes=1024**2)
    )
    exited, _ = asyncio.run(output_of(backend, spec))
    assert exited.reason == "disk_quota"


def test_log_tail_is_redacted(backend: Backend, make_spec: MakeSpec, tmp_path: Path) -> None:
    secret, token = "sk-ant-" + secrets.token_hex(20), sign(new_key(), "01test")
    spec = make_spec("sh", "-c", f"echo failing with $K {secret}; exit 1", environment={"K": token}, log=tmp_path / "l")

    async def scenario() -> str:
        async with started(backend, spec) as running:
            return (await running.wait()).log_tail

    tail = asyncio.run(scenario())
    assert "failing with" in tail
    assert secret not in tail
    assert token not in tail
    assert stat.S_IMODE((tmp_path / "l").stat().st_mode) == 0o600


def test_a_terminal(backend: Backend, make_spec: MakeSpec) -> None:
    script = "trap 'stty size; exit' WINCH; echo x > /dev/tty; echo ready; while :; do sleep 0.01; done"

    async def scenario() -> None:
        leader, follower = pty.openpty()
        running = await backend.start(make_spec("bash", "-c", script), (follower, follower, follower))
        os.close(follower)
        text = b""
        try:
            await running.wait_ready()
            while b"ready" not in text:
                text += await asyncio.to_thread(os.read, leader, 1000)
            running.resize(33, 99)
            while b"33 99" not in text:
                text += await asyncio.to_thread(os.read, leader, 1000)
            assert (await running.wait()).code == 0
        finally:
            running.close()
            os.close(leader)

    asyncio.run(scenario())


def test_a_desktop(backend: Backend, make_spec: MakeSpec, tmp_path: Path) -> None:
    identity = inside.identity_environment("01desk", "ada", "live", sign(new_key(), "01desk"))
    environment = identity | {"DATABASE_URL": "sqlite:////home/choir/choir.db"}
    spec = make_spec(sandbox_id="01desk", role="live", environment=environment, log=tmp_path / "log")

    def get(address: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(address)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return sock.recv(100)

    async def scenario() -> None:
        async with started(backend, spec) as running:
            assert running.desktop is not None
            assert (await asyncio.to_thread(get, running.desktop)).startswith(b"HTTP/1.1 200")
            exited = await running.stop(20)
            assert (exited.code, exited.reason) == (0, "stopped")
            assert running.desktop is None
            phases = [event.phase async for event in running.events() if isinstance(event, PhaseReached)]
            assert phases[-3:] == ["listener", "desktop", "ready"]

    asyncio.run(scenario())


def test_a_desktop_that_fails_says_why_at_once(backend: Backend, make_spec: MakeSpec, tmp_path: Path) -> None:
    async def scenario() -> None:
        running = await backend.start(make_spec(log=tmp_path / "log"))
        try:
            with contextlib.suppress(StartError):  # its page may have been there before what is behind it failed
                await running.wait_ready()
            exited = await running.wait()
            assert exited.reason in ("first_process_failed", "desktop_exited")
            assert "DATABASE_URL" in exited.log_tail
        finally:
            running.close()

    asyncio.run(scenario())


def test_nothing_is_left_open(backend: Backend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with started(backend, make_spec("true")) as running:
            await running.wait()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with started(backend, make_spec("true")) as running:
                await running.wait()
        with pytest.raises(StartError):
            await output_of(backend, make_spec("no-such-command"))
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    asyncio.run(scenario())


def test_nobody_to_adopt_from(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        asyncio.run(backend.adopt(tmp_path / "gone.keeper"))
    assert caught.value.reason == "keeper_gone"


def test_explain_runs_nothing_and_holds_no_token(backend: Backend, make_spec: MakeSpec) -> None:
    token = sign(new_key(), "01test")
    lines = backend.explain(make_spec("true", environment={"OPENAI_API_KEY": token}))
    assert lines
    assert token not in "\n".join(lines)


# What only the unisolated one has to say.


def test_process_says_loudly_that_nothing_is_isolated(monkeypatch: pytest.MonkeyPatch, make_spec: MakeSpec) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    backend = backends.choose("process")
    assert "NOT ISOLATED" in asyncio.run(backend.probe())
    assert "NOT ISOLATED" in backend.explain(make_spec("true"))[0]


def test_process_is_refused_for_root(monkeypatch: pytest.MonkeyPatch, make_spec: MakeSpec) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    backend = backends.choose("process")
    for attempt in (backend.probe(), backend.start(make_spec("true"))):
        with pytest.raises(IsolationError) as caught:
            asyncio.run(attempt)
        assert caught.value.reason == "process_refused_for_root"


def test_process_cannot_mask(monkeypatch: pytest.MonkeyPatch, make_spec: MakeSpec, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    spec: SandboxSpec = make_spec("true", masked=(tmp_path / ".env",))
    with pytest.raises(IsolationError) as caught:
        asyncio.run(backends.choose("process").start(spec))
    assert caught.value.reason == "masking_unavailable"
    assert str(tmp_path / ".env") in caught.value.message
