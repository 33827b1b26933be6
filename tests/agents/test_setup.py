from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import config, keyfiles, keyless
from choir.agents import setup
from choir.agents.clis import AGENTS, speaks_responses
from choir.agents.names import NAMES, detect
from choir.agents.setup import AgentError, AgentSetup
from choir.agents.writers import TOKEN_VARIABLE
from choir.config import Provider
from choir.inside import GATEWAY_ORIGIN
from choir.tokens import new_key, sign

TOKEN = sign(new_key(), "01j0000000000000000000test")
WORKSPACE = Path("/srv/project")
BASE = GATEWAY_ORIGIN + "/provider/v1"


def providers(*names: str) -> list[Provider]:
    table = config.load(Path("/dev/null")).providers
    return [table[name] for name in names]


def prepare(agent: str, *names: str, model: str | None = None, command: tuple[str, ...] = ()) -> AgentSetup:
    return setup.prepare(agent, providers(*names), TOKEN, model, command, WORKSPACE)


def reason(agent: str, *names: str, model: str | None = None) -> str:
    with pytest.raises(AgentError) as caught:
        prepare(agent, *names, model=model)
    assert caught.value.hint
    return caught.value.reason


def test_claude() -> None:
    made = prepare("claude", "openai", "anthropic")
    assert made.environment["ANTHROPIC_BASE_URL"] == f"{BASE}/anthropic"
    assert made.environment["ANTHROPIC_AUTH_TOKEN"] == TOKEN
    assert made.environment["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert "ANTHROPIC_MODEL" not in made.environment, "its own default"
    assert made.unset == ("ANTHROPIC_API_KEY",), "with both it asks which one to use"
    state = json.loads(made.files[".claude.json"])
    assert state["hasCompletedOnboarding"]
    assert state["projects"] == {"/srv/project": {"hasTrustDialogAccepted": True}}
    assert made.command == ("claude",)


def test_codex() -> None:
    made = prepare("codex", "anthropic", "openai", model="gpt-x", command=("/opt/x/codex", "exec", "do it"))
    written = tomllib.loads(made.files[".codex/config.toml"])
    provider = written["model_providers"][written["model_provider"]]
    assert written["model"] == "gpt-x"
    assert provider["base_url"] == f"{BASE}/openai"
    assert provider["env_key"] in made.environment
    assert provider["wire_api"] == "responses"
    assert written["projects"]["/srv/project"]["trust_level"] == "trusted"
    assert made.command == ("/opt/x/codex", "exec", "--skip-git-repo-check", "do it")


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_codex_configuration_is_toml_whatever_the_folder_is_called(name: str) -> None:
    workspace = Path("/srv") / name.replace("\0", "")
    made = setup.prepare("codex", providers("openai"), TOKEN, None, (), workspace)
    assert list(tomllib.loads(made.files[".codex/config.toml"])["projects"]) == [str(workspace)]


@pytest.mark.parametrize(
    ("command", "made"),
    [
        ((), ("codex",)),
        (("codex", "-m", "x", "exec", "p"), ("codex", "-m", "x", "exec", "--skip-git-repo-check", "p")),
        (("codex", "exec", "--skip-git-repo-check", "p"), ("codex", "exec", "--skip-git-repo-check", "p")),
        (("codex", "do it"), ("codex", "do it")),
        (("./wrapper", "exec"), ("./wrapper", "exec")),
    ],
)
def test_codex_command(command: tuple[str, ...], made: tuple[str, ...]) -> None:
    assert prepare("codex", "openai", command=command).command == made


def test_pi_takes_all_it_knows() -> None:
    made = prepare("pi", "openai", "anthropic", "google", "groq", "local", "tavily")
    entries = json.loads(made.files[".pi/agent/models.json"])["providers"]
    assert {name: entry["baseUrl"] for name, entry in entries.items()} == {
        "openai": f"{BASE}/openai",
        "anthropic": f"{BASE}/anthropic",
        "google": f"{BASE}/google/v1beta",
        "groq": f"{BASE}/groq/openai/v1",
    }
    assert json.loads(made.files[".pi/agent/settings.json"])["defaultProvider"] == "anthropic"
    assert made.environment["PI_OFFLINE"] == "1"


def test_pi_with_a_server_it_does_not_know() -> None:
    made = prepare("pi", "local")
    settings = json.loads(made.files[".pi/agent/settings.json"])
    entry = json.loads(made.files[".pi/agent/models.json"])["providers"]["local"]
    assert settings == {"defaultProvider": "local", "defaultModel": setup.LOCAL_MODEL}
    assert [each["id"] for each in entry["models"]] == [setup.LOCAL_MODEL]
    assert entry["api"] == "anthropic-messages"


def test_opencode() -> None:
    made = prepare("opencode", "openai", "groq", model="groq/openai/gpt-oss-120b")
    written = json.loads(made.files[".config/opencode/opencode.json"])
    assert written["model"] == "groq/openai/gpt-oss-120b"
    assert written["provider"]["groq"]["options"]["baseURL"] == f"{BASE}/groq/openai/v1"
    assert written["provider"]["openai"]["options"]["baseURL"] == f"{BASE}/openai"


def test_gemini() -> None:
    made = prepare("gemini", "google", model="gemini-x")
    assert made.environment["GOOGLE_GEMINI_BASE_URL"] == f"{BASE}/google"
    assert made.environment["GEMINI_MODEL"] == "gemini-x"
    assert made.unset == ("GOOGLE_API_KEY",)
    assert made.command == ("gemini", "--approval-mode=yolo")
    assert prepare("gemini", "google", command=("gemini", "--approval-mode", "plan")).command[1:] == (
        "--approval-mode",
        "plan",
    )


def test_qwen_aider_goose() -> None:
    made = prepare("qwen", "openrouter", model="qwen/coder")
    assert made.environment["OPENAI_BASE_URL"] == f"{BASE}/openrouter"
    assert made.environment["OPENAI_MODEL"] == "qwen/coder", "openrouter is no prefix here: qwen is no provider"
    made = prepare("aider", "openai", model="gpt-x")
    assert made.environment["OPENAI_API_BASE"] == f"{BASE}/openai"
    assert made.environment["AIDER_MODEL"] == "openai/gpt-x"
    made = prepare("goose", "groq", model="m")
    assert made.environment["OPENAI_HOST"] == GATEWAY_ORIGIN
    assert made.environment["OPENAI_BASE_PATH"] == "provider/v1/groq/openai/v1/chat/completions"
    made = prepare("goose", "anthropic", model="m")
    assert made.environment["ANTHROPIC_HOST"] == f"{BASE}/anthropic"


@pytest.mark.parametrize(
    ("agent", "names", "model", "chosen"),
    [
        ("pi", ("openai", "local"), None, ("openai", None)),
        ("pi", ("local", "google"), None, ("google", None)),
        ("pi", ("openai", "anthropic"), "openai/gpt-x", ("openai", "gpt-x")),
        ("pi", ("openai", "anthropic"), "some/model", ("anthropic", "some/model")),
        ("claude", ("local", "anthropic"), None, ("anthropic", None)),
        ("claude", ("local",), None, ("local", setup.LOCAL_MODEL)),
        ("codex", ("groq", "openai"), None, ("openai", None)),
        ("codex", ("mistral", "xai"), "m", ("xai", "m")),
    ],
)
def test_choice(agent: str, names: tuple[str, ...], model: str | None, chosen: tuple[str, str | None]) -> None:
    provider, _, name = setup._choose(agent, AGENTS[agent], providers(*names), model)
    assert (provider.name, name) == chosen


def test_responses_api() -> None:
    speaking = {
        provider.name for provider in config.load(Path("/dev/null")).providers.values() if speaks_responses(provider)
    }
    assert speaking >= {"openai", "openrouter", "groq", "xai", "local"}
    assert not speaking & {"mistral", "deepseek", "anthropic", "google"}


def test_refusals() -> None:
    assert reason("cluade", "anthropic") == "agent_unknown"
    assert reason("claude", "openai") == "agent_needs_provider"
    assert reason("codex", "mistral", "anthropic") == "agent_needs_provider"
    assert reason("gemini") == "agent_needs_provider"
    assert reason("goose", "openai") == "agent_needs_model"
    with pytest.raises(AgentError, match="anthropic API; enabled: openai, tavily"):
        prepare("claude", "openai", "tavily")


@pytest.mark.parametrize("agent", AGENTS)
def test_files_hold_no_token_and_pass_the_keyless_policy(agent: str, tmp_path: Path) -> None:
    made = prepare(agent, "anthropic", "openai", "google", model="m")
    for name, content in made.files.items():
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        assert TOKEN not in content
        assert "choir-gt-" not in content
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    keyfiles.check_home(tmp_path)
    keyless.check_environment({**made.environment, TOKEN_VARIABLE: TOKEN})


@pytest.mark.parametrize(
    ("command", "agent"),
    [
        ("claude", "claude"),
        ("/opt/bin/codex", "codex"),
        ("./pi", "pi"),
        ("python", None),
        ("claude-x", None),
        ("", None),
    ],
)
def test_detect(command: str, agent: str | None) -> None:
    assert detect(command) == agent


def test_every_agent_is_detected() -> None:
    assert tuple(AGENTS) == NAMES


MEMORY = ("/usr/bin/python3", "-I", "-m", "memory")


@pytest.mark.parametrize(
    ("agent", "file", "place", "entry"),
    [
        (
            "claude",
            ".claude.json",
            "mcpServers",
            {"type": "stdio", "command": MEMORY[0], "args": list(MEMORY[1:])},
        ),
        (
            "codex",
            ".codex/config.toml",
            "mcp_servers",
            {"command": MEMORY[0], "args": list(MEMORY[1:])},
        ),
        (
            "gemini",
            ".gemini/settings.json",
            "mcpServers",
            {"trust": True, "command": MEMORY[0], "args": list(MEMORY[1:])},
        ),
        (
            "qwen",
            ".qwen/settings.json",
            "mcpServers",
            {"trust": True, "command": MEMORY[0], "args": list(MEMORY[1:])},
        ),
        (
            "opencode",
            ".config/opencode/opencode.json",
            "mcp",
            {"type": "local", "command": list(MEMORY), "enabled": True},
        ),
    ],
)
def test_the_memory_is_offered(agent: str, file: str, place: str, entry: dict[str, object]) -> None:
    enabled = providers("openai", "anthropic", "google")

    def written(memory: tuple[str, ...]) -> dict[str, object]:
        text = setup.prepare(agent, enabled, TOKEN, "a-model", (), WORKSPACE, memory).files[file]
        return tomllib.loads(text) if file.endswith(".toml") else dict(json.loads(text))

    assert written(MEMORY)[place] == {"choir-memory": entry}
    assert place not in written(())
