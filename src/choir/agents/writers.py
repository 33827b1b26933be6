"""How each agent CLI is told to use the gateway: one small pure writer each.

Files never hold the token, only the name of the variable it is in, so they stay right from run to run. Each CLI is told
not to ask before it acts: the sandbox is the boundary, and its own sandbox cannot be nested. A person's own flags win.
Sources are the CLIs' documentation; ``scripts/test-agents`` runs claude, codex, gemini and pi for real.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from choir.inside import gateway_base_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from choir.config import Family, Provider

MEMORY = "choir-memory"
TOKEN_VARIABLE = "CHOIR_PROVIDER_GATEWAY_TOKEN"  # noqa: S105 - its name


class Choice(NamedTuple):
    """What an agent shall use."""

    provider: Provider
    """The one whose API it speaks by default."""
    family: Family
    model: str | None
    """None: the CLI's own default."""
    providers: tuple[Provider, ...]
    """All that are enabled, for CLIs that take several."""
    token: str
    workspace: Path | None
    memory: tuple[str, ...] = ()
    """The command of the sandbox's memory as an MCP server (``choir.sandbox.memory.mcp``); empty: none."""

    @property
    def base_url(self) -> str:
        """As the maker's SDK wants it."""
        return gateway_base_url(self.provider.name)

    @property
    def openai_base_url(self) -> str:
        return openai_base_url(self.provider)


class Written(NamedTuple):
    """What a writer decided."""

    environment: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    unset: tuple[str, ...] = ()
    files: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it
    flags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(flag, words by which a person may have said so or otherwise), to come right after the CLI's name."""
    subcommand_flags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(subcommand, flags to come right after it)."""


def memory_servers(choice: Choice, **more: Any) -> dict[str, Any]:
    """``mcpServers`` as most CLIs want them."""
    if not choice.memory:
        return {}
    command, *arguments = choice.memory
    return {"mcpServers": {MEMORY: {"command": command, "args": arguments, **more}}}


def openai_base_url(provider: Provider) -> str:
    return gateway_base_url(provider.name) + provider.client_path


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _toml(value: str) -> str:
    """A TOML basic string: JSON's, but for surrogates and DEL, which TOML does not take as they are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def claude(choice: Choice) -> Written:
    environment = {
        "ANTHROPIC_BASE_URL": choice.base_url,
        "ANTHROPIC_AUTH_TOKEN": choice.token,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    if choice.model:
        environment["ANTHROPIC_MODEL"] = choice.model
        if choice.provider.name != "anthropic":  # it would ask for a small model of its maker's for chores
            environment["ANTHROPIC_DEFAULT_HAIKU_MODEL"] = choice.model
    state: dict[str, Any] = {"hasCompletedOnboarding": True, **memory_servers(choice, type="stdio")}
    if choice.workspace:
        state["projects"] = {str(choice.workspace): {"hasTrustDialogAccepted": True}}
    settings = {"permissions": {"defaultMode": "bypassPermissions"}, "skipDangerousModePermissionPrompt": True}
    # With both variables set it asks which one to use.
    return Written(
        environment,
        unset=("ANTHROPIC_API_KEY",),
        files={".claude.json": _json(state), ".claude/settings.json": _json(settings)},
    )


def codex(choice: Choice) -> Written:
    lines = [
        *([f"model = {_toml(choice.model)}"] if choice.model else []),
        'model_provider = "choir"',
        'approval_policy = "never"',
        'sandbox_mode = "danger-full-access"',
        "check_for_update_on_startup = false",
        'web_search = "disabled"',
        "",
        "[analytics]",
        "enabled = false",
        "",
        "[model_providers.choir]",
        f"name = {_toml(f'{choice.provider.name} through Choir')}",
        f"base_url = {_toml(choice.openai_base_url)}",
        f"env_key = {_toml(TOKEN_VARIABLE)}",
        'wire_api = "responses"',
    ]
    if choice.memory:
        command, *arguments = choice.memory
        lines += [
            "",
            f"[mcp_servers.{MEMORY}]",
            f"command = {_toml(command)}",
            f"args = [{', '.join(map(_toml, arguments))}]",
        ]
    if choice.workspace:
        lines += ["", f"[projects.{_toml(str(choice.workspace))}]", 'trust_level = "trusted"']
    return Written(
        {TOKEN_VARIABLE: choice.token},
        files={".codex/config.toml": "\n".join(lines) + "\n"},
        subcommand_flags=(("exec", ("--skip-git-repo-check",)), ("e", ("--skip-git-repo-check",))),
    )


PI_NATIVE: dict[str, str] = {"openai": "", "anthropic": "", "google": "/v1beta", "mistral": "", "groq": "/openai/v1"}
PI_NATIVE |= {"xai": "", "openrouter": "", "deepseek": ""}
"""Providers whose models pi knows, and what its base URL for them has after Choir's."""


def pi(choice: Choice) -> Written:
    entries: dict[str, Any] = {
        provider.name: {
            "baseUrl": gateway_base_url(provider.name) + PI_NATIVE[provider.name],
            "apiKey": TOKEN_VARIABLE,
        }
        for provider in choice.providers
        if provider.name in PI_NATIVE
    }
    name = choice.provider.name
    settings: dict[str, Any] = {"defaultProvider": name}
    if choice.model:
        settings["defaultModel"] = choice.model
        anthropic = choice.family == "anthropic"
        if name not in PI_NATIVE:
            entries[name] = {
                "baseUrl": choice.base_url if anthropic else choice.openai_base_url,
                "api": "anthropic-messages" if anthropic else "openai-completions",
                "apiKey": TOKEN_VARIABLE,
                # What every OpenAI-compatible server understands.
                "compat": {} if anthropic else {"supportsDeveloperRole": False, "supportsReasoningEffort": False},
                "models": [{"id": choice.model}],
            }
    return Written(
        {TOKEN_VARIABLE: choice.token, "PI_OFFLINE": "1"},
        files={
            ".pi/agent/models.json": _json({"providers": entries}),
            ".pi/agent/settings.json": _json(settings),
        },
    )


_OPENCODE_NATIVE = {"anthropic": "/v1", "openai": "", "google": "/v1beta"}
"""Providers it brings the clients of, and what its base URL for them has after Choir's."""


def opencode(choice: Choice) -> Written:
    key = {"apiKey": f"{{env:{TOKEN_VARIABLE}}}"}
    entries: dict[str, Any] = {
        provider.name: {
            "options": {"baseURL": gateway_base_url(provider.name) + _OPENCODE_NATIVE[provider.name], **key}
        }
        for provider in choice.providers
        if provider.name in _OPENCODE_NATIVE
    }
    name = choice.provider.name
    if name not in entries:
        entries[name] = {
            "npm": "@ai-sdk/openai-compatible",
            "name": f"{name} through Choir",
            "options": {"baseURL": choice.openai_base_url, **key},
        }
    entries[name]["models"] = {choice.model: {}}
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "provider": entries,
        "model": f"{name}/{choice.model}",
        "small_model": f"{name}/{choice.model}",
        "permission": {"edit": "allow", "bash": "allow"},
        "autoupdate": False,
        "share": "disabled",
    }
    if choice.memory:
        settings["mcp"] = {MEMORY: {"type": "local", "command": list(choice.memory), "enabled": True}}
    return Written(
        {TOKEN_VARIABLE: choice.token, "OPENCODE_DISABLE_AUTOUPDATE": "1"},
        files={".config/opencode/opencode.json": _json(settings)},
    )


