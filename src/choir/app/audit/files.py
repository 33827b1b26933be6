"""What any other user of the machine could do to a deployment's files, and to the code it runs. Reads only."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import choir
from choir.app.audit.finding import Finding, held
from choir.config import Config
from choir.paths import State

_SHOWN = 5


def exposed(path: Path) -> str:
    """What any other user of the machine could do to ``path``: "read", "write" (or put another in its place), or ""
    when nothing or not there."""
    exchanged = False
    try:
        for folder in reversed(path.parents):
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                return ""
            exchanged |= open_folder(mode)
        mode = path.lstat().st_mode
    except OSError:
        return ""
    if mode & stat.S_IWOTH or exchanged:
        return "write"
    return "read" if mode & stat.S_IROTH and not stat.S_ISSOCK(mode) else ""


def open_folder(mode: int) -> bool:
    """Whether everybody may exchange what is in a folder of this mode; not in one like /tmp (S_ISVTX)."""
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def key_files(config: Config) -> list[Path]:
    """Where the configuration says that keys are, and where ``choir install systemd`` puts them beside it."""
    references = [reference for provider in config.providers.values() for reference in provider.keys]
    named = [
        each.removeprefix("file:") for each in (*references, config.oidc.client_secret) if each.startswith("file:")
    ]
    beside = [config.path.with_name("keys") / "providers.env"] if config.path is not None else []
    return list(dict.fromkeys([config.env_file, *map(Path, named), *beside]))


def private(state: State, config: Config) -> Finding:
    """Keys, databases, sockets, journals; and that nobody else may write the configuration."""
    paths = [
        *(state.token_key, state.local_key, state.registry, state.ledger, state.journal),
        *(state.gateway_socket, state.hypervisor_socket, state.metrics_socket, state.local_socket),
        *(state.logs.glob("*") if os.access(state.logs, os.R_OK) else ()),
        *key_files(config),
    ]
    there = [path for path in paths if os.path.lexists(path)]
    wrong = [f"{path.name} ({what})" for path in there if (what := exposed(path))]
    if config.path is not None and exposed(config.path) == "write":
        wrong.append(f"{config.path.name} (write)")
    return Finding(
        "provider keys",
        "files of the deployment",
        "host files",
        f"as any other user of this machine: read or write {len(there)} keys, databases, sockets and logs",
        f"open: {', '.join(wrong)}" if wrong else "none can be reached",
        held(not wrong and bool(there)),
        f"chmod -R o-rwx {state.root}, and the files named or their folders; `choir doctor` looks, too.",
    )


def code(*roots: Path) -> Finding:
    """What the gateway is made of: who could change it would have its keys at the next start."""
    roots = roots or tuple(dict.fromkeys((Path(sys.prefix), Path(choir.__file__).parent)))
    read, wrong = 0, []
    for root in roots:
        for path, open_ in _below(root):
            read += 1
            if open_:
                wrong.append(path)
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return Finding(
        "provider keys",
        "Choir's own code",
        "host files",
        f"as any other user of this machine: write to {read} files and folders of {', '.join(map(str, roots))}",
        f"open: {', '.join(wrong[:_SHOWN])}{more}" if wrong else "none can be written",
        held(not wrong and read > 0),
        f"chmod -R o-w {' '.join(map(str, roots))} and what is above; then look at what was changed there.",
    )


def _below(root: Path) -> Iterator[tuple[str, bool]]:
    """Each file and folder below, and whether everybody may write it; links are not followed, and what others cannot
    reach is passed over."""
    yield str(root), exposed(root) == "write"
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in (root, *root.parents)):
        return
    folders = [str(root)]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                try:
                    mode = entry.stat(follow_symlinks=False).st_mode
                except FileNotFoundError:
                    continue  # bytecode that is just being written
                if stat.S_ISLNK(mode) or entry.name == ".lock":  # uv's, which everybody may hold; nothing reads it
                    continue
                yield entry.path, bool(mode & stat.S_IWOTH)
                if stat.S_ISDIR(mode) and mode & stat.S_IXOTH:
                    folders.append(entry.path)
