"""A real browser in front of a real ``choir up``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHOIR = Path(sys.executable).parent / "choir"
CHROMIUM = Path("/usr/bin/chromium")
expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong
WINDOW = {"width": 1280, "height": 820}
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
    desktop: str = ""
    """Where its desktop is, once ``enter`` has been there."""
    cookies: Any = None

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

    def enter(self, browser: Browser, **how: Any) -> Page:
        """A page of a new profile at the desktop; the first one signs in, the others have its cookies."""
        context = browser.new_context(**{"viewport": WINDOW, **how}, storage_state=self.cookies)
        context.set_default_timeout(30_000)
        page = context.new_page()
        if self.desktop:
            page.goto(self.desktop)
        else:
            sign_in(page, self.link())
        expect(page.locator("#link")).to_have_text("Connected")
        self.desktop, self.cookies = page.url, context.storage_state()
        return page

    def link(self) -> str:
        """Another one-time link."""
        return str(self.choir("login")["url"])


def sign_in(page: Page, link: str) -> None:
    """By a one-time link."""
    page.goto(link)
    page.get_by_role("button", name="Sign in as").click()


def environment(root: Path) -> dict[str, str]:
    return {
        "HOME": str(root),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "CHOIR_STATE": str(root / "state"),
        "LANG": "C.UTF-8",
    }


@contextlib.contextmanager
def running(config: str = "") -> Iterator[Choir]:
    """A deployment of its own, configured with ``config`` (choir.toml)."""
    root = Path(tempfile.mkdtemp(prefix="choir-"))
    path = root / ".config/choir/choir.toml"
    path.parent.mkdir(parents=True)
    path.write_text(config)
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
        threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop it
        yield Choir(root, process, found[0])
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
        shutil.rmtree(root)


@pytest.fixture
def choir() -> Iterator[Choir]:
    with running() as choir:
        yield choir


@pytest.fixture(scope="session")
def shared() -> Iterator[Choir]:
    """One deployment for the tests that only use its desktop, with ``tests.sandbox.agent.model_double`` for a model."""
    from tests.sandbox.agent.model_double import ModelDouble

    double, loop = ModelDouble(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(double.start(), loop).result(10)
    key = Path(tempfile.mkdtemp(prefix="choir-key-")) / "key"
    key.touch(0o600)
    key.write_text(secrets.token_hex(16))
    config = (
        "[providers.local]\nenabled = false\n[providers.openai]\n"
        f'base_url = "{double.origin}/v1"\nkey = "file:{key}"\nmodels = ["gpt-one", "gpt-two"]\n'
    )
    try:
        with running(config) as choir:
            yield choir
    finally:
        asyncio.run_coroutine_threadsafe(double.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        shutil.rmtree(key.parent)


@pytest.fixture
def desk(browser: Browser, shared: Choir) -> Iterator[Page]:
    """The shared deployment's desktop, tidied."""
    page = shared.enter(browser)
    with quiet(page):
        expect(page.locator(".window, .bare").first).to_be_visible()
        page.get_by_role("button", name="Tidy").click()
        expect(page.locator(".window")).to_have_count(2)
        expect(page.get_by_role("heading", name="Prompt")).to_be_visible()
        yield page


@contextlib.contextmanager
def quiet(page: Page) -> Iterator[None]:
    """Closes the page's profile; a script error or a breach of the content policy fails the test."""
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield
    page.context.close()
    assert wrong == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh browser profile."""
    context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
    context.set_default_timeout(30_000)
    page = context.new_page()
    with quiet(page):
        yield page
