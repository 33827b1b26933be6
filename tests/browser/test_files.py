"""The Files window."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from .conftest import Choir
from .test_windows import box, open_app, window


def test_from_an_upload_to_its_end(desk: Page, shared: Choir) -> None:
    open_app(desk, "Files")
    files = window(desk, "files")
    files.get_by_role("button", name="New folder").click()
    desk.get_by_label("Name", exact=True).fill("notes")
    desk.keyboard.press("Enter")
    files.get_by_role("button", name="notes", exact=True).click()
    binary = bytes(range(256)) * 8000
    desk.get_by_label("Files to upload").set_input_files(
        [
            {"name": "one.txt", "mimeType": "text/plain", "buffer": b"first\n"},
            {"name": "data.bin", "mimeType": "application/octet-stream", "buffer": binary},
        ]
    )
    expect(files.get_by_role("button", name="data.bin", exact=True)).to_be_visible()
    assert (shared.home / "notes/data.bin").read_bytes() == binary
    with desk.expect_download() as download:
        files.get_by_role("link", name="Download data.bin").click()
    assert download.value.path().read_bytes() == binary
    files.get_by_role("button", name="data.bin", exact=True).click()
    expect(files).to_contain_text("data.bin is not text.")
    files.get_by_role("button", name="Back to the folder").click()

    files.get_by_role("button", name="one.txt", exact=True).click()
    text = files.get_by_label("Text of one.txt")
    expect(text).to_have_value("first\n")
    text.fill("second\n")
    desk.keyboard.press("Control+s")
    expect(files.get_by_role("status")).to_have_text("Saved")
    assert (shared.home / "notes/one.txt").read_text() == "second\n"
    (shared.home / "notes/one.txt").write_text("the agent was faster\n")
    text.fill("third\n")
    files.get_by_role("button", name="Save", exact=True).click()
    expect(files.get_by_role("alert")).to_contain_text("was changed meanwhile")
    assert (shared.home / "notes/one.txt").read_text() == "the agent was faster\n"
    files.get_by_role("button", name="Load it again").click()
    expect(text).to_have_value("the agent was faster\n")
    files.get_by_role("button", name="Back to the folder").click()

    files.get_by_role("button", name="Rename one.txt").click()
    desk.get_by_label("New name").fill("data.bin")
    desk.keyboard.press("Enter")
    expect(desk.get_by_role("dialog")).to_contain_text("There is something named data.bin already.")
    desk.get_by_label("New name").fill("two.txt")
    desk.keyboard.press("Enter")
    expect(files.get_by_role("button", name="two.txt", exact=True)).to_be_visible()
    files.get_by_role("button", name="Home", exact=True).click()
    files.get_by_role("button", name="Delete notes").click()
    desk.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(files.get_by_role("button", name="notes", exact=True)).to_have_count(0)
    assert not (shared.home / "notes").exists()


def test_a_link_is_shown_and_not_followed(desk: Page, shared: Choir) -> None:
    link = shared.home / "way-out"
    link.symlink_to("/etc/passwd")
    open_app(desk, "Files")
    expect(window(desk, "files").get_by_role("button", name="way-out", exact=True)).to_be_disabled()
    answer = desk.evaluate("fetch('/api/files/content?path=way-out').then(answer => answer.json())")
    assert answer["error"]["reason"] == "link_refused"
    link.unlink()


def test_an_edit_changes_nothing_else_and_is_kept_until_it_is_saved(desk: Page, shared: Choir) -> None:
    file = shared.home / "windows.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (shared.home / "almost").write_bytes(b"x" * 9000 + b"\xff")
    open_app(desk, "Files")
    files = window(desk, "files")
    files.get_by_role("button", name="almost", exact=True).click()
    expect(files).to_contain_text("almost is not text.")
    files.get_by_role("button", name="Back to the folder").click()
    files.get_by_role("button", name="windows.txt", exact=True).click()
    files.get_by_role("textbox").press("Control+End")
    desk.keyboard.type("three")
    files.get_by_role("button", name="Back to the folder").click()
    entry = files.get_by_role("row").filter(has_text="windows.txt")
    expect(entry).to_contain_text("Not saved")
    files.get_by_role("button", name="Close Files").click()
    open_app(desk, "Files")
    entry.get_by_role("button").first.click()
    expect(files.get_by_role("textbox")).to_have_value("\ufeffone\ntwo\nthree")
    files.get_by_role("button", name="Save", exact=True).click()
    expect(files.get_by_role("status")).to_have_text("Saved")
    assert file.read_bytes() == b"\xef\xbb\xbfone\r\ntwo\r\nthree"
    file.unlink()
    (shared.home / "almost").unlink()


def test_names_of_all_kinds_and_folders_are_uploaded(desk: Page, shared: Choir, tmp_path: Path) -> None:
    inside = shared.home / "odd"
    desk.evaluate("fetch('/api/files/folder?path=odd', {method: 'POST'})")  # it is the sandbox's
    latin = inside / os.fsdecode(b"caf\xe9")
    latin.write_text("bytes")
    (inside / "taken").write_text("before")
    open_app(desk, "Files")
    files = window(desk, "files")
    files.get_by_role("button", name="odd", exact=True).click()
    names = ['a #1 100% "it\'s" ünï 日本.txt', "taken", "z.txt"]
    desk.get_by_label("Files to upload").set_input_files(
        [{"name": name, "mimeType": "text/plain", "buffer": name.encode()} for name in names]
    )
    expect(files.get_by_role("alert")).to_have_text("There is something named taken already.")
    assert (inside / "taken").read_text() == "before"
    for name in (names[0], names[2]):  # the others came
        assert (inside / name).read_text() == name
    files.get_by_role("button", name=names[0], exact=True).click()
    expect(files.get_by_role("textbox")).to_have_value(names[0])
    files.get_by_role("button", name="Back to the folder").click()
    with desk.expect_download() as download:
        files.get_by_role("link", name="Download caf").click()
    assert download.value.path().read_text() == "bytes"

    given = tmp_path / "project"
    (given / "deep/empty").mkdir(parents=True)
    (given / "deep/file").write_text("from below")
    area = files.locator(".listing").bounding_box()
    assert area is not None
    tools = desk.context.new_cdp_session(desk)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(given)], "dragOperationsMask": 1}
        where = {"x": area["x"] + 50, "y": area["y"] + 50}
        tools.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})
    expect(files.get_by_role("button", name="project", exact=True)).to_be_visible()
    assert (inside / "project/deep/file").read_text() == "from below"
    assert (inside / "project/deep/empty").is_dir()
    shutil.rmtree(inside)


def test_many_files_on_a_phone(shared: Choir, browser: Browser) -> None:
    many = shared.home / "many"
    many.mkdir()
    for number in range(501):
        (many / f"file-{number:03}").touch()
    phone = {"width": 390, "height": 844}
    page = shared.enter(browser, viewport=phone, has_touch=True, is_mobile=True)
    open_app(page, "Files")
    files = window(page, "files")
    files.get_by_role("button", name="many", exact=True).click()
    expect(files.get_by_role("row")).to_have_count(1 + 500)
    acts = [box(files.get_by_role("button", name=name, exact=True)) for name in ("New file", "New folder", "Upload")]
    assert len({act["y"] for act in acts}) == 1
    more = files.get_by_role("button", name="Show more of 501")
    more.scroll_into_view_if_needed()  # the list scrolls, above the dock
    assert box(more)["y"] + box(more)["height"] <= box(page.locator(".dock"))["y"]
    more.click()
    files.get_by_role("button", name="file-500", exact=True).click()
    bottom = box(files)["y"] + box(files)["height"]
    expect(files.get_by_role("textbox")).to_be_visible()
    assert abs(bottom - box(page.locator(".dock"))["y"]) < 3  # as high as there is room
    page.context.close()
    shutil.rmtree(many)
