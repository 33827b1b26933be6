"""A deployment as one file and back, while it runs.

::

    choir-20261124T073011Z.tar
      registry.db, usage.db      copies by SQLite's online backup
      homes/HOME.tar             each sandbox's home (``workspace_tar``)
      manifest.json              last: version, time, and the SHA-256 of everything before it

Restoring first puts everything, checked, into STATE/restore; the hypervisor's next start then only renames
(``apply_staged``). What was there is kept in STATE/replaced-TIME. Usage is never replaced: what is missing is added.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from choir import __version__
from choir.errors import ChoirError, is_full
from choir.hypervisor.beneath import FOLDER
from choir.hypervisor.workspace_tar import pack, unpack
from choir.paths import State
from choir.storage.ledger import Ledger
from choir.storage.registry import MIGRATIONS
from choir.storage.wal import make_file

FORMAT = 1
_REGISTRY, _LEDGER, _MANIFEST = "registry.db", "usage.db", "manifest.json"
_BLOCK = 1024 * 1024
_MAX_MANIFEST = 256 * _BLOCK
_MERGE = 1000
_PARTIAL, _COPY, _DISCARDED = ".restore-partial", ".backup-", ".discarded-"
"""What a kill leaves in the state folder, until the next backup or restore."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself; ``sha256`` by member, ``left_out`` counts entries of homes that cannot be kept."""

    format: int
    choir: str
    created: float
    sha256: dict[str, str]
    left_out: int = 0