def gemini(choice: Choice) -> Written:
    environment = {
        "GOOGLE_GEMINI_BASE_URL": choice.base_url,
        "GEMINI_API_KEY": choice.token,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    }
    if choice.model:
        environment["GEMINI_MODEL"] = choice.model
    settings = {
        "security": {"auth": {"selectedType": "gemini-api-key"}},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        **memory_servers(choice, trust=True),
    }
    # With GOOGLE_API_KEY set it asks Vertex AI. Its settings cannot say that it need not ask.
    return Written(
        environment,
        unset=("GOOGLE_API_KEY",),
        files={".gemini/settings.json": _json(settings)},
        flags=(("--approval-mode=yolo", ("--approval-mode", "--yolo", "-y")),),
    )


def qwen(choice: Choice) -> Written:
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "tools": {"approvalMode": "yolo"},
        "general": {"disableAutoUpdate": True, "enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        **memory_servers(choice, trust=True),
    }
    environment = {
        "OPENAI_BASE_URL": choice.openai_base_url,
        "OPENAI_API_KEY": choice.token,
        "OPENAI_MODEL": choice.model or "",
    }
    return Written(environment, files={".qwen/settings.json": _json(settings)})


def aider(choice: Choice) -> Written:
    """Through litellm, which picks the API by the model's prefix."""
    environment = {"AIDER_ANALYTICS": "false", "AIDER_CHECK_UPDATE": "false", "AIDER_SHOW_MODEL_WARNINGS": "false"}
    if choice.family == "anthropic":
        environment |= {"ANTHROPIC_API_BASE": choice.base_url, "ANTHROPIC_API_KEY": choice.token}
    else:
        environment |= {"OPENAI_API_BASE": choice.openai_base_url, "OPENAI_API_KEY": choice.token}
    environment["AIDER_MODEL"] = f"{choice.family}/{choice.model}"
    return Written(environment)


def goose(choice: Choice) -> Written:
    environment = {
        "GOOSE_PROVIDER": choice.family,
        "GOOSE_MODEL": choice.model or "",
        "GOOSE_MODE": "auto",
        "GOOSE_DISABLE_KEYRING": "1",
    }
    if choice.family == "anthropic":
        environment |= {"ANTHROPIC_HOST": choice.base_url, "ANTHROPIC_API_KEY": choice.token}
    else:
        # It takes the origin and the path apart, and joins them itself.
        origin, _, path = choice.openai_base_url.partition("/provider/")
        environment |= {
            "OPENAI_HOST": origin,
            "OPENAI_BASE_PATH": f"provider/{path}/chat/completions",
            "OPENAI_API_KEY": choice.token,
        }
    return Written(environment)
