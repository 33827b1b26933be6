"""What a person sees, in a real browser, with real sandboxes and the local model."""

from __future__ import annotations

import os
import re
import secrets
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect

from choir.app.local import LocalModel
from choir.channel import connect, peer_credentials

from .conftest import Choir
from .conftest import sign_in as sign_in_by
from .test_windows import open_app

needs_model = pytest.mark.skipif(not LocalModel.available(), reason="choir[local] is not installed")


def sign_in(page: Page, choir: Choir) -> None:
    sign_in_by(page, choir.first_link)
    expect(page.locator("#link")).to_have_text("Connected")


@needs_model
def test_from_the_link_to_an_answer_and_its_record(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    assert re.fullmatch(r"http://[a-z0-9-]+-live\.localhost:\d+/", page.url)
    expect(page.get_by_text("No model call since the sandbox started.")).to_be_visible()
    page.get_by_label("Your prompt").fill("What is the capital of France? Answer in one sentence.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    answer = page.get_by_role("article", name="Agent")
    expect(answer).to_have_class(re.compile(r"\bdone\b"), timeout=90_000)
    expect(answer).to_contain_text(re.compile(r"\w{3}"))
    call = page.locator("#calls li")
    expect(call).to_have_count(1)
    expect(call).to_contain_text("local")
    expect(call).to_contain_text("200")
    expect(call).to_contain_text("SmolLM2")
    expect(call).to_contain_text(re.compile(r"\d+ → \d+\s+tokens"))
    said = answer.inner_text()
    page.reload()
    expect(page.get_by_role("article", name="Agent")).to_have_text(said)
    expect(page.locator("#calls li")).to_have_count(1)


@needs_model
def test_stop_ends_an_answer_and_keeps_it(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    page.get_by_label("Your prompt").fill("Write a very long story about a choir.")
    page.get_by_role("button", name="Send").click()
    answer = page.get_by_role("article", name="Agent")
    expect(answer.locator(".words")).to_have_text(re.compile(r"\w{3}"), timeout=90_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(answer).to_contain_text("Stopped.")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_a_credential_in_the_home_is_named_and_the_way_out_works(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    choir.choir("sandbox", "stop")
    value = "AKIA" + secrets.token_hex(8).upper()
    planted: Path = choir.home / ".aws" / "credentials"
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"[default]\naws_access_key_id = {value}\n")
    page.goto(choir.link())
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(".aws/credentials")
    expect(page.get_by_role("heading", level=1)).to_have_text("Your sandbox did not start")
    assert value not in page.content()
    started = choir.sandbox()["id"]
    page.reload()
    expect(alert).to_contain_text(".aws/credentials")
    assert choir.sandbox()["id"] == started  # looking at it starts nothing
    page.get_by_role("button", name="Set .aws/credentials aside and start again").click()
    expect(page.locator("#link")).to_have_text("Connected")
    assert not planted.exists()
    (kept,) = (choir.root / "state" / "quarantine").glob("*/*-credentials")
    assert value in kept.read_text()


def test_a_desktop_that_is_killed_comes_back_to_the_open_page(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    before = choir.sandbox()["id"]
    (keeper,) = (choir.root / "state" / "run").glob("*.keeper")
    channel = connect(str(keeper))
    os.kill(peer_credentials(channel.sock)[0], signal.SIGKILL)
    channel.close()
    expect(page.locator("#link")).to_have_text("Sandbox failed")
    expect(page.locator("#link")).to_have_text("Connected")
    assert choir.sandbox()["id"] != before


def test_dev_and_swap(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    page.get_by_role("link", name="Sandbox").click()
    page.get_by_role("link", name="there is a second sandbox, dev").click()
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#link")).to_have_text("Connected")
    expect(page.locator("#who")).to_contain_text("dev")
    homes = {each["role"]: each["home"] for each in choir.choir("sandbox", "list")}
    page.get_by_role("link", name="Sandbox").click()
    page.get_by_role("button", name="Make this the live one").click()
    expect(page.locator("#link")).to_have_text("Connected")
    expect(page.locator("#who")).to_contain_text("live")
    after = {each["role"]: each["home"] for each in choir.choir("sandbox", "list")}
    assert after == {"live": homes["dev"], "dev": homes["live"]}


def test_a_sandbox_that_ended_behind_an_open_page_is_not_brought_back(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    open_app(page, "Terminal")
    expect(page.locator(".xterm-rows")).to_contain_text("$")
    before = choir.sandbox()["id"]
    choir.choir("sandbox", "stop")
    expect(page.locator("#link")).to_have_text("Sandbox stopped")
    expect(page.locator("#notice")).to_contain_text("It was stopped.")
    asked: list[str] = []
    page.on("websocket", lambda socket: asked.append(socket.url.rpartition("/api/")[2]))
    page.wait_for_timeout(2100)  # while it asks again; a terminal waits for the desktop
    assert set(asked) == {"desktop"}
    assert (choir.sandbox()["id"], choir.sandbox()["state"]) == (before, "stopped")
    page.get_by_role("link", name="See what can be done").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your sandbox is stopped")
    page.get_by_role("button", name="Start again").click()
    expect(page.locator("#link")).to_have_text("Connected")


def test_an_open_page_finds_a_sandbox_that_was_started_again(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    choir.choir("sandbox", "stop")
    expect(page.locator("#link")).to_have_text("Sandbox stopped")
    choir.choir("sandbox", "start")
    expect(page.locator("#link")).to_have_text("Connected")
    expect(page.locator("#notice")).to_be_hidden()


def test_stop_from_the_page(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    page.get_by_role("link", name="Sandbox").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your desktop is running")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your sandbox is stopped")
    assert choir.sandbox()["state"] == "stopped"


def test_without_a_script_the_start_still_leads_to_the_desktop(choir: Choir, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    sign_in_by(page, choir.first_link)
    expect(page).to_have_url(re.compile(r"-live\.localhost"), timeout=20_000)
    assert "needs JavaScript" in page.content()  # this way of switching scripts off shows no <noscript>
    context.close()


def test_signing_out_closes_the_open_desktop(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    other = page.context.new_page()
    other.goto(choir.first_link.partition("/login")[0] + "/desk/live")
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page.locator("#link")).to_have_text("Signed out")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_used_link_says_so(choir: Choir, page: Page) -> None:
    sign_in(page, choir)
    page.context.clear_cookies()
    page.goto(choir.first_link)
    expect(page.get_by_role("heading", level=1)).to_have_text("This link no longer works")
    expect(page.get_by_text("choir login")).to_be_visible()


def test_the_sandboxs_page_has_no_power_over_the_hypervisors(choir: Choir, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    sign_in(page, choir)
    hub = choir.first_link.partition("/login")[0]
    assert page.evaluate("document.cookie") == ""
    for mode in ("cors", "no-cors"):
        with pytest.raises(Error, match="Failed to fetch"):
            page.evaluate(f"fetch('{hub}/desk/live/stop', {{method: 'POST', credentials: 'include', mode: '{mode}'}})")
    page.evaluate(
        f"""() => {{
            const form = document.createElement('form');
            Object.assign(form, {{method: 'post', action: '{hub}/desk/live/stop'}});
            document.body.append(form);
            form.submit();
        }}"""
    )
    frame = f"Object.assign(document.createElement('iframe'), {{src: '{hub}/desk/live'}})"
    page.evaluate(f"document.body.append({frame})")
    page.wait_for_timeout(500)
    assert choir.sandbox()["state"] == "ready"
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_width(choir: Choir, browser: Browser, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 375, "height": 720}, color_scheme=scheme, has_touch=True)  # type: ignore[arg-type]
    page = context.new_page()
    sign_in(page, choir)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.evaluate("document.documentElement.scrollHeight") <= 720
    expect(page.get_by_label("Your prompt")).to_be_in_viewport()
    page.get_by_role("link", name="Sandbox").click()
    expect(page.get_by_role("button", name="Stop")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    context.close()
