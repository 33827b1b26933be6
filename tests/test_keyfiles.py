from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from choir import keyfiles
from choir.errors import KeylessError
from choir.tokens import new_key, sign

TOKEN = sign(new_key(), "01test")


def rnd(length: int) -> str:
    return "".join(
        secrets.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(length)
    )


# Built at run time, so that no scanner finds a key in this file.
HOME_FINDINGS: dict[str, Callable[[], str]] = {
    ".aws/credentials": lambda: f"[default]\naws_access_key_id = x\naws_secret_access_key = {rnd(40)}\n",
    ".netrc": lambda: f"machine example.org login ada password {rnd(16)}\n",
    ".npmrc": lambda: f"//registry.example.org/:_authToken={rnd(36)}\n",
    ".pypirc": lambda: f"[pypi]\nusername = __token__\npassword = {rnd(40)}\n",
    ".git-credentials": lambda: f"https://ada:{rnd(20)}@git.example.org\n",
    ".ssh/id_ed25519": lambda: "-----BEGIN " + f"OPENSSH PRIVATE KEY-----\n{rnd(64)}\n",
    ".ssh/deploy": lambda: "-----BEGIN " + f"OPENSSH PRIVATE KEY-----\n{rnd(64)}\n",
    ".docker/config.json": lambda: f'{{"auths": {{"r.example.org": {{"auth": "{rnd(24)}"}}}}}}',
    ".kube/config": lambda: f"users:\n- name: ada\n  user:\n    token: {rnd(40)}\n",
    ".config/gcloud/application_default_credentials.json": lambda: f'{{"client_secret": "{rnd(24)}", "type": "a"}}',
    ".config/gcloud/credentials.db": lambda: "SQLite format 3\0",
    ".claude/.credentials.json": lambda: f'{{"claudeAiOauth": {{"accessToken": "{rnd(60)}"}}}}',
    ".codex/auth.json": lambda: f'{{"OPENAI_API_KEY": "{rnd(40)}"}}',
    ".config/gh/hosts.yml": lambda: f"github.com:\n    oauth_token: {rnd(40)}\n",
    ".env": lambda: f"export SOME_API_KEY='{rnd(20)}'\n",
    ".cache/huggingface/token": lambda: rnd(30),
    ".cargo/credentials.toml": lambda: f'[registry]\ntoken = "{rnd(30)}"\n',
    ".pi/agent/auth.json": lambda: f'{{"anthropic": {{"type": "api_key", "key": "{rnd(40)}"}}}}',
}


