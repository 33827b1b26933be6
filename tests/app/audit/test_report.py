from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from choir.app.audit.finding import LAYERS, Finding
from choir.app.audit.page import page
from choir.app.audit.report import Report, line

HELD = Finding("provider keys", "own_environ", "keys", "look", "none <b>", "held", "do")
FAILED = Finding("the network", "ipv4", "network", "connect", "connected & more", "failed", "see `choir run --explain`")
LIMIT = Finding("a sandbox's own state", "the agent", "separation", "look", "not kept apart", "limit", "")


def test_the_verdict() -> None:
    assert not Report({}).ok, "nothing was tried"
    assert not Report({}, [LIMIT]).ok
    assert Report({}, [HELD, LIMIT]).ok
    assert Report({}, [HELD, LIMIT]).verdict() == "all 1 checks held, 1 known limit"
    report = Report({}, [HELD, FAILED, LIMIT])
    assert not report.ok
    assert report.verdict() == "1 of 2 checks failed: ipv4"


def test_as_text() -> None:
    assert line(HELD) == "  ok    own environ: look → none <b>"
    assert line(LIMIT).startswith("  limit the agent")
    text = line(FAILED)
    assert text.startswith("  FAIL  ipv4: connect → connected & more\n")
    assert LAYERS["network"] in text
    assert FAILED.fix in text


def test_as_json() -> None:
    report = json.loads(json.dumps(Report({"host": "a"}, [HELD, FAILED], 1.26).as_dict()))
    assert (report["schema"], report["ok"], report["seconds"], report["about"]) == (1, False, 1.3, {"host": "a"})
    assert report["checks"][1] == {
        "target": "the network",
        "name": "ipv4",
        "layer": "network",
        "held_by": LAYERS["network"],
        "tried": "connect",
        "came_back": "connected & more",
        "outcome": "failed",
        "fix": FAILED.fix,
        "ok": False,
    }


class Whole(HTMLParser):
    """Whether every element is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_as_a_page() -> None:
    html = page(Report({"host": "<script>"}, [HELD, FAILED, LIMIT]))
    parser = Whole()
    parser.feed(html)
    assert parser.open == []
    assert "script" not in parser.seen
    assert not re.search(r"(src|href)=|url\(|@import", html), "nothing is loaded"
    assert "&lt;script&gt;" in html
    assert "none &lt;b&gt;" in html
    assert html.index("What failed") < html.index("Provider keys")
    assert "What failed" not in page(Report({}, [HELD]))
