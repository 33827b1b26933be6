"""Reading and changing files of a working folder, as a model asks for it: text, bounded, nothing outside the folder."""

from __future__ import annotations

import os

MOST_CHARACTERS = 60_000
MOST_ENTRIES = 500
MOST_BYTES = 8 * 1024 * 1024


class FileError(Exception):
    """A sentence that the model can act on."""


class Files:
    """The files below ``root``. Paths are relative to it; absolute ones must lie in it."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)

    def path(self, name: str) -> str:
        """
        Raises:
            FileError: it leads outside.
        """
        found = os.path.realpath(os.path.join(self.root, name))
        if found != self.root and not found.startswith(self.root + "/"):
            raise FileError(f"{name} is outside of the working folder {self.root}.")
        return found

    def read(self, name: str, first_line: int = 1, lines: int = 2000) -> str:
        """So many lines of a text file; what is left out is said.

        Raises:
            FileError
        """
        whole = self._text(name).splitlines(keepends=True)
        chosen = whole[max(first_line, 1) - 1 : max(first_line, 1) - 1 + max(lines, 1)]
        text = "".join(chosen)
        if len(text) > MOST_CHARACTERS:
            return f"{text[:MOST_CHARACTERS]}\n[cut after {MOST_CHARACTERS:,} characters]"
        left = len(whole) - (max(first_line, 1) - 1) - len(chosen)
        return text + (f"\n[{left:,} more lines]" if left > 0 else "") if text else "[empty]"

    def write(self, name: str, content: str) -> str:
        """Make the file, and the folders it is in, or replace it in one step.

        Raises:
            FileError
        """
        path = self.path(name)
        beside = f"{path}.{os.getpid()}.partial"
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(beside, "w", encoding="utf-8") as file:
                file.write(content)
            if os.path.exists(path):
                os.chmod(beside, os.stat(path).st_mode & 0o777)
            os.rename(beside, path)
        except OSError as error:
            raise FileError(f"{name} cannot be written: {error.strerror}.") from error
        return f"Wrote {len(content.encode()):,} bytes to {name}."

    def edit(self, name: str, old: str, new: str) -> str:
        """Replace ``old``, which must be there exactly once.

        Raises:
            FileError
        """
        text = self._text(name)
        count = text.count(old) if old else 0
        if count != 1:
            raise FileError(f"The old text must be in {name} exactly once; it is there {count} times.")
        self.write(name, text.replace(old, new))
        return f"Changed {name}."

    def list(self, name: str = ".") -> str:
        """The entries of a folder, folders with a slash.

        Raises:
            FileError
        """
        try:
            with os.scandir(self.path(name)) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise FileError(f"{name} cannot be listed: {error.strerror}.") from error
        lines = [
            f"{entry.name}/"
            if entry.is_dir(follow_symlinks=False)
            else f"{entry.name}  {entry.stat(follow_symlinks=False).st_size:,} bytes"
            for entry in entries[:MOST_ENTRIES]
        ]
        if len(entries) > MOST_ENTRIES:
            lines.append(f"[{len(entries) - MOST_ENTRIES:,} more]")
        return "\n".join(lines) or "[empty]"

    def _text(self, name: str) -> str:
        path = self.path(name)
        try:
            if not os.path.isfile(path):
                raise FileError(f"{name} is no file.")
            if os.path.getsize(path) > MOST_BYTES:
                raise FileError(f"{name} has more than {MOST_BYTES:,} bytes; use the shell.")
            with open(path, encoding="utf-8", newline="") as file:
                return file.read()
        except OSError as error:
            raise FileError(f"{name} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise FileError(f"{name} is no text file.") from error
