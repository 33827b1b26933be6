"""axe-core (from npm, for tests only) on every window, in light and dark; nothing serious may be found."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import Choir
from .test_windows import open_app, window

AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"


needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed; ./scripts/test does it")


def violations(page: Page) -> list[str]:
    page.evaluate(AXE.read_text() + ";0")  # through the debugger: the policy lets no page add a script
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']} ({each['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_on_any_window(shared: Choir, browser: Browser, scheme: str) -> None:
    page = shared.enter(browser, color_scheme=scheme)
    page.get_by_role("button", name="Tidy").click()
    found = {"first": violations(page)}
    (shared.home / "a file.txt").write_text("text")
    for name in ("Terminal", "Files", "Memory", "Activity"):
        open_app(page, name)
        expect(page.locator(".window.top").get_by_role("heading", level=2)).to_contain_text(name)
        if name == "Terminal":
            expect(page.locator(".xterm-rows")).to_contain_text("$")
        found[name] = violations(page)
    open_app(page, "Files")
    window(page, "files").get_by_role("button", name="a file.txt", exact=True).click()
    expect(page.get_by_label("Text of a file.txt")).to_be_visible()
    found["editor"] = violations(page)
    page.context.close()
    assert {name: each for name, each in found.items() if each} == {}
