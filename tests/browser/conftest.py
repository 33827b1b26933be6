"""A real browser in front of a real ``choir up``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHOIR = Path(sys.executable).parent / "choir"
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="module")  # not longer: while it is open an event loop runs in this thread
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is missing: apt-get install chromium")
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Choir:
    """A running deployment of its own, with a state folder and a home of its own."""

    root: Path
    process: subprocess.Popen[str]
    first_link: str

    @property
    def home(self) -> Path:
        """The host folder that is the sandbox's home."""
        (home,) = (self.root / "state" / "homes").glob("*-1")
        return home

    def choir(self, *arguments: str) -> Any:
        done = subprocess.run(
            [CHOIR, *arguments, "--json"],
            env=environment(self.root),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)

    def sandbox(self) -> Any:
        (sandbox,) = self.choir("sandbox", "list")
        return sandbox

    def link(self) -> str:
        """Another one-time link."""
        return str(self.choir("login")["url"])


def environment(root: Path) -> dict[str, str]:
    return {
        "HOME": str(root),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CHOIR_STATE": str(root / "state"),
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def choir() -> Iterator[Choir]:
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    process = subprocess.Popen(
        [CHOIR, "up", "--port", "0"],
        env=environment(root),
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = ""
        assert process.stdout is not None
        while "isolation  " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        found = re.search(r"http://\S+once=\S+", said)
        assert found, said
        yield Choir(root, process, found[0])
    finally:
        process.terminate()
        process.communicate(timeout=30)
        shutil.rmtree(root)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh browser profile; a script error or a breach of the content policy fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 820})
    context.set_default_timeout(30_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield page
    context.close()
    assert wrong == []
