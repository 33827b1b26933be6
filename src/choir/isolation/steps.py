"""The steps of a sandbox's plan: each says what it does and which launcher arguments do it, before anything runs."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol


class Source(NamedTuple):
    """An argument that is a host path. Root puts it on a stage first (``choir.isolation.staging``)."""

    path: str
    owned: bool = False
    """It is the sandbox's to write: mapped to the sandbox's uid when that is not its owner's."""


class Data(NamedTuple):
    """An argument that is the number of a descriptor from which this text can be read."""

    text: str


Argument = str | Source | Data


class Step(Protocol):
    """One step. Steps are executed in order."""

    def describe(self) -> str: ...

    def arguments(self) -> list[Argument]:
        """As bwrap(1) takes them."""
        ...


class Flags(NamedTuple):
    """Launcher options that belong to no path."""

    options: tuple[str, ...]
    purpose: str

    def describe(self) -> str:
        return self.purpose

    def arguments(self) -> list[Argument]:
        return list(self.options)


class Bind(NamedTuple):
    """Show a host path."""

    source: str
    path: str
    access: Literal["read-only", "read-write", "device"] = "read-only"
    owned: bool = False
    purpose: str = ""

    def describe(self) -> str:
        origin = "" if self.source == self.path else f" (from {self.source})"
        return f"{self.path}{origin}: {self.purpose or 'shown'}, {self.access}"

    def arguments(self) -> list[Argument]:
        flag = {"read-only": "--ro-bind", "read-write": "--bind", "device": "--dev-bind"}[self.access]
        return [flag, Source(self.source, self.owned), self.path]


class Symlink(NamedTuple):
    target: str
    path: str

    def describe(self) -> str:
        return f"{self.path}: link to {self.target}"

    def arguments(self) -> list[Argument]:
        return ["--symlink", self.target, self.path]


class File(NamedTuple):
    """A small generated file, read-only."""

    path: str
    text: str
    purpose: str

    def describe(self) -> str:
        return f"{self.path}: {self.purpose}"

    def arguments(self) -> list[Argument]:
        return ["--perms", "0444", "--ro-bind-data", Data(self.text), self.path]


class Memory(NamedTuple):
    """A private file system in memory, ``size`` bytes at most."""

    path: str
    size: int
    mode: str = "0755"

    def describe(self) -> str:
        return f"{self.path}: private, empty, in memory, at most {self.size // 1024**2} MB"

    def arguments(self) -> list[Argument]:
        return ["--perms", self.mode, "--size", str(self.size), "--tmpfs", self.path]


class Empty(NamedTuple):
    """An empty, read-only folder over whatever is there."""

    path: str
    purpose: str = "hidden by an empty folder"

    def describe(self) -> str:
        return f"{self.path}: {self.purpose}"

    def arguments(self) -> list[Argument]:
        return ["--size", "4096", "--tmpfs", self.path, "--remount-ro", self.path]


class Freeze(NamedTuple):
    """Make a mount read-only, now that everything below it is in place."""

    path: str

    def describe(self) -> str:
        return f"{self.path}: read-only from here on"

    def arguments(self) -> list[Argument]:
        return ["--remount-ro", self.path]
