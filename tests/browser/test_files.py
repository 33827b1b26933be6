"""The Files window."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .conftest import Choir
from .test_windows import open_app, window


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
