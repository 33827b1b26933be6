"""Real layouts of version managers, built in a folder that stands in for a home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from choir.agents.resolve import CommandError, Resolved, resolve_command


class World:
    """A home, a project in it, and a PATH."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home" / "ada"
        self.project = self.home / "work" / "project"
        self.project.mkdir(parents=True)
        self.path: list[Path] = []
        self.environment: dict[str, str] = {}

    def program(self, path: str, text: str = "\x7fELF", mode: int = 0o755) -> Path:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def link(self, path: str, target: str | Path) -> Path:
        link = self.home / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
        return link

    def folder(self, path: str) -> Path:
        (self.home / path).mkdir(parents=True, exist_ok=True)
        return self.home / path

    def on_path(self, *folders: str) -> None:
        self.path += [self.home / folder for folder in folders]

    def resolve(self, command: str) -> Resolved:
        path = os.pathsep.join(str(each) for each in self.path)
        return resolve_command(command, path, self.project, self.environment, self.home)

    def mounts(self, found: Resolved) -> set[str]:
        assert not any(mount.writable for mount in found.mounts)
        return {str(mount.path.relative_to(self.home)) for mount in found.mounts}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path.resolve())


def nvm(world: World) -> None:
    world.program(".nvm/versions/node/v22.1.0/bin/node")
    world.folder(".nvm/versions/node/v22.1.0/lib/node_modules")
    world.on_path(".nvm/versions/node/v22.1.0/bin")


def pyenv(world: World, *versions: str) -> None:
    for version in versions:
        world.program(f".pyenv/versions/{version}/bin/python3")
        world.folder(f".pyenv/versions/{version}/lib")
    world.program(".pyenv/shims/python3", "#!/usr/bin/env bash\nexec pyenv exec\n")
    world.on_path(".pyenv/shims")


def test_of_the_system() -> None:
    found = resolve_command("sh", "/usr/bin:/bin", Path("/srv"), {}, Path("/nowhere"))
    assert found == Resolved(found.argv0, (), ())
    assert os.path.basename(os.path.realpath("/bin/sh")) == os.path.basename(os.path.realpath(found.argv0))


def test_of_the_workspace(world: World) -> None:
    world.program("work/project/run.sh", "#!/bin/sh\n")
    found = world.resolve("./run.sh")
    assert found == Resolved(str(world.project / "run.sh"), (), ())


def test_pyenv_shim_becomes_the_interpreter(world: World) -> None:
    pyenv(world, "3.11.7", "3.12.1")
    world.program(".pyenv/version", "3.11.7\n", 0o644)
    found = world.resolve("python3")
    assert found.argv0 == str(world.home / ".pyenv/versions/3.11.7/bin/python3")
    assert world.mounts(found) == {".pyenv/versions/3.11.7"}
    assert found.path_entries == (str(world.home / ".pyenv/versions/3.11.7/bin"),)


@pytest.mark.parametrize(
    ("variable", "local", "globally", "version"),
    [
        ("", "", "3.11.7", "3.11.7"),
        ("", "3.12.1", "3.11.7", "3.12.1"),
        ("3.12.10", "3.11.7", "3.11.7", "3.12.10"),
        ("", "3.12", "3.11.7", "3.12.10"),
        ("", "# ours\n3.12.1 # pinned\n", "3.11.7", "3.12.1"),
        ("", "python-3.11.7", "", "3.11.7"),
        ("3.9.9:3.11.7", "", "", "3.11.7"),
    ],
)
def test_pyenv_picks_as_pyenv_does(world: World, variable: str, local: str, globally: str, version: str) -> None:
    pyenv(world, "3.11.7", "3.12.1", "3.12.10")
    if variable:
        world.environment["PYENV_VERSION"] = variable
    if local:
        world.program("work/.python-version", local, 0o644)
    world.program(".pyenv/version", globally, 0o644)
    assert world.mounts(world.resolve("python3")) == {f".pyenv/versions/{version}"}


