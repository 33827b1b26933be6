"""Real agent CLIs through ``choir run`` against the provider double: the model has them run a shell command and finish.

What this proves of each: the setup of ``choir.agents`` is right, the CLI runs from read-only folders in a sandbox, its
calls pass the gateway, its shell tool works, and the provider saw the operator's key and never the sandbox's token.
Installed by ``scripts/test-agents``.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from choir.tokens import PREFIX
from tests.double.double import Double, node, provider_double
from tests.double.keyed import Recorder, recorded

pytestmark = [pytest.mark.agents, pytest.mark.timeout(300)]

MODULES = Path(__file__).parents[2] / ".cache/agents/node_modules"
CHOIR = Path(sys.executable).parent / "choir"
PROMPT = "Write the proof."

COMMANDS = {
    "pi": ("pi", "-p", PROMPT),
    # Codex uses its plain tools with a model it does not know; Gemini asks no model which model to take when told.
    "codex": ("codex", "exec", PROMPT),
    "claude": ("claude", "-p", PROMPT),
    "gemini": ("gemini", "-p", PROMPT),
}
MODELS = {"codex": "a-model", "gemini": "gemini-2.5-pro"}
CARRIERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")


@dataclass
class Deployment:
    double: Double
    front: Recorder
    config: Path
    folder: Path
    key: str

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.choir("run", *arguments)

    def choir(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.pathsep.join([str(self.folder / "bin"), str(Path(node()).parent), "/usr/bin", "/bin"]),
            "HOME": str(self.folder / "home"),
            "DOUBLE_KEY": self.key,
            "MCP_CONNECTION_NONBLOCKING": "0",  # a model would wait for the memory's tools; the double cannot
        }
        action = [arguments[0]] if command == "memory" else []
        options = ["--config", str(self.config), "--state", str(self.folder / "s")]
        return subprocess.run(
            [str(CHOIR), command, *action, *options, *arguments[len(action) :]],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )

    @property
    def project(self) -> Path:
        return self.folder / "project"


def executables(folder: Path) -> None:
    """A bin folder as npm makes one; claude's postinstall, which is not run, would put its binary there."""
    folder.mkdir()
    for name in ("pi", "codex", "gemini"):
        (folder / name).symlink_to((MODULES / ".bin" / name).resolve())
    claude = next(MODULES.glob("@anthropic-ai/claude-code-linux-*/claude"), None)
    if claude is not None:
        (folder / "claude").symlink_to(claude)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    if not (MODULES / ".bin").is_dir():
        pytest.skip("the agent CLIs are not installed; ./scripts/test-agents does it")
    key = "sk-double-" + secrets.token_hex(16)
    for name in ("project", "home"):
        (tmp_path / name).mkdir()
    executables(tmp_path / "bin")
    config = tmp_path / "choir.toml"
    with provider_double(key) as double, recorded(double.origin) as front:
        config.write_text(
            '[sandbox]\nforward_env = ["MCP_CONNECTION_NONBLOCKING"]\n'
            f"[providers.openai]\nbase_url = '{front.origin}/v1'\nkey = 'env:DOUBLE_KEY'\n"
            f"[providers.anthropic]\nbase_url = '{front.origin}'\nkey = 'env:DOUBLE_KEY'\n"
            f"[providers.google]\nbase_url = '{front.origin}'\nkey = 'env:DOUBLE_KEY'\n"
        )
        yield Deployment(double, front, config, tmp_path, key)


@pytest.mark.parametrize("agent", COMMANDS)
def test_agent_runs_a_command_and_finishes(deployment: Deployment, agent: str) -> None:
    model = ("--model", MODELS[agent]) if agent in MODELS else ()
    done = deployment.run(*model, "--", *COMMANDS[agent])
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert (deployment.project / "proof.txt").read_text() == "kept\n", said
    assert "The proof is written." in done.stdout, said

    heads = [(line, headers) for line, headers in deployment.front.heads() if line.startswith("POST")]
    assert len(heads) >= 2, "one call for the command, one with its result"
    for _, headers in heads:
        carried = [value for name in CARRIERS for value in headers.get(name, [])]
        assert [value.removeprefix("Bearer ") for value in carried] == [deployment.key]
    assert PREFIX.encode() not in deployment.front.raw, "the sandbox's token reached the provider"
    assert deployment.key not in said


def test_an_agent_remembers(deployment: Deployment) -> None:
    """The sandbox's memory is among the tools of an unmodified CLI, and what it was told is there afterwards."""
    done = deployment.run("--", "claude", "-p", "Remember the proof.")
    assert done.returncode == 0, done.stdout + done.stderr
    found = deployment.choir("memory", "export", "--run", str(deployment.project))
    assert "The proof is remembered." in found.stdout, done.stdout + done.stderr + found.stderr


def test_agent_by_name_alone(deployment: Deployment) -> None:
    """``--agent`` configures also what is started under another name."""
    (deployment.folder / "bin" / "helper").symlink_to(os.readlink(deployment.folder / "bin" / "pi"))
    done = deployment.run("--agent", "pi", "--", "helper", "-p", PROMPT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (deployment.project / "proof.txt").exists()
