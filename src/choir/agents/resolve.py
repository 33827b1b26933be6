"""Find a person's command and the few folders it needs to run inside a sandbox.

Interpreters and CLIs often live in the home folder (pyenv, nvm, volta, bun, uv, pipx, npm prefixes), which a sandbox
does not see. Each is shown read-only and as narrowly as it can be: one installation's folder or the single file; never
the home, a folder right in it (``~/.cargo`` holds credentials), or one that holds a credential file. What a link, first
line or ``pyvenv.cfg`` of the workspace leads to may be an agent's choice: shown if it is a language's installation.
Nothing is executed to find out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from choir.agents import shims
from choir.errors import ChoirError
from choir.isolation.contract import Mount

STANDARD = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""What every sandbox shows anyway."""
COMPANIONS = ("python3", "node")
"""What agents start by name whatever the command is: the person's own ones come along."""
CREDENTIAL_FILES = (
    ".env", ".netrc", ".npmrc", ".pypirc", ".git-credentials", "auth.json", "credentials", "credentials.json",
    "credentials.toml", ".credentials.json", ".ssh", ".aws", ".gnupg", ".kube", ".docker", "keyrings",
)  # fmt: skip
PRIVATE_FOLDERS = frozenset(
    (".config", ".ssh", ".aws", ".gnupg", ".kube", ".docker", ".password-store", ".mozilla", ".thunderbird")
)
_MAX_INTERPRETERS = 8


class CommandError(ChoirError):
    """A command cannot be started; the exit code is a shell's."""

    def __init__(self, reason: str, message: str, hint: str, exit_code: int) -> None:
        super().__init__(reason, message, hint)
        self.exit_code = exit_code


class Resolved(NamedTuple):
    """A command as it is started inside."""

    argv0: str
    mounts: tuple[Mount, ...]
    """Read-only, none inside another, none that every sandbox shows anyway, none in the workspace."""
    path_entries: tuple[str, ...]
    """For PATH, before the standard ones."""


class _Search:
    def __init__(self, path: str, workspace: Path, environment: Mapping[str, str], home: Path) -> None:
        self.path = path
        self.workspace = workspace
        self.environment = environment
        self.home = home
        self.mounts: list[Path] = []
        self.entries: list[str] = []

    def visible(self, path: Path) -> bool:
        shown = (*(Path(each) for each in STANDARD), self.workspace, *self.mounts)
        return any(path.is_relative_to(folder) for folder in shown)

    def show(self, path: Path) -> None:
        if not self.visible(path):
            self.mounts = [each for each in self.mounts if not each.is_relative_to(path)]
            self.mounts.append(path)

    def enter(self, folder: Path) -> None:
        """Put ``folder`` on PATH unless it is a standard one or cannot be seen."""
        standard = any(folder.is_relative_to(each) for each in STANDARD)
        shown = self.visible(folder) or folder in (each.parent for each in self.mounts)
        if not standard and shown and str(folder) not in self.entries:
            self.entries.append(str(folder))


def resolve_command(
    command: str,
    path: str,
    workspace: Path,
    environment: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Resolved:
    """Find ``command`` as the person's shell would, with what it needs.

    Args:
        command: a name, or a path (relative to ``workspace``).
        path: the person's PATH.
        workspace: the folder that the sandbox shows read-write, resolved.
        environment: the person's; for ``PYENV_VERSION`` and the like. Default: this process's.
        home: whose home is to stay unseen. Default: this process's user's.

    Raises:
        CommandError: ``command_not_found`` (127), ``command_not_executable`` or ``command_elsewhere`` (126).
    """
    search = _Search(
        path, workspace, os.environ if environment is None else environment, (home or Path.home()).resolve()
    )
    found = _find(search, command)
    if found is None:
        raise _not_found(search, command)
    argv0 = _include(search, found, _MAX_INTERPRETERS, by_name="/" not in command)
    for name in COMPANIONS:
        companion = _find(search, name)
        if companion is not None:
            with contextlib.suppress(CommandError):
                _include(search, companion, _MAX_INTERPRETERS)
    return Resolved(str(argv0), tuple(Mount(each) for each in search.mounts), tuple(search.entries))


def _find(search: _Search, command: str) -> Path | None:
    if "/" in command:
        candidate = search.workspace / command
        return candidate if _executable(candidate) else None
    for folder in _folders(search):
        candidate = folder / command
        if not _executable(candidate):
            continue
        real = shims.behind(candidate, search.workspace, search.environment)
        if real is not None and _executable(real):
            return real
    return None


def _folders(search: _Search) -> Iterator[Path]:
    """Absolute ones only: a relative entry would mean another folder inside."""
    return (Path(each) for each in search.path.split(os.pathsep) if os.path.isabs(each))


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _not_found(search: _Search, command: str) -> CommandError:
    import shlex

    from choir.agents.clis import AGENTS

    local = search.workspace / command
    if local.is_file() and "/" in command:
        return CommandError(
            "command_not_executable",
            f"{command} is not executable.",
            f"Make it so: chmod +x {shlex.quote(command)}",
            126,
        )
    versions = next((found for folder in _folders(search) if (found := shims.versions(folder / command))), [])
    if versions:
        hint = f"pyenv has it in {', '.join(versions)}: set PYENV_VERSION or run: pyenv local {versions[-1]}"
    elif local.is_file():
        hint = f"There is a file of this name in this folder: ./{command}"
    elif command in AGENTS:
        hint = f"Install it: {AGENTS[command].install}"
    elif "/" in command:
        hint = "The path is taken from this folder."
    else:
        hint = f"Choir looks where your shell does; see: command -v {shlex.quote(command)}"
    return CommandError("command_not_found", f"{command}: command not found.", hint, 127)


def _include(search: _Search, found: Path, budget: int, by_name: bool = True, led: bool = False) -> Path:
    """Show what ``found`` needs; the path to start it by.

    Args:
        by_name: it shall be found on PATH inside, too.
        led: a file of the workspace led here.
    """
    led = led or found.is_relative_to(search.workspace)
    found = found.parent.resolve() / found.name
    real = found.resolve()
    venv = _venv(found)
    if led:
        _check_led(search, real)
    if venv is not None:
        # Python finds its venv by the path it is started by, so the links stay as they are.
        search.show(venv)
        search.enter(found.parent)
        _show_links(search, found)
        for base in (real, *_base(venv)):
            if led:
                _check_led(search, base)
            _show_installation(search, base, base)
        start = found
    else:
        start = _show_installation(search, found, real)
        if by_name:
            search.enter(start.parent)
    if budget > 0:
        _include_interpreter(search, real, budget - 1, led)
    return start


def _check_led(search: _Search, real: Path) -> None:
    """
    Raises:
        CommandError: ``command_elsewhere``.
    """
    if search.visible(real) or real.is_relative_to("/nix/store"):
        return
    folder = _installation(real, search.home)
    if folder is not None and _is_runtime(folder):
        return
    raise CommandError(
        "command_elsewhere",
        f"A file of this folder leads to {real}, which is no Python, Node or Ruby.",
        "Start it by its own path, or show it to agents: read_only_paths in [sandbox].",
        126,
    )


def _is_runtime(folder: Path) -> bool:
    """Whether a language is installed in ``folder``."""
    library = folder / "lib"
    known = library / "node_modules" / "npm", folder / "include" / "node", library / "ruby"
    return any(path.is_dir() for path in known) or any(library.glob("py*/os.py"))


def _include_interpreter(search: _Search, script: Path, budget: int, led: bool) -> None:
    words = _shebang(script)
    if not words:
        return
    if os.path.basename(words[0]) == "env":
        name = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), None)
        interpreter, led = _find(search, name) if name else None, False
    else:
        interpreter = Path(words[0])
    if interpreter is not None and _executable(interpreter):
        _include(search, interpreter, budget, led=led)