def test_pyenv_without_a_version_says_which_have_it(world: World) -> None:
    pyenv(world, "3.12.1")
    world.program(".pyenv/version", "3.11.7", 0o644)
    with pytest.raises(CommandError) as caught:
        world.resolve("python3")
    assert (caught.value.reason, caught.value.exit_code) == ("command_not_found", 127)
    assert "3.12.1" in caught.value.hint


def test_pyenv_system_goes_on_along_the_path(world: World) -> None:
    pyenv(world, "3.12.1")
    world.program(".pyenv/version", "system", 0o644)
    world.path.append(Path("/usr/bin"))
    assert world.resolve("python3").argv0.startswith("/usr/bin/")


def test_a_project_cannot_point_pyenv_elsewhere(world: World) -> None:
    pyenv(world, "3.12.1")
    world.program("evil/bin/python3")
    world.folder("evil/lib")
    world.program("work/project/.python-version", "../../evil\n", 0o644)
    with pytest.raises(CommandError):
        world.resolve("python3")


def test_npm_global_under_nvm(world: World) -> None:
    nvm(world)
    package = ".nvm/versions/node/v22.1.0/lib/node_modules/@anthropic-ai/claude-code"
    cli = world.program(f"{package}/cli.js", "#!/usr/bin/env node\n")
    world.link(".nvm/versions/node/v22.1.0/bin/claude", "../lib/node_modules/@anthropic-ai/claude-code/cli.js")
    found = world.resolve("claude")
    assert found.argv0 == str(cli)
    assert world.mounts(found) == {".nvm/versions/node/v22.1.0"}
    assert str(world.home / ".nvm/versions/node/v22.1.0/bin") in found.path_entries


def test_npm_prefix_in_the_home_shows_the_package_alone(world: World) -> None:
    nvm(world)
    world.program(".local/lib/node_modules/@openai/codex/bin/codex.js", "#!/usr/bin/env node\n")
    world.program(".local/lib/node_modules/other/index.js")
    world.program(".local/share/keyrings/login.keyring", "secret", 0o600)
    world.link(".local/bin/codex", "../lib/node_modules/@openai/codex/bin/codex.js")
    world.on_path(".local/bin")
    found = world.resolve("codex")
    assert world.mounts(found) == {".local/lib/node_modules/@openai/codex", ".nvm/versions/node/v22.1.0"}


def test_bun_global(world: World) -> None:
    world.program(".bun/bin/bun")
    modules = ".bun/install/global/node_modules"
    world.program(f"{modules}/@mariozechner/pi-coding-agent/dist/cli.js", "#!/usr/bin/env bun\n")
    world.link(".bun/bin/pi", "../install/global/node_modules/@mariozechner/pi-coding-agent/dist/cli.js")
    world.on_path(".bun/bin")
    found = world.resolve("pi")
    assert world.mounts(found) == {modules, ".bun/bin/bun"}
    assert str(world.home / ".bun/bin") in found.path_entries


def test_native_binary_in_local_bin_alone(world: World) -> None:
    world.program(".local/share/claude/versions/2.1.0")
    world.program(".local/bin/other")
    world.link(".local/bin/claude", world.home / ".local/share/claude/versions/2.1.0")
    world.on_path(".local/bin")
    found = world.resolve("claude")
    assert found.argv0 == str(world.home / ".local/bin/claude")
    assert world.mounts(found) == {".local/bin/claude"}
    assert found.path_entries == (str(world.home / ".local/bin"),)


def test_pipx_tool_with_its_interpreter(world: World) -> None:
    world.program(".local/share/uv/python/cpython-3.12/bin/python3.12")
    world.link(".local/share/uv/python/cpython-3.12/bin/python3", "python3.12")
    world.folder(".local/share/uv/python/cpython-3.12/lib")
    base = world.home / ".local/share/uv/python/cpython-3.12"
    venv = ".local/share/uv/tools/aider-chat"
    world.program(f"{venv}/pyvenv.cfg", f"home = {base}/bin\n", 0o644)
    python = world.link(f"{venv}/bin/python", base / "bin/python3.12")
    world.program(f"{venv}/bin/aider", f"#!{python}\n")
    world.link(".local/bin/aider", world.home / venv / "bin/aider")
    world.on_path(".local/bin")
    found = world.resolve("aider")
    assert world.mounts(found) >= {venv, ".local/share/uv/python/cpython-3.12"}


