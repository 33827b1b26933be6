"""Attacks on the hypervisor's pages, as a stranger's browser or a page of another site would make them."""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from choir.app.audit.finding import Finding, held
from choir.channel import ChannelClosed, connect
from choir.config import Config

_TARGET = "people's sessions"
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "Y2hvaXItdmVyaWZ5LW5vdw==",
}


@dataclass(frozen=True)
class Attempt:
    name: str
    tried: str
    method: str
    path: str
    headers: dict[str, str]
    """``Host`` may be put here: the deployment's own otherwise."""
    refused: tuple[int, ...]
    """The statuses that are a refusal."""


def place(hypervisor_socket: Path) -> tuple[str, str, int] | None:
    """Its public URL, and host and port that it listens on, as the running hypervisor has them; None when none runs.

    A public name leads to a proxy in front, and systemd's socket is not in the configuration.
    """
    try:
        channel = connect(str(hypervisor_socket))
    except ChannelClosed:
        return None
    try:
        channel.sock.settimeout(10)
        channel.send({"op": "status"})
        status = channel.receive()[0]
        host, port = status["address"]
        return str(status["url"]), str(host), int(port)
    except (ChannelClosed, TimeoutError, KeyError):
        return None
    finally:
        channel.close()


def attempts(url: str, single_user: bool) -> list[Attempt]:
    netloc = urlsplit(url).netloc
    desk = f"nobody.{netloc}"
    found = [
        Attempt(
            "another host name",
            "GET / with a Host of the attacker's (DNS rebinding)",
            "GET",
            "/",
            {"Host": "attacker.invalid"},
            (400, 403, 404, 421),
        ),
        Attempt(
            "another site's request",
            "POST /logout from another origin",
            "POST",
            "/logout",
            {"Origin": "https://attacker.invalid", "Sec-Fetch-Site": "cross-site"},
            (403,),
        ),
        Attempt(
            "a page of a sandbox",
            "POST /logout from a sandbox's own origin",
            "POST",
            "/logout",
            {"Origin": f"{urlsplit(url).scheme}://{desk}", "Sec-Fetch-Site": "same-site"},
            (403,),
        ),
        Attempt(
            "another site's WebSocket",
            "open a sandbox's WebSocket from another origin",
            "GET",
            "/api/desktop",
            {"Host": desk, "Origin": "https://attacker.invalid", **_UPGRADE},
            (401, 403, 404),
        ),
        Attempt(
            "a WebSocket without a session",
            "open a sandbox's WebSocket without a cookie",
            "GET",
            "/api/desktop",
            {"Host": desk, "Origin": f"{urlsplit(url).scheme}://{desk}", **_UPGRADE},
            (401, 403, 404),
        ),
        Attempt(
            "a used link",
            "GET /login with a link that was never given out",
            "GET",
            "/login?once=choir-verify",
            {},
            (401, 403),
        ),
    ]
    if not single_user:  # where this very account is let in by design
        found.append(Attempt("without a session", "GET / without a cookie", "GET", "/", {}, (303, 401, 403)))
    return found


def findings(config: Config, hypervisor_socket: Path, expected: bool, patience: float = 15.0) -> list[Finding]:
    """
    Args:
        expected: whether a deployment runs, so that a hypervisor has to be there; without one: [].
        patience: seconds that it is waited for, as during its restart.
    """
    deadline = time.monotonic() + patience
    while (found := place(hypervisor_socket)) is None and expected and time.monotonic() < deadline:
        time.sleep(0.2)
    if found is None:
        return [_absent(hypervisor_socket)] if expected else []
    url, host, port = found
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where every address is listened on
    netloc = urlsplit(url).netloc
    return [judged(attempt, netloc, host, port) for attempt in attempts(url, config.hypervisor.single_user)]


def _absent(hypervisor_socket: Path) -> Finding:
    """A gateway for everybody runs, and the pages could not be tried."""
    return Finding(
        _TARGET,
        "the hypervisor",
        "web",
        "ask it where its pages are",
        f"no answer at {hypervisor_socket}",
        "failed",
        "Nobody can sign in and no page was tried: see `choir doctor` and `choir logs`, then start it again.",
    )


def judged(attempt: Attempt, netloc: str, host: str, port: int) -> Finding:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.putrequest(attempt.method, attempt.path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": netloc, **attempt.headers}.items():
            connection.putheader(name, value)
        if attempt.method == "POST":
            connection.putheader("Content-Length", "0")
        connection.endheaders()
        answer = connection.getresponse()
        cookie = answer.getheader("set-cookie") or ""
        signed_in = cookie and "max-age=0" not in cookie.lower() and "choir" in cookie and "=;" not in cookie
        said = f"status {answer.status}" + (", with a session" if signed_in else "")
        ok = answer.status in attempt.refused and not signed_in
    except (OSError, http.client.HTTPException) as error:
        said, ok = f"no answer on {host} port {port} ({type(error).__name__})", False
    finally:
        connection.close()
    return Finding(
        _TARGET,
        attempt.name,
        "web",
        attempt.tried,
        said,
        held(ok),
        "If it is reached, report this; if not, check `host` and `port` in the [hypervisor] section.",
    )
