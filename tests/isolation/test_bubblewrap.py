"""Real sandboxes, from the outside: what their commands see, do, and how they end."""

from __future__ import annotations

import asyncio
import os
import pty
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from choir import keyfiles
from choir.errors import EXIT_REFUSED, IsolationError, KeylessError, StartError
from choir.isolation import plan as planning
from choir.isolation import terminals
from choir.isolation.bubblewrap import BubblewrapBackend
from choir.isolation.contract import EndedEarly, Mount, PhaseReached, SandboxLimits, SandboxSpec
from choir.isolation.host import inspect
from choir.isolation.plan import Plan
from choir.tokens import new_key, sign

from .conftest import ROOT, MakeSpec, output_of, processes_with, started, until


def test_probe_names_what_is_in_force(backend: BubblewrapBackend) -> None:
    line = asyncio.run(backend.probe())
    assert line.startswith("bubblewrap 0.")
    assert "no network" in line
    assert "seccomp" in line
    assert "limits: " in line


@pytest.mark.parametrize(
    ("script", "code", "signal"), [("exit 0", 0, None), ("exit 7", 7, None), ("kill -TERM $$", None, 15)]
)
def test_exit_status(backend: BubblewrapBackend, make_spec: MakeSpec, script: str, code: int, signal: int) -> None:
    exited, _ = asyncio.run(output_of(backend, make_spec("sh", "-c", script)))
    assert (exited.code, exited.signal, exited.reason) == (code, signal, "")