def test_volta(world: World) -> None:
    world.program(".volta/bin/volta-shim")
    image = ".volta/tools/image"
    world.program(f"{image}/node/20.5.0/bin/node")
    world.folder(f"{image}/node/20.5.0/lib")
    cli = world.program(
        f"{image}/packages/@openai/codex/lib/node_modules/@openai/codex/bin/codex.js", "#!/usr/bin/env node\n"
    )
    world.link(f"{image}/packages/@openai/codex/bin/codex", cli)
    world.link(".volta/bin/codex", "volta-shim")
    world.link(".volta/bin/node", "volta-shim")
    user = ".volta/tools/user"
    world.program(f"{user}/platform.json", json.dumps({"node": {"runtime": "20.5.0", "npm": None}}), 0o644)
    world.program(f"{user}/bins/codex.json", json.dumps({"name": "codex", "package": "@openai/codex"}), 0o644)
    world.on_path(".volta/bin")
    found = world.resolve("codex")
    assert found.argv0 == str(cli)
    mounts = world.mounts(found)
    assert f"{image}/node/20.5.0" in mounts
    assert any(mount.startswith(f"{image}/packages/@openai/codex") for mount in mounts)
    assert str(world.home / image / "node/20.5.0/bin") in found.path_entries


def test_rustup_proxy(world: World) -> None:
    world.program(".cargo/bin/rustup")
    world.link(".cargo/bin/cargo", "rustup")
    world.program(".cargo/credentials.toml", "secret", 0o600)
    cargo = world.program(".rustup/toolchains/stable/bin/cargo")
    world.folder(".rustup/toolchains/stable/lib")
    world.program(".rustup/settings.toml", 'default_toolchain = "stable"\n', 0o644)
    world.on_path(".cargo/bin")
    found = world.resolve("cargo")
    assert found.argv0 == str(cargo)
    assert world.mounts(found) == {".rustup/toolchains/stable"}


def test_workspace_venv_shows_the_interpreter_it_was_made_from(world: World) -> None:
    world.program(".pyenv/versions/3.12.1/lib/python3.12/os.py")
    pyenv(world, "3.12.1")
    base = world.home / ".pyenv/versions/3.12.1"
    world.program("work/project/.venv/pyvenv.cfg", f"home = {base}/bin\nversion = 3.12.1\n", 0o644)
    python = world.link("work/project/.venv/bin/python", base / "bin/python3")
    world.path.insert(0, python.parent)
    found = world.resolve("python")
    assert found.argv0 == str(python), "Python finds its venv by the path it is started by"
    assert world.mounts(found) == {".pyenv/versions/3.12.1"}
    assert found.path_entries[0] == str(python.parent)


@pytest.mark.parametrize("target", [".config/gcloud/bin", "private", ".aws/bin", "Documents/bin"])
def test_a_forged_venv_shows_nothing(world: World, target: str) -> None:
    """An agent can write pyvenv.cfg; it must not choose what the next run sees."""
    world.program(f"{target}/secret", "secret", 0o600)
    world.folder(f"{target}/../lib")
    world.program("work/project/.venv/pyvenv.cfg", f"home = {world.home / target}\n", 0o644)
    python = world.link("work/project/.venv/bin/python", "/usr/bin/python3")
    world.path.insert(0, python.parent)
    assert world.mounts(world.resolve("python")) == set()


@pytest.mark.parametrize("folder", [".config/tool", ".aws", ".local", "tool", "."])
def test_never_a_wide_or_private_folder(world: World, folder: str) -> None:
    program = world.program(f"{folder}/bin/tool")
    world.folder(f"{folder}/lib")
    world.path.append(program.parent)
    found = world.resolve("tool")
    assert [mount.path for mount in found.mounts] == [program]


