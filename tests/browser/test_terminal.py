"""The Terminal window: a real shell in a real sandbox."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from .test_windows import open_app, window


def rows(page: Page, name: str = "terminal-1") -> Locator:
    return window(page, name).locator(".xterm-rows")


def test_a_command_a_resize_and_a_reload(desk: Page) -> None:
    open_app(desk, "Terminal")
    shown = rows(desk)
    expect(shown).to_contain_text("$")
    desk.keyboard.type("echo $((6*7))-x; tput setaf 1; tput setab 4; echo coloured\n")
    expect(shown).to_contain_text("42-x")
    expect(shown).to_contain_text("coloured")
    desk.keyboard.type("clear; echo s:$(stty size)\n")
    expect(shown).to_contain_text(re.compile(r"s:\d+ \d+"))
    found = re.search(r"s:(\d+) (\d+)", shown.inner_text())
    assert found
    window(desk, "terminal-1").get_by_role("button", name="Maximise Terminal").click()
    desk.locator(".shell textarea").focus()
    desk.keyboard.type("echo t:$(stty size)\n")
    expect(shown).to_contain_text(re.compile(r"t:\d+ \d+"))
    larger = re.search(r"t:(\d+) (\d+)", shown.inner_text())
    assert larger
    assert int(larger[1]) > int(found[1])
    assert int(larger[2]) > int(found[2])
    desk.keyboard.type("export KEPT=still-here; for i in $(seq 1 300); do echo line-$i; done\n")
    expect(shown).to_contain_text("line-300")
    desk.reload()
    expect(shown).to_contain_text("line-300")
    desk.locator(".shell textarea").focus()
    desk.keyboard.type("echo $KEPT.\n")
    expect(shown).to_contain_text("still-here.")
    for _ in range(4):  # what was shown before the reload can be scrolled back to
        desk.keyboard.press("Shift+PageUp")
    expect(shown).to_contain_text(re.compile(r"line-1[0-9]{2}"))


def test_two_terminals_and_the_end_of_one(desk: Page) -> None:
    open_app(desk, "Terminal")
    expect(rows(desk)).to_contain_text("$")
    desk.keyboard.type("ONE=1; exit 3\n")
    expect(window(desk, "terminal-1")).to_contain_text("The shell has ended (3).")
    window(desk, "terminal-1").get_by_role("button", name="Another terminal").click()
    expect(rows(desk, "terminal-2")).to_contain_text("$")
    window(desk, "terminal-2").locator("textarea").focus()
    desk.keyboard.type("echo two-$ONE.\n")
    expect(rows(desk, "terminal-2")).to_contain_text("two-.")
    window(desk, "terminal-2").get_by_role("button", name="Close Terminal 2").click()
    window(desk, "terminal-1").get_by_role("button", name="New shell").click()
    window(desk, "terminal-1").locator("textarea").focus()
    desk.keyboard.type("echo again-$ONE.\n")
    expect(rows(desk)).to_contain_text("again-.")


def test_the_shell_has_no_more_than_the_sandbox(desk: Page) -> None:
    open_app(desk, "Terminal")
    expect(rows(desk)).to_contain_text("$")
    desk.keyboard.type("clear; ls -l /proc/self/fd | grep -c socket; env | grep -c DATABASE_URL; id -u; tty\n")
    expect(rows(desk)).to_contain_text(re.compile(r"0\s*0\s*1000\s*/dev/pts/\d"))


def test_a_paste_of_more_than_a_message_arrives_whole(desk: Page) -> None:
    open_app(desk, "Terminal")
    expect(rows(desk)).to_contain_text("$")
    desk.keyboard.type("stty -echo; echo rea''dy; cat > pasted; stty echo; echo ta''ken\n")
    expect(rows(desk)).to_contain_text("ready")
    text = "".join(f"{number:07} a line of a paste, as long as many\n" for number in range(25_000))
    assert len(text) > 1024 * 1024
    desk.evaluate(
        """text => {
            const data = new DataTransfer();
            data.setData("text/plain", text);
            const paste = new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
            document.querySelector(".shell textarea").dispatchEvent(paste);
        }""",
        text,
    )
    desk.keyboard.press("Control+d")
    expect(rows(desk)).to_contain_text("taken")
    desk.keyboard.type("clear; cat pasted | wc -c; rm pasted\n")
    expect(rows(desk)).to_contain_text(str(len(text)))