def test_a_broken_pipe_ends_who_writes_to_it(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    _, text = asyncio.run(output_of(backend, make_spec("bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}")))
    assert text == "y\n141\n"  # SIGPIPE, not an error message


def test_phases_come_in_order_and_again_for_every_reader(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        async with started(backend, make_spec("true")) as running:
            await running.wait()
            first = [event async for event in running.events()]
            assert first == [event async for event in running.events()]
            phases = [event.phase for event in first if isinstance(event, PhaseReached)]
            assert phases == ["keeper", "namespace", "keyless", "listener", "ready"]
            times = [event.at for event in first if isinstance(event, PhaseReached)]
            assert times == sorted(times)
            assert first[-1] == running.poll()

    asyncio.run(scenario())


def test_the_command_waits_until_told_to_proceed(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    async def scenario() -> None:
        spec = make_spec("sh", "-c", "echo done > ~/mark")
        running = await backend.start(spec)
        try:
            assert running.listener.getsockname() == ("127.0.0.1", 7070)
            assert not (spec.home / "mark").exists()
            await running.wait_ready()
            assert (await running.wait()).code == 0
            assert (spec.home / "mark").read_text() == "done\n"
        finally:
            running.close()

    asyncio.run(scenario())


def test_calls_to_the_gateway_arrive_at_the_passed_listener(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    script = (
        "import socket; s = socket.create_connection(('127.0.0.1', 7070)); s.sendall(b'ping');"
        "print(s.recv(9).decode(), flush=True)"
    )

    async def scenario() -> str:
        loop = asyncio.get_running_loop()
        spec = make_spec(planning_python(), "-c", script, start_timeout=20.0)
        reading, writing = os.pipe()
        async with started(backend, spec, stdio=(0, writing, writing)) as running:
            os.close(writing)
            connection, _ = await loop.sock_accept(running.listener)
            with connection:
                assert await loop.sock_recv(connection, 9) == b"ping"
                await loop.sock_sendall(connection, b"pong")
            await running.wait()
            with open(reading, "rb") as file:
                return file.read().decode()

    assert asyncio.run(scenario()) == "pong\n"


def planning_python() -> str:
    from choir.isolation.host import inspect

    return inspect().python


def test_environment_is_exactly_what_was_asked_for(
    backend: BubblewrapBackend, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARMLESS_NAME", "canary")
    token = sign(new_key(), "01test")
    spec = make_spec("env", environment={"OPENAI_API_KEY": token, "PORT": "1", "LANG": "C.UTF-8"})
    _, text = asyncio.run(output_of(backend, spec))
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert found.pop("OPENAI_API_KEY") == token
    found.pop("SSL_CERT_FILE", None)
    assert found == {
        "PATH": ":".join(planning.STANDARD_PATH),
        "HOME": "/home/choir",
        "USER": "choir",
        "PORT": "7080",
        "LANG": "C.UTF-8",
    }


def test_the_token_is_in_no_argv(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    token = sign(new_key(), "01test")

    async def scenario() -> None:
        async with started(backend, make_spec("cat", environment={"OPENAI_API_KEY": token}), stdio=pipe()) as running:
            for pid in (running.keeper_pid, running.pid):
                assert token not in Path(f"/proc/{pid}/cmdline").read_text()
                assert Path(f"/proc/{pid}/environ").read_bytes() == b""

    def pipe() -> tuple[int, int, int]:
        reading, writing = os.pipe()
        os.set_inheritable(writing, False)
        return reading, writing, writing

    asyncio.run(scenario())


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".git" / "hooks").mkdir(parents=True)
    (folder / ".git" / "config").write_text("[core]\n")
    (folder / ".env").write_text("KEY=value\n")
    (folder / "code.py").write_text("print('hello')\n")
    return folder


def test_workspace_is_at_its_own_path_and_files_keep_their_owner(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path
) -> None:
    if ROOT:  # someone else's folder, closed to all others
        for path in (project, *project.rglob("*")):
            os.chown(path, 12345, 12345)
    project.chmod(0o700)
    script = "pwd; stat -c %u code.py; cat code.py; echo new > made; mkdir sub; chmod 700 sub"
    exited, text = asyncio.run(output_of(backend, make_spec("sh", "-c", script, workspace=project)))
    assert exited.code == 0, text
    assert text == f"{project}\n1000\nprint('hello')\n"
    owner = project.stat().st_uid
    assert owner == (12345 if ROOT else os.geteuid())
    assert (project / "made").stat().st_uid == owner
    assert (project / "sub").stat().st_uid == owner


def test_masked_files_are_empty_and_stay_what_they_are(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path
) -> None:
    spec = make_spec("sh", "-c", "wc -c < .env; rm .env; echo x > .env", workspace=project, masked=(project / ".env",))
    _, text = asyncio.run(output_of(backend, spec))
    assert text.startswith("0\n")
    assert (project / ".env").read_text() == "KEY=value\n"


@pytest.mark.parametrize(
    "attack",
    [
        "echo x > .git/hooks/pre-commit",
        "rm -r .git/hooks",
        "mv .git/hooks .git/old",
        "mv .git old",
        "echo x >> .git/config",
        "rm .git/config",
        "ln -f code.py .git/config",
    ],
)
def test_git_hooks_and_configuration_are_protected(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path, attack: str
) -> None:
    protected = (project / ".git" / "hooks", project / ".git" / "config")
    spec = make_spec("sh", "-c", attack, workspace=project, protected=protected)
    exited, _ = asyncio.run(output_of(backend, spec))
    assert exited.code != 0
    assert sorted(path.name for path in (project / ".git").iterdir()) == ["config", "hooks"]
    assert list((project / ".git" / "hooks").iterdir()) == []
    assert (project / ".git" / "config").read_text() == "[core]\n"


def test_hard_links_lead_to_nothing_that_is_hidden(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path
) -> None:
    """A mask, a guard, and what comes from the host are mounts of their own: link(2) does not cross them."""
    (project / ".env").write_text("OPENAI_API_KEY=secret")
    program = (
        "import os\n"
        "for path in ('.env', '.git/config', '/etc/passwd', '/usr/bin/env'):\n"
        "    for to in ('link', os.path.expanduser('~/link')):\n"
        "        try: os.link(path, to); print('linked', path)\n"
        "        except OSError as error: print(error.strerror)"
    )
    guarded = tuple(project / ".git" / name for name in ("config", "hooks"))
    spec = make_spec(inspect().python, "-c", program, workspace=project, masked=(project / ".env",), protected=guarded)
    exited, output = asyncio.run(output_of(backend, spec))
    assert exited.code == 0
    assert set(output.split("\n")[:-1]) <= {"Invalid cross-device link", "Operation not permitted"}, output
    assert len(output.split("\n")) == 9


def _upwards(path: Path) -> str:
    """A relative link at ``path`` to the root, which is also the root of what the launcher is putting together."""
    return "/".join([".."] * (len(path.parts) - 2))


class _Swapped(BubblewrapBackend):
    """Somebody changes the workspace between the plan and its execution."""

    def __init__(self, change: Callable[[], object]) -> None:
        super().__init__()
        self._change = change

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        plan = super().plan(spec, terminal)
        self._change()
        return plan


@pytest.mark.parametrize("place", [".git/hooks", ".git/config", ".git", ".env"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_link_at_a_guarded_place_shows_nothing_of_the_host(
    make_spec: MakeSpec, project: Path, place: str, when: str
) -> None:
    """What `choir run` starts in a folder that an earlier sandbox, or one beside it, has prepared."""
    path = project / place
    target = "/etc/hostname" if path.is_file() else "/run"

    def swap() -> None:
        path.rename(project / "aside")
        path.symlink_to(_upwards(path) + target)

    if when == "before":
        swap()
    guarded = (project / ".git" / "hooks", project / ".git" / "config")
    spec = make_spec("true", workspace=project, masked=(project / ".env",), protected=guarded)
    backend = BubblewrapBackend() if when == "before" else _Swapped(swap)
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(backend, spec))
    assert caught.value.reason in ("workspace_changed", "mount_failed")


@pytest.mark.parametrize("protect", [False, True])
def test_a_workspace_that_somebody_makes_a_link_is_not_entered(
    make_spec: MakeSpec, project: Path, tmp_path: Path, protect: bool
) -> None:
    """What a sandbox does to a folder of its workspace in which another is being started."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "secret").write_text("hidden")
    inner = project / "inner"
    (inner / "deep" / ".git").mkdir(parents=True)

    def swap() -> None:
        inner.rename(project / "aside")
        inner.symlink_to(private)

    protected = (inner / "deep" / ".git" / "hooks",) if protect else ()
    spec = make_spec("sh", "-c", "cat secret; touch made", workspace=inner, protected=protected)
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(_Swapped(swap), spec))
    assert caught.value.reason in ("workspace_changed", "mount_failed")
    if ROOT or not protect:  # bubblewrap makes the places it mounts on; only root's are settled before it runs
        assert os.listdir(private) == ["secret"]


class _CodeIn(BubblewrapBackend):
    """Choir, or its Python, is installed in the workspace."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def plan(self, spec: SandboxSpec, terminal: str = "") -> Plan:
        host = inspect()
        return planning.build(spec, host._replace(code=(*host.code, str(self._folder))), root=ROOT)


def test_code_in_the_workspace_cannot_be_replaced(make_spec: MakeSpec, project: Path) -> None:
    code = project / "tools" / "deep" / "venv"
    code.mkdir(parents=True)
    script = "mv tools other || mv tools/deep tools/other || touch tools/deep/venv/made || touch tools/made && ls tools"
    exited, text = asyncio.run(output_of(_CodeIn(code), make_spec("sh", "-c", script, workspace=project)))
    assert exited.code == 0
    assert text.splitlines()[-2:] == ["deep", "made"]
    assert code.is_dir()


def test_a_sandbox_cannot_take_all_terminals(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    script = """
import os
count = 0
try:
    while count < 1000:
        os.openpty()
        count += 1
except OSError as error:
    print(count, error.strerror)
"""
    exited, text = asyncio.run(output_of(backend, make_spec(planning_python(), "-c", script)))
    assert (exited.code, text) == (0, f"{terminals.MOST} No space left on device\n")


def test_a_repository_whose_hooks_are_a_link_is_read_only(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path
) -> None:
    hooks = project / ".git" / "hooks"
    hooks.rmdir()
    hooks.symlink_to(_upwards(hooks) + "/run")
    protected = tuple(keyfiles.find_protected(project))
    script = "ls -A /run; rm .git/hooks || echo x >> .git/config || touch .git/made || echo kept"
    exited, text = asyncio.run(
        output_of(backend, make_spec("sh", "-c", script, workspace=project, protected=protected))
    )
    assert exited.code == 0
    assert [line for line in text.splitlines() if "Read-only" not in line] == ["kept"]


@pytest.mark.parametrize("name", ["new\nline", "esc\x1b]0;x\x07", "bytes-\udcff\udcfe", "back\\040slash", " "])
def test_guards_in_folders_with_odd_names(
    backend: BubblewrapBackend, make_spec: MakeSpec, project: Path, name: str
) -> None:
    odd = project / name
    (odd / ".git" / "hooks").mkdir(parents=True)
    (odd / ".env").write_text("KEY=value")
    spec = make_spec(
        "sh",
        "-c",
        "cat */.env; touch */.git/hooks/made || echo kept",
        workspace=project,
        masked=(odd / ".env",),
        protected=tuple(keyfiles.find_protected(project)),
    )
    exited, text = asyncio.run(output_of(backend, spec))
    assert exited.code == 0
    assert text.endswith("kept\n")
    assert "value" not in text


def test_missing_hooks_cannot_be_made(backend: BubblewrapBackend, make_spec: MakeSpec, project: Path) -> None:
    (project / ".git" / "hooks").rmdir()
    spec = make_spec(
        "sh", "-c", "echo x > .git/hooks/pre-commit", workspace=project, protected=(project / ".git" / "hooks",)
    )
    exited, _ = asyncio.run(output_of(backend, spec))
    assert exited.code != 0
    assert not (project / ".git" / "hooks" / "pre-commit").exists()


def test_mounts(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    tools, scratch = tmp_path / "tools", tmp_path / "scratch"
    tools.mkdir(mode=0o755)
    scratch.mkdir()
    (tools / "greet").write_text("#!/bin/sh\necho hello\n")
    (tools / "greet").chmod(0o755)
    spec = make_spec(
        "sh",
        "-c",
        f"greet; echo x > {scratch}/made; echo x > {tools}/made",
        mounts=(Mount(tools), Mount(scratch, writable=True)),
        path=(str(tools),),
    )
    exited, text = asyncio.run(output_of(backend, spec))
    assert text.startswith("hello\n")
    assert exited.code != 0
    assert (scratch / "made").exists()
    assert not (tools / "made").exists()


def test_home_persists(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    asyncio.run(output_of(backend, make_spec("sh", "-c", "echo kept > ~/file; echo lost > /tmp/file")))
    _, text = asyncio.run(output_of(backend, make_spec("sh", "-c", "cat ~/file /tmp/file 2>&1")))
    assert text.startswith("kept\n")
    assert "lost" not in text


def test_a_python_left_in_the_home_does_not_run_first(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    spec = make_spec("true")
    packages = spec.home / ".local/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    for name in ("usercustomize.py", "sitecustomize.py", "json.py", "socket.py"):
        for folder in (packages, spec.home):
            (folder / name).write_text("open('/home/choir/ran', 'w')\n")
    asyncio.run(output_of(backend, spec))
    assert not (spec.home / "ran").exists()


@pytest.mark.parametrize(
    ("command", "reason"),
    [(("no-such-command",), "command_not_found"), (("/etc/hosts",), "command_not_executable")],
)
def test_a_command_that_cannot_run(
    backend: BubblewrapBackend, make_spec: MakeSpec, command: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(backend, make_spec(*command)))
    assert caught.value.reason == reason
    assert command[0] in caught.value.message
    assert caught.value.hint


def test_a_planted_credential_file_stops_the_start_and_is_named(
    backend: BubblewrapBackend, make_spec: MakeSpec
) -> None:
    secret = secrets.token_hex(20)
    spec = make_spec("true")
    (spec.home / ".aws").mkdir(parents=True)
    (spec.home / ".aws" / "credentials").write_text(f"[default]\naws_secret_access_key = {secret}\n")
    with pytest.raises(KeylessError) as caught:
        asyncio.run(output_of(backend, spec))
    assert caught.value.reason == "credential_in_file"
    assert "/home/choir/.aws/credentials" in caught.value.message
    assert secret not in str(caught.value.as_dict())
    cause = caught.value.__cause__
    assert isinstance(cause, EndedEarly)
    assert cause.exited.code == EXIT_REFUSED
    assert [reached.phase for reached in cause.phases] == ["keeper", "namespace"]


def test_a_forwarded_credential_stops_the_start_and_is_named(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    secret = secrets.token_hex(20)
    with pytest.raises(KeylessError) as caught:
        asyncio.run(output_of(backend, make_spec("true", environment={"GROQ_API_KEY": secret})))
    assert caught.value.reason == "credential_in_environment"
    assert "GROQ_API_KEY" in caught.value.message
    assert secret not in str(caught.value.as_dict())


def test_a_start_that_takes_too_long(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    with pytest.raises(StartError) as caught:
        asyncio.run(output_of(backend, make_spec("true", start_timeout=0.0)))
    assert caught.value.reason == "start_timeout"


def test_log_tail_is_redacted(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    secret, token = "sk-ant-" + secrets.token_hex(20), sign(new_key(), "01test")
    spec = make_spec(
        "sh", "-c", f"echo failing with $K {secret}; exit 1", environment={"K": token}, log=tmp_path / "log"
    )

    async def scenario() -> str:
        async with started(backend, spec) as running:
            return (await running.wait()).log_tail

    tail = asyncio.run(scenario())
    assert "failing with" in tail
    assert secret not in tail
    assert token not in tail
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_stop_is_polite_first(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    spec = make_spec("sh", "-c", "trap 'echo bye > ~/bye; exit 3' TERM; echo up > ~/up; while :; do sleep 0.01; done")

    async def scenario() -> None:
        async with started(backend, spec) as running:
            await until((spec.home / "up").exists)
            exited = await running.stop(grace=30)
            assert (exited.code, exited.reason) == (3, "stopped")
            assert (spec.home / "bye").exists()
            assert await running.stop() == exited

    asyncio.run(scenario())


def test_stop_kills_what_does_not_listen(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"
    script = f"trap '' TERM; sleep {marker} & echo up > ~/up; while :; do sleep {marker}; done"
    spec = make_spec("sh", "-c", script)

    async def scenario() -> None:
        async with started(backend, spec) as running:
            await until((spec.home / "up").exists)
            exited = await running.stop(grace=0.05)
            assert exited.reason == "stopped"
            assert exited.signal == 9
            assert not processes_with(marker)

    asyncio.run(scenario())


def test_background_processes_end_with_the_command(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"
    exited, _ = asyncio.run(
        output_of(backend, make_spec("sh", "-c", f"setsid sleep {marker} >/dev/null 2>&1 & exit 0"))
    )
    assert exited.code == 0
    assert not processes_with(marker)


def test_a_terminal_of_its_own(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    script = "tty; trap 'stty size; exit' WINCH; echo x > /dev/tty; echo ready; while :; do sleep 0.01; done"
    spec = make_spec("bash", "-c", script)

    async def scenario() -> str:
        leader, follower = pty.openpty()
        running = await backend.start(spec, (follower, follower, follower))
        os.close(follower)
        text = b""
        try:
            await running.wait_ready()
            while b"ready" not in text:
                text += await asyncio.to_thread(os.read, leader, 1000)
            running.resize(33, 99)
            exited = await running.wait()
            assert exited.code == 0
            while b"33 99" not in text:
                text += await asyncio.to_thread(os.read, leader, 1000)
        finally:
            running.close()
            os.close(leader)
        return text.decode()

    text = asyncio.run(scenario())
    assert text.startswith("/dev/console\r\nx\r\nready")


def test_limits(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    script = """
import os, resource, signal
print(*(resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE)))
made = 0
try:
    while made < 100:
        if os.fork() == 0:
            signal.pause()
        made += 1
except BlockingIOError:
    print("full", 30 < made < 40)
"""
    limits = SandboxLimits(max_processes=40, max_open_files=123)
    _, text = asyncio.run(output_of(backend, make_spec(planning_python(), "-c", script, limits=limits)))
    assert text == "123 40 0\nfull True\n"


@pytest.mark.skipif(not ROOT, reason="only root needs a uid for the sandbox")
@pytest.mark.parametrize("uid", [None, 0])
def test_root_never_runs_a_sandbox_as_root(backend: BubblewrapBackend, make_spec: MakeSpec, uid: int | None) -> None:
    with pytest.raises(IsolationError) as caught:
        asyncio.run(output_of(backend, make_spec("true", host_uid=uid)))
    assert caught.value.reason == "host_uid_refused"


@pytest.mark.skipif(not ROOT, reason="only root gives sandboxes uids of their own")
def test_two_sandboxes_have_two_uids(backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path) -> None:
    async def scenario() -> None:
        one = make_spec("sleep", "60", home=tmp_path / "one", host_uid=1_899_999_998)
        two = make_spec("sleep", "60", home=tmp_path / "two", host_uid=1_899_999_997)
        async with started(backend, one) as first, started(backend, two) as second:
            assert [os.stat(f"/proc/{r.pid}").st_uid for r in (first, second)] == [1_899_999_998, 1_899_999_997]

    asyncio.run(scenario())


def test_another_sandboxs_listener_is_not_there(
    backend: BubblewrapBackend, make_spec: MakeSpec, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with started(backend, make_spec("sleep", "60", home=tmp_path / "one")) as first:
            script = "import socket; socket.create_connection(('127.0.0.1', 7070)); print('connected')"
            exited, text = await output_of(backend, make_spec(planning_python(), "-c", script, home=tmp_path / "two"))
            assert (exited.code, text) == (0, "connected\n")
            first.listener.setblocking(False)
            with pytest.raises(BlockingIOError):  # it was the second's own
                first.listener.accept()

    asyncio.run(scenario())


def test_a_name_lookup_fails_at_once(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    exited, text = asyncio.run(output_of(backend, make_spec("getent", "hosts", "example.com")))
    assert (exited.code, text) == (2, "")
    _, text = asyncio.run(output_of(backend, make_spec("getent", "hosts", "localhost")))
    assert "localhost" in text


def test_closing_ends_a_command(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    marker = f"86400.{secrets.randbelow(10**9)}"

    async def scenario() -> None:
        async with started(backend, make_spec("sleep", marker)):
            assert processes_with(marker)
        await until(lambda: not processes_with(marker))

    asyncio.run(scenario())


def test_no_descriptor_is_left_behind(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
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


def test_explain_runs_nothing(backend: BubblewrapBackend, make_spec: MakeSpec) -> None:
    token = sign(new_key(), "01test")
    lines = backend.explain(make_spec("true", environment={"OPENAI_API_KEY": token}))
    assert lines[0].startswith("bubblewrap")
    assert any("no network" in line for line in lines)
    assert any(line.startswith("/home/choir") for line in lines)
    assert token not in "\n".join(lines)
