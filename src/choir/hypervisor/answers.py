"""Answers that say no: JSON for scripts, a page for people, a refused handshake for WebSockets."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

from choir.hypervisor import pages
from choir.hypervisor.origins import is_navigation

REFUSALS: dict[str, tuple[int, str, str]] = {
    "unknown_host": (421, "Not found here", "This address is not one of this Choir's."),
    "foreign_origin": (403, "Refused", "The request came from a page of another site."),
    "cross_site": (403, "Refused", "The request came from a page of another site."),
    "no_origin": (403, "Refused", "The request does not say which page it came from."),
    "service_worker": (403, "Refused", "Service workers are not allowed on a sandbox's pages."),
    "signed_out": (401, "Signed out", "You are signed out."),
    "too_large": (413, "Too large", "That is more than Choir takes here."),
    "not_found": (404, "Not found", "There is no such page."),
}


def error(
    status: int, reason: str, message: str, hint: str = "", headers: Mapping[str, str] | None = None, **more: str
) -> JSONResponse:
    """``{"error": {"type", "reason", "message", "hint"}}``; ``more`` goes in beside them."""
    body = {"type": "choir", "reason": reason, "message": message, "hint": hint, **more}
    return JSONResponse({"error": body}, status, headers={"cache-control": "no-store", **(headers or {})})


def refusal(reason: str, scope: Scope, static: str = "/static") -> Response:
    """One of REFUSALS, as a page when a person waits for a page."""
    status, title, message = REFUSALS[reason]
    if scope["type"] == "http" and is_navigation(Headers(scope=scope)):
        way_in = "/login" if reason == "signed_out" and static == "/static" else ""
        return HTMLResponse(pages.refused(title, message, static, way_in), status, {"cache-control": "no-store"})
    return error(status, reason, message)
