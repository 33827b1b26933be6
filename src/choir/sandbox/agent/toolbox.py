"""The tools of a run, as the model sees them: their names, arguments and docstrings are what it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic_ai import RunContext, Tool

from choir.sandbox.agent import shell, web
from choir.sandbox.agent.events import OUTPUT
from choir.sandbox.agent.files import FileError, Files
from choir.sandbox.agent.link import Link


class Toolbox:
    """
    Args:
        folder: the working folder.
        search: (name, base URL) of the web search, or None.
    """

    def __init__(self, link: Link, folder: str, search: tuple[str, str] | None, token: str) -> None:
        self._link = link
        self._folder = folder
        self._files = Files(folder)
        self._search = search
        self._token = token

    def tools(self) -> list[Tool[None]]:
        wanted: list[Callable[..., Any]] = [
            self.shell,
            self.read_file,
            self.write_file,
            self.edit_file,
            self.list_files,
            self.search_memory,
        ]
        if self._search is not None:
            wanted.append(self.search_web)
        return [Tool(each, takes_ctx=each == self.shell, name=each.__name__) for each in wanted]

    async def shell(self, context: RunContext[None], command: str, seconds: float = shell.DEFAULT_SECONDS) -> str:
        """Run a command with sh in the working folder; its output and exit code.

        Args:
            context: not for the model.
            command: the command line.
            seconds: after which it is killed.
        """
        call = context.tool_call_id or ""

        async def show(text: str) -> None:
            await self._link.tell(OUTPUT, call=call, text=text)

        return await shell.run(command, self._folder, seconds, show)

    async def read_file(self, path: str, first_line: int = 1, lines: int = 2000) -> str:
        """Read a text file of the working folder.

        Args:
            path: relative to the working folder.
            first_line: the first line to read, from 1.
            lines: how many.
        """
        return await self._file(self._files.read, path, first_line, lines)

    async def write_file(self, path: str, content: str) -> str:
        """Make a text file in the working folder, or replace it.

        Args:
            path: relative to the working folder.
            content: all of it.
        """
        return await self._file(self._files.write, path, content)

    async def edit_file(self, path: str, old: str, new: str) -> str:
        """Replace one piece of a text file.

        Args:
            path: relative to the working folder.
            old: the piece, exactly as it is; it must be in the file once.
            new: what to put in its place.
        """
        return await self._file(self._files.edit, path, old, new)

    async def list_files(self, path: str = ".") -> str:
        """List a folder.

        Args:
            path: relative to the working folder.
        """
        return await self._file(self._files.list, path)

    async def search_memory(self, query: str, results: int = 8) -> str:
        """Search what was said and done in this sandbox before, in words.

        Args:
            query: words to look for.
            results: how many at most.
        """
        try:
            return str(await self._link.ask("memory", query=query, results=results))
        except RuntimeError as error:
            return f"error: {error}"

    async def search_web(self, query: str, results: int = 5) -> str:
        """Search the web; title, address and excerpt of each result.

        Args:
            query: what to look for.
            results: how many at most.
        """
        assert self._search is not None
        try:
            return await web.search(*self._search, self._token, query, results)
        except RuntimeError as error:
            return f"error: {error}"

    async def _file(self, act: Callable[..., str], *arguments: Any) -> str:
        try:
            return await asyncio.to_thread(act, *arguments)
        except FileError as error:
            return f"error: {error}"
