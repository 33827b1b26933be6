"""``choir run`` as a person runs it, with the real local model."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from .conftest import World

OPENAI = """
import os, openai
client = openai.OpenAI()
stream = client.chat.completions.create(
    model="SmolLM2-135M", temperature=0, max_tokens=24, stream=True,
    messages=[{"role": "user", "content": "What is the capital of France?"}],
)
print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""

ANTHROPIC = """
import anthropic
with anthropic.Anthropic().messages.stream(
    model="SmolLM2-135M", max_tokens=24, extra_body={"temperature": 0},
    messages=[{"role": "user", "content": "What is the capital of France?"}],
) as stream:
    print(stream.get_final_text())
"""


@pytest.mark.parametrize("program", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_an_unchanged_sdk_talks_to_the_local_model(world: World, program: str) -> None:
    (world.project / "agent.py").write_text(program)
    done = world.choir("run", "--", "python", "agent.py")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    records = json.loads(world.choir("usage", "--json").stdout)
    assert len(records) == 1
    assert records[0]["provider"] == "local"
    assert records[0]["status"] == 200
    assert records[0]["outcome"] == "ok"
    assert records[0]["output_tokens"] > 0
    assert records[0]["input_tokens"] > 0
    assert "local" in world.choir("usage").stdout


def test_the_exit_code_and_the_streams_are_the_commands(world: World) -> None:
    done = world.choir("run", "--", "sh", "-c", "cat; echo err >&2; exit 7", stdin="hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "hello\n", "err\n")
    assert world.choir("run", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_the_folder_is_there_and_the_home_is_not(world: World) -> None:
    (world.home / "secret").write_text("x")
    done = world.choir("run", "--", "sh", "-c", f"pwd; echo made > made; ls {world.home} 2>&1; echo $HOME; id -u; env")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(world.project)
    assert "secret" not in done.stdout
    assert "\n/home/choir\n" in done.stdout
    assert (world.project / "made").read_text() == "made\n"
    assert (world.project / "made").stat().st_uid == os.getuid()


def test_a_key_of_the_callers_shell_is_not_inside(world: World) -> None:
    canary = "sk-" + os.urandom(24).hex()
    done = world.choir(
        "run", "--", "sh", "-c", "env; cat /proc/*/environ 2>/dev/null; true", OPENAI_API_KEY=canary, HARMLESS=canary
    )
    assert done.returncode == 0, done.stderr
    assert "OPENAI_API_KEY=choir-gt-" in done.stdout
    assert canary not in done.stdout


def test_key_files_of_the_project_look_empty(world: World) -> None:
    (world.project / "sub").mkdir()
    secret = "OPENAI_API_KEY=sk-" + os.urandom(24).hex()
    for name in (".env", "sub/.env.local"):
        (world.project / name).write_text(secret + "\n")
    done = world.choir("run", "--", "sh", "-c", "cat .env sub/.env.local; ls -A . sub")
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout
    assert ".env.local" in done.stdout
    assert "masked" in done.stderr
    assert ".env" in done.stderr
    assert (world.project / ".env").read_text() == secret + "\n"
    strict = world.choir("run", "--strict", "--", "true")
    assert strict.returncode == 77
    assert ".env" in strict.stderr
    assert secret not in strict.stderr


def test_git_hooks_and_configuration_cannot_be_changed(world: World) -> None:
    (world.project / ".git" / "hooks").mkdir(parents=True)
    (world.project / ".git" / "config").write_text("[core]\n")
    script = "echo x > .git/hooks/pre-commit; echo x >> .git/config; echo fine > .git/other"
    world.choir("run", "--", "sh", "-c", script)
    assert os.listdir(world.project / ".git" / "hooks") == []
    assert (world.project / ".git" / "config").read_text() == "[core]\n"
    assert (world.project / ".git" / "other").read_text() == "fine\n"


def test_what_a_command_left_for_git_is_said(world: World) -> None:
    trap = "mkdir -p sub/.git && printf '[core]\\n\\tfsmonitor = ./evil\\n' > sub/.git/config"
    done = world.choir("run", "--", "sh", "-c", trap)
    assert done.returncode == 0, done.stderr
    assert "sub/.git/config" in done.stderr
    assert "before you run git" in done.stderr
    assert world.choir("run", "--", "true").stderr == ""


def test_a_forwarded_credential_stops_the_start(world: World) -> None:
    world.configure('[sandbox]\nforward_env = ["MY_DEPLOY_TOKEN", "EDITOR"]\n')
    value = os.urandom(20).hex()
    began = time.monotonic()
    done = world.choir("run", "--", "true", MY_DEPLOY_TOKEN=value, EDITOR="vi")
    assert time.monotonic() - began < 30
    assert done.returncode == 77, done.stderr
    assert "MY_DEPLOY_TOKEN" in done.stderr
    assert value not in done.stderr + done.stdout
    assert "vi" in world.choir("run", "--", "sh", "-c", "echo $EDITOR", EDITOR="vi").stdout


def test_a_key_file_in_the_sandboxes_home_stops_the_start(world: World) -> None:
    assert world.choir("run", "--", "true").returncode == 0
    (home,) = (world.state / "homes").iterdir()
    (home / ".aws").mkdir()
    secret = os.urandom(20).hex()
    (home / ".aws" / "credentials").write_text(f"[default]\naws_secret_access_key = {secret}\n")
    if os.geteuid() == 0:
        owner = home.stat().st_uid
        assert owner != 0
        for path in (home / ".aws", home / ".aws" / "credentials"):
            os.chown(path, owner, owner)
    done = world.choir("run", "--", "true")
    assert done.returncode == 77, done.stderr
    assert ".aws/credentials" in done.stderr
    assert secret not in done.stderr


def test_command_not_found(world: World) -> None:
    done = world.choir("run", "--", "no-such-agent")
    assert done.returncode != 0
    assert "no-such-agent" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_home_folder_is_refused(world: World) -> None:
    done = world.choir("run", "--", "true", HOME=str(world.project))
    assert done.returncode != 0
    assert "not a project folder" in done.stderr


@pytest.mark.parametrize("text", ["[limits\n", "[limits]\nrequests = 1\n", "[providers.nobody]\nbase_url='http://x'\n"])
def test_a_wrong_configuration(world: World, text: str) -> None:
    world.configure(text)
    done = world.choir("run", "--", "true")
    assert done.returncode == 78
    assert f"{world.config}:" in done.stderr


def test_a_provider_that_is_down_is_named(world: World) -> None:
    world.configure(
        '[providers.down]\nlike = "openai"\nbase_url = "http://127.0.0.1:9"\n[providers.local]\nenabled = false\n'
    )
    program = """
import urllib.request, urllib.error, os
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
head = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
try:
    urllib.request.urlopen(urllib.request.Request(url, b'{"model":"m"}', head))
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
    (world.project / "a.py").write_text(program)
    done = world.choir("run", "--", "python", "a.py")
    assert done.stdout.startswith("502"), done.stdout + done.stderr
    assert "down" in done.stdout


def test_nothing_is_left_running(world: World) -> None:
    world.choir("run", "--", "true")
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(world.state) in _read(path)]
    assert left == []


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_explain_runs_nothing(world: World) -> None:
    done = world.choir("run", "--explain", "--", "touch", "made")
    assert done.returncode == 0, done.stderr
    assert str(world.project) in done.stdout
    assert not (world.project / "made").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="refused for root, see the next test")
def test_without_isolation_it_is_loud(world: World) -> None:
    world.configure('[sandbox]\nbackend = "process"\n')
    (world.project / "agent.py").write_text(OPENAI)
    done = world.choir("run", "--", "python", "agent.py")
    assert "Paris" in done.stdout, done.stderr
    assert "NOT ISOLATED" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="for root")
def test_without_isolation_root_runs_nothing(world: World) -> None:
    world.configure('[sandbox]\nbackend = "process"\n')
    done = world.choir("run", "--", "touch", "made")
    assert done.returncode == 69, done.stderr
    assert not (world.project / "made").exists()


def test_a_terminal_of_its_own(world: World) -> None:
    """Under a PTY: the command has a controlling terminal that is not the person's, with its size."""
    import pty

    pid, master = pty.fork()
    if pid == 0:
        os.chdir(world.project)
        command = "tty; stty size; test -t 0 && test -t 1 && echo terminal; read x; echo got $x"
        os.execve(
            Path(sys.executable).parent / "choir",
            ["choir", "run", "--", "sh", "-c", command],
            world.environment(TERM="xterm"),
        )
    import fcntl
    import struct
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 33, 101, 0, 0))
    said = b""
    while b"terminal" not in said:
        said += os.read(master, 1000)
    os.write(master, b"typed\r")
    try:
        while chunk := os.read(master, 1000):
            said += chunk
    except OSError:
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"33 101" in said
    assert b"got typed" in said
    os.close(master)
