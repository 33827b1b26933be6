"""Files over HTTP.

=================================  ============================================================================
``GET /api/files/list?path=``      ``{"entries": [Entry], "truncated"}``
``GET /api/files/content?path=``   the file, streamed; ``ETag``. ``&text=1``: only if it is text of at most
                                   ``MAX_TEXT`` bytes. ``&image=1``: to be shown in the page.
``PUT /api/files/content?path=``   the body becomes the file, whole or not at all. ``If-None-Match: *``: a new one;
                                   ``If-Match: ETAG``: a new version of just that one. Answers with its ``ETag``.
``POST /api/files/folder?path=``   make a folder
``POST /api/files/rename?path=&to=``
``POST /api/files/delete?path=``
=================================  ============================================================================

Refusals are ``{"error": {"reason", "message", "hint"}}``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs, quote

from choir.errors import ChoirError
from choir.sandbox.files import FileError, Files, is_text, mark

PREFIX = "/api/files/"
MAX_TEXT = 2 * 1024 * 1024
CHUNK = 256 * 1024
IMAGES = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "gif": "gif", "webp": "webp", "avif": "avif"}
_STATUS = {
    "file_missing": 404,
    "file_exists": 409,
    "file_changed": 412,
    "link_refused": 403,
    "not_permitted": 403,
    "no_space": 507,
    "too_large": 413,
    "binary": 415,
    "bad_method": 405,
    "unknown_route": 404,
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class FilesApi:
    """An ASGI application for the paths below ``PREFIX``."""

    def __init__(self, files: Files) -> None:
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._route(scope, receive, send)
        except ChoirError as error:
            await _json(send, _STATUS.get(error.reason, 400), {"error": error.as_dict()})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"), errors="surrogateescape")  # names are bytes
        asked = {name: values[0] for name, values in query.items()}
        path = asked.get("path", "")
        files = self._files
        match scope["path"].removeprefix(PREFIX), scope["method"]:
            case "list", "GET":
                listing = await asyncio.to_thread(files.list, path)
                entries = [asdict(entry) for entry in listing.entries]
                await _json(send, 200, {"entries": entries, "truncated": listing.truncated})
            case "content", "GET" | "HEAD":
                await self._read(path, asked, scope["method"] == "HEAD", send)
            case "content", "PUT":
                await self._write(path, dict(scope["headers"]), receive, send)
            case "folder", "POST":
                await asyncio.to_thread(files.make_folder, path)
                await _json(send, 200, {})
            case "rename", "POST":
                await asyncio.to_thread(files.rename, path, asked.get("to", ""))
                await _json(send, 200, {})
            case "delete", "POST":
                await asyncio.to_thread(files.delete, path)
                await _json(send, 200, {})
            case "list" | "content" | "folder" | "rename" | "delete", _:
                raise FileError("bad_method", "That is not how this is asked.")
            case _:
                raise FileError("unknown_route", "There is no such route.")

    async def _read(self, path: str, asked: dict[str, str], head: bool, send: Send) -> None:
        descriptor, status = await asyncio.to_thread(self._files.open, path)
        try:
            name = path.rpartition("/")[2]
            extension = name.rpartition(".")[2].lower()
            headers = [(b"cache-control", b"no-cache"), (b"etag", f'"{mark(status)}"'.encode())]
            if asked.get("text"):
                if status.st_size > MAX_TEXT:
                    raise FileError("too_large", f"{name} is too large to be shown here.", "Download it.")
                if not is_text(await asyncio.to_thread(os.pread, descriptor, MAX_TEXT, 0)):
                    raise FileError("binary", f"{name} is not text.", "Download it.")
                headers.append((b"content-type", b"text/plain; charset=utf-8"))
            elif asked.get("image") and extension in IMAGES:
                headers.append((b"content-type", f"image/{IMAGES[extension]}".encode()))
            else:
                headers.append((b"content-type", b"application/octet-stream"))
                headers.append(
                    (b"content-disposition", f"attachment; filename*=UTF-8''{quote(os.fsencode(name))}".encode())
                )
            headers.append((b"content-length", b"%d" % status.st_size))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            left = 0 if head else status.st_size
            while left:  # never more than was promised, even of a file that grows; less of one that shrinks ends it
                data = await asyncio.to_thread(os.read, descriptor, min(CHUNK, left))
                if not data:
                    break
                left -= len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            os.close(descriptor)

    async def _write(self, path: str, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        match headers.get(b"if-match"), headers.get(b"if-none-match"):
            case None, b"*":
                replaces = None
            case bytes() as given, None:
                replaces = given.decode("latin-1").strip('"')
            case _:
                raise FileError("bad_request", "Say If-None-Match: * for a new file, or If-Match with its version.")
        draft = await asyncio.to_thread(self._files.write, path)
        try:
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    await asyncio.to_thread(draft.drop)
                    return
                if event.get("body"):
                    await asyncio.to_thread(draft.add, event["body"])
                if not event.get("more_body"):
                    break
        except BaseException:
            draft.drop()
            raise
        kept = await asyncio.to_thread(lambda: draft.keep(replaces=replaces))
        await _json(send, 200, {"etag": f'"{kept}"'}, [(b"etag", f'"{kept}"'.encode())])


async def _json(send: Send, status: int, value: object, more: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps(value, ensure_ascii=True).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *(more or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
