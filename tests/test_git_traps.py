from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import git_traps
from choir.git_traps import find_git_traps, git_places, harmless_configuration

PLAIN = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[remote "origin"]
\turl = https://git.example.org/ada/x.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
[user]
\tname = Ada
"""


def repository(path: Path, config: str = PLAIN) -> None:
    for name in ("objects", "refs", "hooks"):
        (path / name).mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    (path / "config").write_text(config)
    (path / "hooks" / "pre-commit.sample").write_text("#!/bin/sh\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    repository(tmp_path / ".git")
    (tmp_path / ".git" / "hooks" / "post-merge").write_text("#!/bin/sh\n# the person's own\n")
    repository(tmp_path / "deep" / "down" / "in" / "it" / ".git", PLAIN + "[alias]\n\tx = !true\n")
    return tmp_path


def add(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(text)


DEEP = "deep/down/in/it/.git"
WORKTREE = ".git/worktrees/x"


def leave_worktree(project: Path, points_to: str = f"../{WORKTREE}") -> None:
    add(project / "tree" / ".git", f"gitdir: {points_to}\n")
    add(project / WORKTREE / "HEAD")
    add(project / WORKTREE / "commondir", "../..\n")
    add(project / WORKTREE / "gitdir", f"{project}/tree/.git\n")


def leave_odd_config(project: Path, make: Callable[[Path], object]) -> None:
    repository(project / "new" / ".git")
    (project / "new" / ".git" / "config").unlink()
    make(project / "new" / ".git" / "config")


def leave_link(project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub" / ".git").symlink_to("../data")


TRAPS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "nothing": (lambda p: add(p / "code.py"), []),
    "a clone": (lambda p: repository(p / "vendor" / "lib" / ".git"), []),
    "commondir": (lambda p: add(p / ".git" / "commondir", "../evil"), [".git/commondir"]),
    "a repository with a trap": (
        lambda p: repository(p / "vendor" / ".git", PLAIN + "[core]\n\tfsmonitor = ./evil\n"),
        ["vendor/.git/config"],
    ),
    "a deep repository changed": (lambda p: add(p / DEEP / "config", "[gpg]\n\tprogram = x\n"), [f"{DEEP}/config"]),
    "a bare one": (lambda p: repository(p / "data", "[core]\n\tbare = true\n\tsshCommand = ./evil\n"), ["data/config"]),
    "a git file": (lambda p: add(p / "sub" / ".git", "gitdir: ../data"), ["sub/.git"]),
    "a git file without sense": (lambda p: add(p / "sub" / ".git", "\0"), ["sub/.git"]),
    "a link": (leave_link, ["sub/.git"]),
    "a hook": (lambda p: add(p / DEEP / "hooks" / "post-checkout"), [f"{DEEP}/hooks/post-checkout"]),
    "a hook changed": (lambda p: add(p / ".git/hooks/post-merge"), [".git/hooks/post-merge"]),
    "a submodule": (
        lambda p: repository(p / ".git" / "modules" / "x", PLAIN + '[filter "x"]\n\tclean = ./evil\n'),
        [".git/modules/x/config"],
    ),
    "a worktree": (leave_worktree, []),
    "a worktree that is elsewhere": (lambda p: leave_worktree(p, "/elsewhere/.git/worktrees/x"), ["tree/.git"]),
    "a worktree with a trap": (
        lambda p: (leave_worktree(p), add(p / WORKTREE / "config.worktree", "[core]\n\tpager = ./evil\n")),
        [f"{WORKTREE}/config.worktree"],
    ),
    "a worktree of something else": (
        lambda p: (leave_worktree(p), add(p / WORKTREE / "commondir", "../../../evil")),
        [f"{WORKTREE}/commondir"],
    ),
    "a config that is a link": (
        lambda p: leave_odd_config(p, lambda path: path.symlink_to("/etc/passwd")),
        ["new/.git/config"],
    ),
    "a config that is a fifo": (lambda p: leave_odd_config(p, os.mkfifo), ["new/.git/config"]),
}


@pytest.mark.parametrize("name", TRAPS)
def test_find_git_traps(project: Path, name: str) -> None:
    leave, expected = TRAPS[name]
    before = git_places(project)
    assert find_git_traps(project, before) == []
    leave(project)
    assert [str(path.relative_to(project)) for path in find_git_traps(project, before)] == expected


def test_links_are_not_followed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    repository(outside / ".git", "[core]\n\tfsmonitor = x\n")
    before = git_places(project)
    (project / "link").symlink_to(outside)
    assert find_git_traps(project, before) == []


def test_the_search_is_bounded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_traps, "MAX_ENTRIES", 3)
    assert git_places(project) == {}
    monkeypatch.undo()
    monkeypatch.setattr(git_traps, "MAX_DEPTH", 2)
    assert {path.relative_to(project).parts[0] for path in git_places(project)} == {".git"}


@pytest.mark.parametrize(
    "config",
    [
        "[core]\n\tfsmonitor = x\n",
        "[CORE]\n\tFSMonitor = x\n",
        '[filter "a"]\n\tsmudge = x\n',
        "[include]\n\tpath = x\n",
        '[includeIf "gitdir:/"]\n\tpath = x\n',
        "[alias]\n\tst = !x\n",
        "[credential]\n\thelper = !x\n",
        '[remote "o"]\n\turl = ext::sh -c x\n',
        '[remote "o"]\n\tuploadpack = x\n',
        "[core] fsmonitor = x\n",
        "[user]\n\tname = Ada \\\n[core]\n\tfsmonitor = x\n",
        "[core\n",
        "fsmonitor = x\n",
        "[diff]\n\texternal = x\n",
        "[core]\n\tworktree = /\n",
    ],
)
def test_what_can_run_something_is_no_harmless_configuration(config: str) -> None:
    assert not harmless_configuration(config)
    if config.startswith("["):
        assert not harmless_configuration(PLAIN + config)


@given(st.text())
def test_any_text_gets_a_verdict(text: str) -> None:
    assert harmless_configuration(text) in (True, False)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_what_git_itself_makes_is_harmless(tmp_path: Path) -> None:
    """And an order to run something is not: git really obeys it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, check=True, capture_output=True)

    git("init", "one")
    git("-C", "one", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", "x")
    git("clone", "one", "two")
    git("-C", "one", "worktree", "add", "../three")
    assert find_git_traps(tmp_path, {}) == []
    git("-C", "two", "config", "core.fsmonitor", f"touch {tmp_path}/ran; true")
    git("-C", "two", "status")
    assert (tmp_path / "ran").exists()
    assert tmp_path / "two" / ".git" / "config" in find_git_traps(tmp_path, {})