@pytest.mark.parametrize("name", HOME_FINDINGS)
def test_credential_files_in_a_home(tmp_path: Path, name: str) -> None:
    content = HOME_FINDINGS[name]()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(KeylessError) as caught:
        keyfiles.check_home(tmp_path)
    assert caught.value.reason == "credential_in_file"
    assert str(tmp_path / name) in caught.value.message
    assert max(content.split(), key=len) not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".codex/auth.json", f'{{"OPENAI_API_KEY": "{TOKEN}"}}'),
        (".codex/config.toml", '[model_providers.choir]\nenv_key = "CHOIR_PROVIDER_GATEWAY_TOKEN"\n'),
        (".claude.json", '{"hasCompletedOnboarding": true, "customApiKeyResponses": {"approved": ["x"]}}'),
        (".pi/agent/auth.json", "{}"),
        (".npmrc", "fund=false\n//registry.example.org/:_authToken=${NPM_TOKEN}\n"),
        (".env", "API_KEY=\nOTHER_API_KEY=your-key-here\nTHIRD_API_KEY=<paste it>\nDEBUG=true\n"),
        (".env", "# SOME_API_KEY=\n"),
        (".aws/config", "[default]\nregion = eu-central-1\n"),
        (".docker/config.json", '{"auths": {}, "credsStore": "desktop"}'),
        (".ssh/id_ed25519.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA ada@example\n"),
        (".ssh/known_hosts", "example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA\n"),
        (".gitconfig", "[user]\nname = Ada\nemail = ada@example.org\n[credential]\nhelper = store\n"),
        (".kube/config", "clusters: []\n"),
    ],
)
def test_harmless_files_in_a_home(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    keyfiles.check_home(tmp_path)


def test_a_fifo_or_folder_in_a_credentials_place_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / ".aws" / "credentials").mkdir(parents=True)
    os.mkfifo(tmp_path / ".netrc")
    keyfiles.check_home(tmp_path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, content in {
        ".env": f"OPENAI_API_KEY={rnd(40)}\n",
        ".env.example": "OPENAI_API_KEY=your-key\n",
        "deep/er/.env.production": f"DB_PASSWORD={rnd(12)}\n",
        "certs/server.pem": "-----BEGIN " + f"PRIVATE KEY-----\n{rnd(60)}\n",
        "certs/ca.pem": "-----BEGIN CERTIFICATE-----\nMIIB\n",
        "config/settings.json": f'{{"openai": "sk-{rnd(48)}"}}',
        "config/tokens.json": '{"token": "start", "max_tokens": 100, "secret_santa": "abcdefgh"}',
        "config/account.json": '{"type": "service_account", "private_key": "' + "-----BEGIN " + 'PRIVATE KEY-----"}',
        ".npmrc": f"//registry.example.org/:_authToken={rnd(36)}\n",
        "code.py": "KEY = 'x'\n",
        "node_modules/pkg/.env": f"API_KEY={rnd(20)}\n",
        ".git/config": f'[remote "origin"]\nurl = https://ada:{rnd(20)}@git.example.org/x\n',
        ".git/hooks/pre-commit": "#!/bin/sh\n",
        ".envrc": "layout python\n",
        "sub/repo/.git/config": "[core]\n",
        "sub/worktree/.git": "gitdir: /elsewhere\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "link.env").symlink_to(tmp_path / ".env")
    return tmp_path


def test_key_files_of_a_project(project: Path) -> None:
    assert {str(path.relative_to(project)) for path in keyfiles.find_key_files(project)} == {
        ".env",
        ".git/config",
        ".npmrc",
        "certs/server.pem",
        "config/account.json",
        "config/settings.json",
        "deep/er/.env.production",
    }


def test_protected_paths_of_a_project(project: Path) -> None:
    assert {str(path.relative_to(project)) for path in keyfiles.find_protected(project)} == {
        ".envrc",
        ".git/config",
        ".git/hooks",
        "sub/repo/.git/config",
        "sub/repo/.git/hooks",
        "sub/worktree/.git",
    }


@pytest.mark.parametrize("name", ["hooks", "config"])
@pytest.mark.parametrize("target", ["../kept", "../../../../../run", "nowhere"])
def test_a_repository_that_obeys_a_link_is_protected_whole(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    (tmp_path / "sub" / "kept").mkdir()
    (tmp_path / "sub" / ".git" / name).symlink_to(target)
    assert keyfiles.find_protected(tmp_path) == [tmp_path / "sub" / ".git"]


def test_a_repository_behind_a_link_within_the_project(tmp_path: Path) -> None:
    for name in ("store/hooks", "a", "b", "c", "outside"):
        (tmp_path / "project" / name).mkdir(parents=True)
    project = tmp_path / "project"
    text = f'[remote "origin"]\nurl = https://ada:{rnd(20)}@git.example.org/x\n'
    (project / "outside").rename(tmp_path / "outside")
    for folder in (project / "store", tmp_path / "outside"):
        (folder / "config").write_text(text)
    (project / "a" / ".git").symlink_to("../store")
    (project / "b" / ".git").symlink_to(tmp_path / "outside")
    (project / "c" / ".git").symlink_to("nowhere")
    assert keyfiles.find_protected(project) == [project / "store" / "hooks", project / "store" / "config"]
    assert keyfiles.find_key_files(project) == [project / "store" / "config"]


@pytest.mark.parametrize("find", [keyfiles.find_key_files, keyfiles.find_protected])
def test_nothing_outside_is_looked_at_when_a_folder_becomes_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[Path], list[Path]]
) -> None:
    project, private = tmp_path / "project", tmp_path / "private"
    (project / "sub").mkdir(parents=True)
    private.mkdir()
    (private / ".env").write_text(f"API_KEY={rnd(20)}\n")
    (private / ".envrc").write_text("layout python\n")
    real = os.scandir

    def scandir(path: Any) -> Any:
        with real(path) as listed:
            entries = list(listed)
        if (project / "sub").is_dir() and not (project / "sub").is_symlink():  # seen as a folder, then exchanged
            (project / "sub").rename(tmp_path / "aside")
            (project / "sub").symlink_to(private)
        return contextlib.nullcontext(entries)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find(project) == []


def test_the_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "_MAX_ENTRIES", 10)
    for number in range(50):
        (tmp_path / f"a{number:02}").touch()
    (tmp_path / "z.env").write_text(f"API_KEY={rnd(20)}\n")
    assert keyfiles.find_key_files(tmp_path) == []
