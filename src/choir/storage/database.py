"""One SQLite file with a schema that moves forward: private, in WAL mode, its errors as ``StartError``."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from choir.errors import StartError, is_full
from choir.storage.wal import use_wal

BUSY_SECONDS = 5.0


class Database:
    """Opened per call site; several processes may have it open. ``close`` when done.

    Args:
        migrations: scripts; the n-th leads from version n to n + 1 (``PRAGMA user_version``). Before an older file is
            changed, a copy of it is kept beside it as NAME.vVERSION.

    Raises:
        StartError: ``registry_version``: a newer Choir wrote it; ``registry_unusable`` or ``no_space``, here and from
            every block of ``guard``.
    """

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self.path = path
        with self.guard():
            self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            os.chmod(path, 0o600)
            use_wal(self.connection, BUSY_SECONDS)
            try:
                self._migrate(migrations)
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        self.connection.close()

    @property
    def version(self) -> int:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _migrate(self, migrations: Sequence[str]) -> None:
        found = self.version
        if found > len(migrations):
            raise StartError(
                "registry_version",
                f"{self.path} was written by a newer version of Choir.",
                f"Use that version, or put back the copy beside it ({self.path.name}.v*).",
            )
        if 0 < found < len(migrations):
            self._keep_copy(found)
        for number in range(found, len(migrations)):
            # Another process may be at the same: who comes second finds the version changed and does nothing.
            self.connection.execute("BEGIN EXCLUSIVE")
            try:
                if self.version == number:
                    for statement in migrations[number].split(";\n"):
                        self.connection.execute(statement)
                    self.connection.execute(f"PRAGMA user_version = {number + 1}")
                self.connection.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self.connection.in_transaction:  # a full disk may have ended it
            self.connection.execute("ROLLBACK")

    def _keep_copy(self, version: int) -> None:
        copy = self.path.with_name(f"{self.path.name}.v{version}")
        draft = copy.with_name(f".{copy.name}.{os.getpid()}")
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
        try:
            with contextlib.closing(sqlite3.connect(draft)) as target:
                self.connection.backup(target)
            os.replace(draft, copy)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def durable(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk before anybody acts on it."""
        self.connection.execute("PRAGMA synchronous = FULL")
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self._roll_back()
                raise
            self.connection.execute("COMMIT")
        finally:
            self.connection.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """Turns what SQLite and the disk say into ``StartError``."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if is_full(error):
                raise StartError("no_space", f"No space left for {self.path}.", "Free some disk space.") from error
            raise StartError("registry_unusable", f"Cannot use {self.path}: {error}.") from error