def create(state: State, out: IO[bytes]) -> Manifest:
    """Write a backup to ``out``. Blocking; nothing is stopped for it.

    Raises:
        ChoirError: ``nothing_to_back_up``, ``backup_failed``, ``no_space``, ``backup_busy``.
    """
    if not state.registry.exists():
        raise ChoirError("nothing_to_back_up", f"There is no registry in {state.root}.", "Choose it with --state DIR.")
    digests: dict[str, str] = {}
    left_out = 0
    with (
        _guarded(state.root),
        _alone(state),
        tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        # Listed first: whoever is made meanwhile may have no home in the copy, but no home is without its person.
        homes = kept_homes(state)
        for name, path in ((_REGISTRY, state.registry), (_LEDGER, state.ledger)):
            if path.exists():
                with tempfile.NamedTemporaryFile(dir=state.root, prefix=_COPY) as copy:
                    copy_database(path, Path(copy.name))
                    digests[name] = _add(archive, name, copy.file)
        for home in homes:
            with tempfile.TemporaryFile(dir=state.root) as packed:
                try:
                    descriptor = os.open(state.homes / home, FOLDER)
                except FileNotFoundError:  # gone meanwhile
                    continue
                try:
                    left_out += pack(descriptor, packed)
                finally:
                    os.close(descriptor)
                digests[f"homes/{home}.tar"] = _add(archive, f"homes/{home}.tar", packed)
        manifest = Manifest(format=FORMAT, choir=__version__, created=time.time(), sha256=digests, left_out=left_out)
        _add(archive, _MANIFEST, io.BytesIO(msgspec.json.encode(manifest)))
    return manifest


def kept_homes(state: State) -> list[str]:
    """All, also those of ``choir run``; not what something is just working in."""
    passing = (".", "verify-")
    return sorted(path.name for path in state.homes.iterdir() if path.is_dir() and not path.name.startswith(passing))


def write(state: State, path: Path) -> Manifest:
    """Make a backup at ``path``, as a whole or not at all, on the disk. A kill leaves ``.NAME.PID`` beside it.

    Raises:
        ChoirError: as ``create``.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
            manifest = create(state, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise ChoirError("backup_failed", f"Cannot write {path}: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return manifest


def copy_database(path: Path, copy: Path) -> None:
    """As it is at one moment, while it is written to.

    Raises:
        sqlite3.Error, OSError: it cannot be read, or the copy not be written.
    """
    with (
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30.0)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target, pages=4096)


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> str:
    """Add a file from its beginning to its end; its SHA-256."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256()
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    archive.addfile(member, _Hashing(file, digest))  # type: ignore[arg-type]  # it only reads
    return digest.hexdigest()


class _Hashing:
    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self._file = file
        self._digest = digest

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        return data


@contextlib.contextmanager
def _alone(state: State) -> Iterator[None]:
    """One backup or restore at a time in a state folder. What one that was killed left there is removed.

    Raises:
        ChoirError: ``backup_busy``.
    """
    folder = os.open(state.root, FOLDER)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ChoirError(
                "backup_busy", f"A backup or restore of {state.root} is under way.", "Wait for it."
            ) from None
        for left in (*state.root.glob(f"{_COPY}*"), *state.root.glob(f"{_DISCARDED}*"), state.root / _PARTIAL):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
        yield
    finally:
        os.close(folder)


def discard(folder: Path) -> None:
    """Remove a folder whose contents mean something as a whole: interrupted anywhere, it is there whole or not at all.

    Raises:
        OSError: it is there still.
    """
    gone = folder.with_name(f"{_DISCARDED}{folder.name}-{os.getpid()}")
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def stage(state: State, archive: IO[bytes]) -> Manifest:
    """Check a backup and put it where ``apply_staged`` takes it from. Usage that is missing is added at once. Blocking.

    Raises:
        ChoirError: ``backup_broken``, ``backup_newer``, ``backup_busy``, ``no_space``; nothing was changed.
    """
    partial, ready = state.root / _PARTIAL, state.root / "restore"
    with _guarded(state.root), _alone(state):
        (partial / "homes").mkdir(parents=True, mode=0o700)
        try:
            manifest = _unpack(archive, partial)
            uids = _host_uids(partial / _REGISTRY) if os.geteuid() == 0 else {}
            for packed in sorted((partial / "homes").glob("*.tar")):
                home = packed.with_suffix("")
                home.mkdir(mode=0o700)
                owner = uids.get(home.name)
                descriptor = os.open(home, FOLDER)
                try:
                    with packed.open("rb") as file:
                        unpack(file, descriptor, owner)
                    if owner is not None:
                        os.fchown(descriptor, owner, owner)
                finally:
                    os.close(descriptor)
                packed.unlink()
            _merge_usage(partial / _LEDGER, state)
            (partial / _LEDGER).unlink(missing_ok=True)
            os.sync()
            discard(ready)
            os.rename(partial, ready)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _unpack(archive: IO[bytes], folder: Path) -> Manifest:
    """The members as files in ``folder``, all there and as they were written."""
    digests: dict[str, str] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(fileobj=archive, mode="r|") as source:
            for member in source:
                file = source.extractfile(member) if member.isreg() else None
                if file is None or not _known(member.name):
                    raise _broken("it has a member that no backup has")
                if member.name == _MANIFEST:
                    manifest = msgspec.json.decode(file.read(_MAX_MANIFEST), type=Manifest)
                    continue
                digest = hashlib.sha256()
                with open(folder / member.name, "xb") as out:
                    while block := file.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
                digests[member.name] = digest.hexdigest()
    except (tarfile.TarError, msgspec.MsgspecError, FileExistsError, EOFError) as error:
        raise _broken("it cannot be read to its end") from error
    if manifest is None:
        raise _broken("it has no end")
    if manifest.format != FORMAT:
        raise _broken(f"it was made by Choir {manifest.choir}, in another format")
    if manifest.sha256 != digests or _REGISTRY not in digests:
        raise _broken("its contents are not those that were written")
    for name in (_REGISTRY, _LEDGER):
        if name in digests:
            _check_database(folder / name)
    if _version(folder / _REGISTRY) > len(MIGRATIONS):
        raise ChoirError(
            "backup_newer",
            f"This backup was made by Choir {manifest.choir}, and this one, {__version__}, cannot read its registry.",
            "Nothing was changed. Upgrade first, then restore it.",
        )
    return manifest


def _known(name: str) -> bool:
    folder, slash, home = name.rpartition("/")
    if not slash:
        return name in (_REGISTRY, _LEDGER, _MANIFEST)
    return folder == "homes" and home.endswith(".tar") and home.removesuffix(".tar") not in ("", ".", "..")


def _check_database(path: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            (answer,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        raise _broken(f"{path.name} is no database") from error
    if answer != "ok":
        raise _broken(f"{path.name} is damaged")


def _version(registry: Path) -> int:
    with contextlib.closing(sqlite3.connect(registry)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def _broken(why: str) -> ChoirError:
    return ChoirError("backup_broken", f"This backup cannot be used: {why}.", "Nothing was changed. Try another.")


def _host_uids(registry: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(registry)) as database:
        return {str(owner): int(uid) for owner, uid in database.execute("SELECT owner, uid FROM host_uids")}


def _merge_usage(copy: Path, state: State) -> None:
    if not copy.exists():
        return
    make_file(state.ledger)
    if os.geteuid() == 0:  # it is the gateway's; what SQLite puts beside it gets the same owner
        folder = state.ledger.parent.stat()
        os.chown(state.ledger, folder.st_uid, folder.st_gid, follow_symlinks=False)
    ledger = Ledger(state.ledger)
    try:
        records = Ledger(copy).query(limit=2**62)
        for start in range(0, len(records), _MERGE):
            ledger.append(records[start : start + _MERGE])
    finally:
        ledger.close()


def apply_staged(state: State) -> Path | None:
    """Put what ``stage`` made in place; nothing of the deployment may be open. Where the old things are now.

    Only renames: interrupted anywhere, the next call goes on.

    Raises:
        ChoirError: ``restore_failed``.
    """
    ready = state.root / "restore"
    if not ready.is_dir():
        return None
    with _guarded(state.root):
        plan = _plan(state, ready)
        old: Path = state.root / plan["replaced"]
        (old / "homes").mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in plan["restored"]:
            _exchange(ready / "homes" / name, state.homes / name, old / "homes" / name)
        for name in plan["aside"]:
            with contextlib.suppress(FileNotFoundError):
                os.rename(state.homes / name, old / "homes" / name)
        if (ready / _REGISTRY).exists():
            for suffix in ("-wal", "-shm"):  # of the old one; they must not be taken for the new one's
                with contextlib.suppress(FileNotFoundError):
                    os.rename(f"{state.registry}{suffix}", old / f"{_REGISTRY}{suffix}")
            _exchange(ready / _REGISTRY, state.registry, old / _REGISTRY)
        os.sync()
        discard(ready)
    return old


def _plan(state: State, ready: Path) -> dict[str, Any]:
    """What to rename, decided once: the restored homes, and those present that the restored registry does not know.

    A home that stayed behind would be given to the next person of that name. Those of ``choir run`` are nobody's.
    """
    path = ready / "plan.json"
    if not path.exists():
        restored = {home.name for home in (ready / "homes").iterdir()}
        present = {name for name in kept_homes(state) if not name.startswith("run-")}
        name = replaced_name(state)
        draft = path.with_suffix(".partial")
        draft.write_text(
            json.dumps({"replaced": name, "restored": sorted(restored), "aside": sorted(present - restored)})
        )
        os.rename(draft, path)
    plan: dict[str, Any] = json.loads(path.read_text())
    return plan


def replaced_name(state: State) -> str:
    """A free name in the state folder for what is replaced now."""
    name = stem = time.strftime("replaced-%Y%m%dT%H%M%SZ", time.gmtime())
    number = 1
    while (state.root / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def _exchange(new: Path, place: Path, old: Path) -> None:
    """``place`` to ``old``, ``new`` to ``place``; done already when ``new`` has gone."""
    if not new.exists():
        return
    if not old.exists():
        with contextlib.suppress(FileNotFoundError):
            os.rename(place, old)
    os.rename(new, place)


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if is_full(error):
            raise ChoirError("no_space", f"No space left in {path}.", "Free some disk space.") from error
        raise ChoirError("backup_failed", f"Cannot work on {path}: {error}.") from error


def name_for(now: float) -> str:
    return time.strftime("choir-%Y%m%dT%H%M%SZ.tar", time.gmtime(now))