@pytest.mark.parametrize("name", ["auth.json", "credentials.toml", ".env", ".npmrc"])
def test_never_a_folder_with_a_credential_file(world: World, name: str) -> None:
    program = world.program("tools/one/bin/tool")
    world.folder("tools/one/lib")
    world.on_path("tools/one/bin")
    assert world.mounts(world.resolve("tool")) == {"tools/one"}
    world.program(f"tools/one/{name}", "secret", 0o600)
    assert [mount.path for mount in world.resolve("tool").mounts] == [program]


def test_companions_come_along(world: World) -> None:
    nvm(world)
    world.path.append(Path("/usr/bin"))
    found = world.resolve("sh")
    assert world.mounts(found) == {".nvm/versions/node/v22.1.0"}
    assert found.path_entries == (str(world.home / ".nvm/versions/node/v22.1.0/bin"),)


def test_interpreters_that_chase_each_other_end(world: World) -> None:
    world.program("work/project/a", f"#!{world.project}/b\n")
    world.program("work/project/b", f"#!{world.project}/a\n")
    assert world.resolve("./a").argv0 == str(world.project / "a")


@pytest.mark.parametrize(
    ("command", "reason", "code", "hint"),
    [
        ("nope", "command_not_found", 127, "command -v nope"),
        ("here", "command_not_found", 127, "./here"),
        ("claude", "command_not_found", 127, "npm install"),
        ("./plain", "command_not_executable", 126, "chmod +x"),
        ("./missing", "command_not_found", 127, "from this folder"),
        ("", "command_not_found", 127, ""),
    ],
)
def test_not_found(world: World, command: str, reason: str, code: int, hint: str) -> None:
    world.program("work/project/here")
    world.program("work/project/plain", mode=0o644)
    with pytest.raises(CommandError) as caught:
        world.resolve(command)
    assert (caught.value.reason, caught.value.exit_code) == (reason, code)
    assert hint in caught.value.hint


def test_relative_entries_of_the_path_are_not_followed(world: World) -> None:
    world.program("work/project/tool")
    with pytest.raises(CommandError):
        resolve_command("tool", ".:", world.project, {}, world.home)


def test_this_interpreter_runs_from_what_is_shown() -> None:
    """What is shown of the interpreter that runs this test is enough to start it."""
    found = resolve_command(sys.executable, os.environ["PATH"], Path("/nonexistent"))
    shown = [*(str(mount.path) for mount in found.mounts), "/usr", "/bin", "/lib"]
    code = (
        "import sys, os, ssl, sqlite3; print(os.path.realpath(sys.base_prefix)); print(os.path.realpath(os.__file__))"
    )
    done = subprocess.run([found.argv0, "-Ic", code], capture_output=True, text=True, check=True)
    for line in done.stdout.split():
        assert any(line == each or line.startswith(each + "/") for each in shown), (line, shown)


@pytest.mark.parametrize("target", ["letters/bin/run", "work/other/bin/run", ".local/notes.sh"])
@pytest.mark.parametrize("how", ["link", "first line", "venv"])
def test_a_file_of_the_workspace_shows_no_folder_of_its_choice(world: World, target: str, how: str) -> None:
    program = world.program(target)
    (program.parent.parent / "lib").mkdir(exist_ok=True)
    tool = world.project / ".venv" / "bin" / "tool"
    tool.parent.mkdir(parents=True)
    if how == "first line":
        tool.write_text(f"#!{program}\n")
        tool.chmod(0o755)
    else:
        tool.symlink_to(program)
    if how == "venv":
        (world.project / ".venv" / "pyvenv.cfg").write_text(f"home = {program.parent}\n")
    with pytest.raises(CommandError) as caught:
        world.resolve("./.venv/bin/tool")
    assert (caught.value.reason, caught.value.exit_code) == ("command_elsewhere", 126)
