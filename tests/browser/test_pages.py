"""The hypervisor's own pages: axe-core finds nothing serious, in light on a screen and in dark on a phone; nothing is
wider than a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from choir.hypervisor import pages
from choir.hypervisor.lifecycle import Failure, Reached, Status

from .conftest import WINDOW, Choir
from .test_accessibility import needs_axe, violations

PHONE = {"width": 375, "height": 720}
STARTING = Status(
    state="starting", sandbox_id="s", phases=(Reached("keeper", 0.01), Reached("namespace", 0.02)), since=1.0
)
FAILED = msgspec.structs.replace(
    STARTING,
    state="failed",
    failure=Failure(
        reason="credential_in_file",
        message="The file .aws/credentials holds a credential.",
        hint="Take it away, or set it aside.",
        code=77,
        log_tail="a line of the log that is long enough to be wider than any telephone could ever show it\n" * 3,
        file=".aws/credentials",
    ),
)


def visits(choir: Choir, scheme: str) -> Iterator[tuple[str, bool, Callable[[Page], None]]]:
    """Each page: its name, whether for somebody signed in, and the way to it."""
    hub = choir.first_link.partition("/login")[0]
    invitation = str(choir.choir("user", "invite", f"guest-{scheme}")["url"])

    def at(url: str) -> Callable[[Page], None]:
        return lambda page: void(page.goto(url if "//" in url else hub + url))

    def drawn(status: Status) -> Callable[[Page], None]:
        def visit(page: Page) -> None:
            def answer(route: Route) -> None:
                route.fulfill(body=pages.sandbox_page("live", status), content_type="text/html")

            page.route("**/desk/drawn", answer)
            page.route("**/progress.js", lambda route: route.abort())
            page.goto(f"{hub}/desk/drawn")
            page.unroute_all()

        return visit

    def codes(page: Page) -> None:
        page.goto(f"{hub}/account")
        page.get_by_role("button", name="Make new codes").click()
        expect(page.locator(".secret")).to_be_visible()

    def refused_limit(page: Page) -> None:
        page.goto(f"{hub}/admin")
        page.get_by_role("link", name="Limits: ").first.click()
        page.get_by_label("Dollars a day").fill("much")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("alert")).to_contain_text("is an amount")

    yield "sign in", False, at("/login")
    yield "a dead link", False, at("/join?once=x")
    yield "invitation", False, at(invitation)
    yield "account", True, at("/account?welcome=1")
    yield "codes", True, codes
    yield "admin", True, at("/admin")
    yield "limits", True, refused_limit
    yield "ready", True, at("/desk/live")
    yield "absent", True, at("/desk/dev")
    yield "starting", True, drawn(STARTING)
    yield "failed", True, drawn(FAILED)


def void(_value: object) -> None:
    return None


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_and_no_wider_than_a_phone(shared: Choir, browser: Browser, scheme: str) -> None:
    shared.enter(browser).context.close()
    contexts: dict[bool, BrowserContext] = {
        signed_in: browser.new_context(
            viewport=WINDOW,  # type: ignore[arg-type]
            color_scheme=scheme,  # type: ignore[arg-type]
            storage_state=shared.cookies if signed_in else None,
        )
        for signed_in in (False, True)
    }
    opened = {signed_in: context.new_page() for signed_in, context in contexts.items()}
    found: dict[str, list[str]] = {}
    for name, signed_in, visit in visits(shared, scheme):
        page = opened[signed_in]
        visit(page)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        if scheme == "light":
            found[name] = violations(page)
        page.set_viewport_size(PHONE)  # type: ignore[arg-type]
        found[f"{name} on a phone"] = violations(page) if scheme == "dark" else []
        if page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]:
            found[f"{name} on a phone"].append("wider than the screen")
        page.set_viewport_size(WINDOW)  # type: ignore[arg-type]
    for context in contexts.values():
        context.close()
    assert {name: each for name, each in found.items() if each} == {}


def test_limits_by_an_admin_are_in_force_for_the_next_prompt(shared: Choir, desk: Page) -> None:
    """From the desktop to the form and back, and what the agent says then."""
    desk.get_by_role("link", name="Account").click()
    desk.get_by_role("link", name="Admin").click()
    desk.get_by_role("link", name="Limits: ").first.click()
    desk.get_by_label("Dollars a day").fill("0")
    desk.get_by_role("button", name="Save").click()
    expect(desk.get_by_role("heading", level=1)).to_have_text("Admin")
    expect(desk.get_by_role("cell", name="set limits").first).to_be_visible()
    (me,) = (each["name"] for each in shared.choir("user", "list") if each["state"] == "active")
    limits = {each["name"]: each["own"] for each in shared.choir("user", "limit", me)}
    assert limits["usd_per_day"] == "0"
    desk.goto(shared.desktop)
    desk.get_by_label("Your prompt").fill("hello")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("article", name="Agent").last).to_contain_text("what this user spends is limited")
    shared.choir("user", "limit", me, "none")
    desk.get_by_label("Your prompt").fill("hello again")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("article", name="Agent").last).to_have_class("said assistant done")
    desk.get_by_role("button", name="Clear").click()
