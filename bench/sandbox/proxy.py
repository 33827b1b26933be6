"""A desktop as a person meets it: ``python bench/sandbox/proxy.py [ROUNDS]``.

From the request for the desktop to its first 200 through the hypervisor's proxy, by what a browser does: the visit that
starts the sandbox and, when that is not ready at once, the wait on the progress stream; the ticket to the sandbox's own
origin; its page. *cold* starts from nothing, *warm* from a sandbox that stood ready. In rounds with ``bwrap … python -c
pass``; medians and least, and the ratios.
"""

from __future__ import annotations

import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from density import ask
from run import bare

from choir.paths import State

CHOIR = Path(sys.executable).parent / "choir"


class Browser:
    """Keeps cookies by host, and connections."""

    def __init__(self) -> None:
        self._cookies: dict[str, dict[str, str]] = {}
        self.host = ""

    def get(self, url: str, form: str = "") -> http.client.HTTPResponse:
        """The answer at the end of all redirects, to a ``form`` that is sent first."""
        while True:
            parts = urlsplit(url)
            assert parts.hostname is not None
            connection = http.client.HTTPConnection("127.0.0.1", parts.port)
            headers = {
                "Host": parts.netloc,
                "Accept": "text/html",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
                "Sec-Fetch-Site": "none",
                "Cookie": "; ".join(f"{k}={v}" for k, v in self._cookies.get(parts.hostname, {}).items()),
            }
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            if form:
                headers |= {"Origin": f"{parts.scheme}://{parts.netloc}", "Sec-Fetch-Site": "same-origin"}
                headers["Content-Type"] = "application/x-www-form-urlencoded"
                connection.request("POST", path, form, headers)
                form = ""
            else:
                connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            for cookie in answer.headers.get_all("set-cookie", []):
                name, _, value = cookie.partition(";")[0].partition("=")
                self._cookies.setdefault(parts.hostname, {})[name] = value
            if answer.status not in (301, 302, 303, 307):
                self.host = parts.hostname
                return answer
            answer.read()
            where = answer.headers["location"]
            url = where if "://" in where else f"{parts.scheme}://{parts.netloc}{where}"


def events(answer: http.client.HTTPResponse) -> Iterator[str]:
    for line in answer:
        if line.startswith(b"data:"):
            yield line.decode()


def visit(browser: Browser, origin: str) -> None:
    page = browser.get(f"{origin}/desk/live/open")
    assert page.status == 200, page.read()
    page.read()
    if browser.host != urlsplit(origin).hostname:
        return
    for event in events(browser.get(f"{origin}/desk/live/events")):
        if '"ready"' in event:
            break
    page = browser.get(f"{origin}/desk/live/enter")
    page.read()
    assert page.status == 200
    assert browser.host != urlsplit(origin).hostname, "this is the hypervisor's page, not the desktop's"


def measure(rounds: int, warm: bool) -> tuple[list[float], list[float]]:
    """Milliseconds of the unit and of visits."""
    with tempfile.TemporaryDirectory(prefix="choir-") as folder:
        state, config = State(Path(folder) / "s"), Path(folder) / "choir.toml"
        config.write_text(f"[sandbox]\nwarm = {int(warm)}\n")
        environment = {"HOME": folder, "PATH": os.environ["PATH"], "CHOIR_STATE": str(state.root)}
        up = subprocess.Popen(
            [CHOIR, "up", "--port", "0", "--config", config],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert up.stdout is not None
        try:
            said = ""
            while "isolation" not in (line := up.stdout.readline()):
                assert line, said
                said += line
            link = next(word for word in said.split() if "?once=" in word)
            browser = Browser()
            origin, _, once = link.partition("/login?")
            signed = browser.get(f"{origin}/login", once)
            assert signed.status == 200, (signed.status, signed.read())
            signed.read()
            visit(browser, origin)
            user = ask(state, "list")["sandboxes"][0]["user"]
            times, unit = [], []
            for number in range(rounds + 1):
                ask(state, "stop", user=user, role="live")
                while ask(state, "list")["sandboxes"][0]["warm"] != warm:
                    time.sleep(0.05)
                begun = time.perf_counter()
                bare(sys.executable, "-c", "pass")
                middle = time.perf_counter()
                visit(browser, origin)
                if number:  # the first is to warm up
                    unit.append((middle - begun) * 1000)
                    times.append((time.perf_counter() - middle) * 1000)
            return unit, times
        finally:
            up.terminate()
            up.wait()
            up.stdout.close()


def main(rounds: int) -> None:
    for name, warm in (("cold", False), ("warm", True)):
        unit, times = measure(rounds, warm)
        reference, middle = statistics.median(unit), statistics.median(times)
        print(f"bwrap … python -c pass              {reference:7.1f} ms")
        print(f"{name}: request → 200 by the proxy    {middle:7.1f} ms  {middle / reference:5.2f} ×")
        print(f"                              least {min(times):7.1f} ms  {min(times) / min(unit):5.2f} ×")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
