"""Windows: moved, resized, minimised, closed; the same after a reload and in another browser; by pointer and keys."""

from __future__ import annotations

from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from .conftest import Choir


def window(page: Page, name: str) -> Locator:
    return page.locator(f'.window[data-window="{name}"]')


def box(locator: Locator) -> FloatRect:
    found = locator.bounding_box()
    assert found is not None
    return found


def open_app(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Apps").get_by_role("button", name=name, exact=True).click()


def drag(page: Page, x: float, y: float, dx: float, dy: float) -> None:
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2, steps=3)
    page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()


def near(one: FloatRect, other: FloatRect) -> bool:
    return all(abs(one[key] - other[key]) <= 2 for key in ("x", "y", "width", "height"))  # type: ignore[literal-required]


def test_moving_and_resizing_stay_over_a_reload_and_show_in_another_browser(
    desk: Page, browser: Browser, shared: Choir
) -> None:
    other = shared.enter(browser)
    open_app(desk, "Files")
    files = window(desk, "files")
    expect(files).to_be_visible()
    expect(window(other, "files")).to_be_visible()  # as it happens
    before = box(files)
    drag(desk, before["x"] + 200, before["y"] + 20, 90, 60)
    moved = box(files)
    assert abs(moved["x"] - before["x"] - 90) <= 2
    assert abs(moved["y"] - before["y"] - 60) <= 2
    drag(desk, moved["x"] + moved["width"] - 2, moved["y"] + moved["height"] - 2, -120, -100)
    resized = box(files)
    assert abs(resized["width"] - moved["width"] + 120) <= 3
    assert abs(resized["height"] - moved["height"] + 100) <= 3
    wanted = window(other, "files")
    other.wait_for_function(
        "wanted => Math.abs(document.querySelector('[data-window=files]').offsetWidth - wanted) < 3",
        arg=resized["width"],
    )
    assert near(box(wanted), resized)
    desk.reload()
    expect(files).to_be_visible()
    assert near(box(files), resized)
    files.get_by_role("button", name="Close Files").click()
    expect(files).to_have_count(0)
    expect(wanted).to_have_count(0)
    other.context.close()


def test_minimise_maximise_and_raise(desk: Page) -> None:
    prompt, activity = window(desk, "prompt"), window(desk, "activity")
    activity.locator(".title").click()
    prompt.get_by_role("button", name="Minimise Prompt").click()
    expect(prompt).to_be_hidden()
    desk.reload()
    expect(activity).to_be_visible()
    expect(prompt).to_be_hidden()
    open_app(desk, "Prompt")
    expect(prompt).to_be_visible()
    expect(desk.get_by_label("Your prompt")).to_be_focused()
    whole = box(desk.locator(".desk"))
    before = box(prompt)
    prompt.locator(".title").dblclick()
    desk.wait_for_function("() => document.querySelector('[data-window=prompt]').classList.contains('maximised')")
    assert near(box(prompt), whole)
    prompt.get_by_role("button", name="Restore Prompt").click()
    assert near(box(prompt), before)


def test_by_keys_alone(desk: Page) -> None:
    prompt = window(desk, "prompt")
    open_app(desk, "Memory")
    expect(desk.get_by_label("Search the memory")).to_be_focused()
    desk.keyboard.press("F6")
    desk.keyboard.press("F6")
    expect(desk.get_by_label("Your prompt")).to_be_focused()
    expect(prompt).to_have_class("window prompt top")
    grip = prompt.get_by_role("button", name="Prompt", exact=True)
    grip.focus()
    before = box(prompt)
    desk.keyboard.press("Shift+ArrowLeft")
    desk.keyboard.press("Shift+ArrowUp")
    desk.keyboard.press("ArrowRight")
    desk.keyboard.press("ArrowDown")
    desk.wait_for_function(
        """([x, y, width, height]) => {
            const now = document.querySelector('[data-window=prompt]').getBoundingClientRect();
            return now.x > x && now.y > y && now.width < width && now.height < height;
        }""",
        arg=[before[key] for key in ("x", "y", "width", "height")],  # type: ignore[literal-required]
    )
    expect(grip).to_be_focused()
    desk.keyboard.press("Enter")
    expect(prompt).to_have_class("window prompt top maximised")
    prompt.get_by_role("button", name="Close Prompt").press("Enter")
    expect(prompt).to_have_count(0)
    desk.wait_for_function("() => document.activeElement !== document.body")  # the focus went to what is on top now


def test_an_idle_desktop_asks_for_nothing(desk: Page) -> None:
    asked: list[str] = []
    desk.wait_for_load_state("networkidle")
    desk.on("request", lambda request: asked.append(request.url))
    desk.on("websocket", lambda socket: asked.append(socket.url))
    desk.wait_for_timeout(2500)
    assert asked == []


def test_first_paint_loads_no_terminal_and_little_script(desk: Page) -> None:
    sizes: dict[str, int] = {}
    desk.on("response", lambda response: sizes.__setitem__(response.url, len(response.body())))
    desk.reload()
    expect(desk.get_by_role("heading", name="Prompt")).to_be_visible()
    scripts = {url: size for url, size in sizes.items() if url.endswith(".js")}
    assert 10_000 < sum(scripts.values()) < 100_000, scripts
    assert not [url for url in scripts if "shell" in url]


def test_on_a_phone_windows_are_sheets(shared: Choir, browser: Browser) -> None:
    page = shared.enter(browser, viewport={"width": 375, "height": 720}, color_scheme="dark", has_touch=True)
    for name in ("Files", "Terminal", "Memory", "Activity", "Prompt"):
        open_app(page, name)
        top = page.locator(".window.top")
        expect(top.get_by_role("heading", level=2)).to_contain_text(name)
        assert box(top)["x"] == 0
        assert box(top)["width"] == 375
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        for other in page.locator(".window:not(.top)").all():
            expect(other).to_be_hidden()
    expect(page.get_by_label("Your prompt")).to_be_in_viewport()
    page.context.close()