def _shebang(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            line = file.readline(256)
    except OSError:
        return []
    return line[2:].decode("utf-8", "replace").split() if line.startswith(b"#!") else []


def _venv(found: Path) -> Path | None:
    """The virtual environment that ``found`` is in the bin folder of."""
    folder = found.parent.parent
    return folder if (folder / "pyvenv.cfg").is_file() else None


def _base(venv: Path) -> Iterator[Path]:
    """The interpreter that ``venv`` was made from."""
    for line in (venv / "pyvenv.cfg").read_text(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and os.path.isabs(value.strip()):
            python = (Path(value.strip()) / "python3").resolve()
            if _executable(python):  # else nothing but a file an agent may have written speaks for showing it
                yield python


def _show_links(search: _Search, path: Path) -> None:
    """Show each link on the way from ``path`` to its target that nothing else shows."""
    for _ in range(40):
        if not path.is_symlink():
            return
        search.show(path)
        target = path.parent / os.readlink(path)
        path = target.parent.resolve() / target.name


def _show_installation(search: _Search, found: Path, real: Path) -> Path:
    """Show what ``found``, a link or not to ``real``, belongs to; the path to start it by."""
    if not search.visible(real):
        folder = _installation(real, search.home)
        if folder is None:  # the file alone, under the name it was found by: programs go by it
            search.show(found)
            return found
        search.show(folder)
    same = found.name == real.name or found.parent == real.parent
    return found if same and search.visible(found) else real


def _installation(real: Path, home: Path) -> Path | None:
    """The narrowest folder that makes ``real`` work; None when it stands alone or no folder is narrow enough."""
    if real.is_relative_to("/nix/store"):
        return Path("/nix/store")  # what it links to is anywhere in it, and all of it is public
    modules = [at for at, part in enumerate(real.parts) if part == "node_modules"]
    if modules:
        folder = Path(*real.parts[: modules[0] + 1])
        if folder.parent.name == "lib":  # npm's global ones: each package brings its own needs
            scoped = real.parts[modules[0] + 1].startswith("@")
            folder = Path(*real.parts[: modules[0] + (3 if scoped else 2)])
        return folder if _narrow(folder, home) else None
    if real.parent.name in ("bin", "sbin", "libexec"):
        prefix = real.parent.parent
        if any((prefix / name).is_dir() for name in ("lib", "lib64", "libexec")) and _narrow(prefix, home):
            return prefix
    return None


def _narrow(folder: Path, home: Path) -> bool:
    """Whether ``folder`` is one installation and no more, wherever a link or a ``pyvenv.cfg`` pointed."""
    if home.is_relative_to(folder) or len(folder.parts) < 3:
        return False
    if any((folder / name).exists() for name in CREDENTIAL_FILES) or PRIVATE_FOLDERS & set(folder.parts):
        return False
    if folder.parts[1] == "home":  # another's home is none of ours either
        home = Path(*folder.parts[:3])
    if not folder.is_relative_to(home):
        return True
    return len(folder.relative_to(home).parts) >= 2 or (folder / "conda-meta").is_dir()
