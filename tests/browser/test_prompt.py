"""The Prompt window with an agent that has tools; Memory and Activity after it."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .test_windows import open_app, window


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your prompt").fill(text)
    page.keyboard.press("Enter")


def test_a_tool_call_is_seen_as_it_runs_and_stop_stops(desk: Page) -> None:
    prompt = window(desk, "prompt")
    if prompt.get_by_role("button", name="Clear").count():
        prompt.get_by_role("button", name="Clear").click()
    desk.get_by_label("Model", exact=True).select_option("openai/gpt-two")
    ask(desk, "sh:echo made > made.txt; echo out''put; sleep 100")
    tool = prompt.locator("details.tool")
    expect(tool).to_contain_text("output", timeout=60_000)
    expect(tool.locator(".state")).to_have_text("running")
    desk.reload()  # the run goes on
    expect(tool).to_contain_text("output")
    desk.get_by_role("button", name="Stop", exact=True).click()
    expect(desk.get_by_role("article", name="Agent")).to_contain_text("Stopped.")
    expect(desk.get_by_role("button", name="Send")).to_be_visible()
    expect(desk.get_by_label("Model", exact=True)).to_have_value("openai/gpt-two")

    ask(desk, "the zebra crossed the river <img src=x onerror=alert(1)>")
    answer = desk.get_by_role("article", name="Agent").last
    expect(answer).to_have_class("said assistant done")
    expect(answer).to_contain_text("<img src=x")
    assert prompt.locator("img").count() == 0

    calls = window(desk, "activity").locator("#calls li")
    expect(calls.first).to_contain_text("gpt-two")
    expect(window(desk, "activity").get_by_role("img")).to_have_count(4)

    open_app(desk, "Memory")
    memory = window(desk, "memory")
    memory.get_by_label("Search the memory").fill("zebra river")
    desk.keyboard.press("Enter")
    hits = memory.get_by_role("article")
    expect(hits.first).to_contain_text("zebra")
    hits.first.get_by_role("button", name="Why?").click()
    expect(hits.first.get_by_role("table")).to_contain_text("zebra")
    count = hits.count()
    hits.first.get_by_role("button", name="Forget…").click()
    hits.first.get_by_role("button", name="Forget", exact=True).click()
    expect(hits).to_have_count(count - 1)
    window(desk, "prompt").locator(".title").click(position={"x": 300, "y": 8})
    window(desk, "prompt").get_by_role("button", name="Clear").click()
    expect(window(desk, "prompt")).to_contain_text("What shall we do?")


def test_a_prompt_that_is_too_long_is_not_lost(desk: Page) -> None:
    text = "word " * 250_000  # more than a message may hold
    desk.get_by_label("Your prompt").fill(text)
    desk.get_by_role("button", name="Send").click()
    expect(window(desk, "prompt").get_by_role("alert")).to_have_text("That is longer than 200,000 characters.")
    expect(desk.get_by_label("Your prompt")).to_have_value(text)
    expect(desk.locator("#link")).to_have_text("Connected")
