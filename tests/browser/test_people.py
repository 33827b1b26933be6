"""Invitations, passkeys and sessions, in a real browser with a virtual authenticator."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
from playwright.sync_api import Browser, Page, expect

from .conftest import CHOIR, Choir, environment, running, sign_in


@pytest.fixture
def authenticator(page: Page) -> None:
    """A security key that is touched at once by its owner."""
    client = page.context.new_cdp_session(page)
    client.send("WebAuthn.enable")
    client.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            }
        },
    )


def test_invited_with_a_passkey_and_back(choir: Choir, page: Page, authenticator: None, browser: Browser) -> None:
    page.goto(str(choir.choir("user", "invite", "ben")["url"]))
    expect(page.get_by_role("heading", level=1)).to_have_text("You are invited")
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("ben")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_role("button", name=re.compile("Remove: Chrome on Linux"))).to_be_visible()
    page.get_by_role("button", name="Make new codes").click()
    codes = page.locator(".secret").inner_text().split()
    assert len(codes) == 10
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("10 left.")).to_be_visible()

    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.wait_for_url(re.compile(r"http://ben-live\.localhost:\d+/"))

    # Another browser, without the passkey.
    other = browser.new_context().new_page()
    other.goto(choir.first_link.partition("/login")[0] + "/login")
    other.get_by_text("Use a recovery code").click()
    other.get_by_label("Recovery code").fill(codes[0])
    other.get_by_role("button", name="Sign in", exact=True).click()
    expect(other.get_by_text("9 left.")).to_be_visible()
    # It ends the first browser's session, whose desktop notices.
    other.get_by_role("listitem").filter(has_text="by a passkey").get_by_role("button").click()
    expect(other.get_by_text("by a passkey")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("Sign"))
    other.context.close()


def test_an_unknown_passkey_is_refused_in_words(choir: Choir, page: Page, authenticator: None) -> None:
    page.goto(str(choir.choir("user", "invite", "ben")["url"]))
    page.get_by_role("button", name="Join").click()
    page.get_by_role("button", name="Add a passkey").click()
    page.get_by_role("button", name=re.compile("Remove: ")).click()
    expect(page.get_by_text("None yet.")).to_be_visible()
    page.get_by_role("button", name="Sign out", exact=True).click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_text("This passkey was not accepted.")).to_be_visible()


def test_two_people_cannot_reach_each_other(choir: Choir, page: Page, browser: Browser) -> None:
    sign_in(page, choir.first_link)
    page.wait_for_url(re.compile(r"http://[a-z0-9-]+-live\.localhost:\d+/"))
    first = page.url
    other = browser.new_context().new_page()
    other.goto(str(choir.choir("user", "invite", "ben")["url"]))
    other.get_by_role("button", name="Join").click()
    other.get_by_role("link", name="To your desktop").click()
    other.wait_for_url(re.compile(r"http://ben-live\.localhost:\d+/"))
    other.goto(first)  # leads to one's own
    expect(other).to_have_url(re.compile(r"http://ben-live\.localhost:\d+/"))
    for cookie in other.context.cookies():  # even a cookie carried over by hand
        other.context.add_cookies([{**cookie, "domain": first.partition("//")[2].partition(":")[0]}])
    other.goto(first)
    expect(other).to_have_url(re.compile(r"http://ben-live\.localhost:\d+/"))
    other.context.close()


def test_users_on_the_command_line(choir: Choir, browser: Browser) -> None:
    def choir_user(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CHOIR, "user", *arguments], env=environment(choir.root), capture_output=True, text=True, timeout=60
        )

    (owner,) = json.loads(choir_user("list", "--json").stdout)
    assert owner["admin"]
    assert "good for a week" in choir_user("invite", "ben", "--admin").stdout
    assert re.search(r"ben\s+admin\s+invited", choir_user("list").stdout)
    last = choir_user("remove", owner["name"])
    assert (last.returncode != 0, "last admin" in last.stderr) == (True, True)
    assert re.search(r"usd_per_day +1 +an admin", choir_user("limit", "ben", "usd_per_day=1").stdout)
    assert "withdrawn" in choir_user("remove", "ben").stdout
    assert "ben" not in choir_user("list").stdout
    assert "no user `ben`" in choir_user("limit", "ben", "usd_per_day=1").stderr
    set_now = choir_user("limit", owner["name"], "usd_per_day=2.5", "models=local/*").stdout
    assert re.search(r"usd_per_day +2\.5 +an admin", set_now)
    assert re.search(r"requests_per_minute +600 +choir\.toml", set_now)
    assert "an admin" not in choir_user("limit", owner["name"], "none").stdout
    wrong = choir_user("limit", owner["name"], "usd_per_day")
    assert (wrong.returncode != 0, "`usd_per_day` is no limit" in wrong.stderr) == (True, True)
    assert "whole number" in choir_user("limit", owner["name"], "requests_per_minute=some").stderr
    assert "Nobody is signed in." in choir_user("sessions").stdout
    page = browser.new_page()
    sign_in(page, choir.first_link)
    expect(page.locator("#link")).to_have_text("Connected")
    row = re.search(rf"(?m)^([0-9a-f]{{12}}) +{owner['name']} +Chrome on Linux +link ", choir_user("sessions").stdout)
    assert row
    assert "Nobody is signed in." in choir_user("sessions", "ben").stdout
    assert "no session" in choir_user("revoke", "0").stderr
    assert f"{owner['name']} is signed out there" in choir_user("revoke", row[1]).stdout
    expect(page.locator("#link")).to_have_text("Signed out")
    page.context.close()
    unknown = choir_user("remove", "nobody")
    assert "no user `nobody`" in unknown.stderr


def test_on_a_laptop_for_one_nobody_asks(page: Page) -> None:
    with running("[hypervisor]\nsingle_user = true\n") as choir:
        page.goto(choir.first_link.partition("/login")[0])
        expect(page.locator("#link")).to_have_text("Connected")
        page.get_by_role("link", name="Account").click()
        expect(page.get_by_text("by this machine's own account, this browser")).to_be_visible()
