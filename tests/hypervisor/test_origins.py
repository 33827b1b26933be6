from __future__ import annotations

import pytest

from choir.hypervisor.origins import HUB, Origins, is_navigation, judge

LOCAL = Origins("http://localhost:7000")
PUBLIC = Origins("https://choir.example.org")
OWN = "http://localhost:7000"
NAVIGATION = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("origins", "host", "place"),
    [
        (LOCAL, "localhost:7000", HUB),
        (LOCAL, "LOCALHOST:7000", HUB),
        (LOCAL, "ada-live.localhost:7000", "ada-live"),
        (LOCAL, "localhost", None),
        (LOCAL, "localhost:7001", None),
        (LOCAL, "127.0.0.1:7000", None),
        (LOCAL, "", None),
        (LOCAL, "evil.example", None),
        (LOCAL, "evil.example:7000", None),
        (LOCAL, "a.b.localhost:7000", None),
        (LOCAL, ".localhost:7000", None),
        (LOCAL, "-a.localhost:7000", None),
        (LOCAL, "a_b.localhost:7000", None),
        (LOCAL, "a\n.localhost:7000", None),
        (PUBLIC, "choir.example.org", HUB),
        (PUBLIC, "ada-live.choir.example.org", "ada-live"),
        (PUBLIC, "example.org", None),
        (PUBLIC, "ada.choir.example.org.evil.example", None),
    ],
)
def test_place(origins: Origins, host: str, place: str | None) -> None:
    assert origins.place(host) == place


def test_origin() -> None:
    assert LOCAL.origin(HUB) == "http://localhost:7000"
    assert LOCAL.origin("ada-live") == "http://ada-live.localhost:7000"
    assert PUBLIC.origin("ada-live") == "https://ada-live.choir.example.org"
    assert (LOCAL.secure, PUBLIC.secure) == (False, True)


@pytest.mark.parametrize(
    ("origins", "host", "is_ours"),
    [
        (LOCAL, "127.0.0.1:7000", True),
        (LOCAL, "[::1]:7000", True),
        (LOCAL, "127.0.0.1:7001", False),
        (LOCAL, "127.0.0.1:x", False),
        (PUBLIC, "127.0.0.1", False),
    ],
)
def test_loopback_address(origins: Origins, host: str, is_ours: bool) -> None:
    assert origins.is_loopback_address(host) is is_ours


@pytest.mark.parametrize(
    ("method", "headers", "websocket", "verdict"),
    [
        ("GET", {}, False, ""),
        ("GET", {"sec-fetch-site": "same-origin"}, False, ""),
        ("GET", {"sec-fetch-site": "none", **NAVIGATION}, False, ""),
        ("GET", {"sec-fetch-site": "cross-site", **NAVIGATION}, False, ""),
        ("GET", {"sec-fetch-site": "same-site", **NAVIGATION}, False, ""),
        (
            "GET",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
            False,
            "cross_site",
        ),
        (
            "GET",
            {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
            False,
            "cross_site",
        ),
        (
            "GET",
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
            False,
            "cross_site",
        ),
        ("GET", {"origin": "http://ada-live.localhost:7000"}, False, "foreign_origin"),
        ("POST", {"origin": OWN}, False, ""),
        ("POST", {"sec-fetch-site": "same-origin"}, False, ""),
        ("POST", {}, False, "no_origin"),
        ("POST", {"origin": "null"}, False, "foreign_origin"),
        ("POST", {"origin": "https://evil.example"}, False, "foreign_origin"),
        ("POST", {"origin": "http://ada-live.localhost:7000"}, False, "foreign_origin"),
        ("POST", {"sec-fetch-site": "cross-site", **NAVIGATION}, False, "cross_site"),
        ("DELETE", {"sec-fetch-site": "none"}, False, "no_origin"),
        ("GET", {"origin": OWN}, True, ""),
        ("GET", {}, True, "no_origin"),
        ("GET", {"origin": "https://evil.example"}, True, "foreign_origin"),
        ("GET", {"origin": OWN, "sec-fetch-site": "cross-site", **NAVIGATION}, True, "cross_site"),
    ],
)
def test_judge(method: str, headers: dict[str, str], websocket: bool, verdict: str) -> None:
    assert judge(method, headers, OWN, websocket) == verdict


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"sec-fetch-mode": "navigate"}, True),
        ({"sec-fetch-mode": "cors", "accept": "text/html"}, False),
        ({"accept": "text/html,*/*"}, True),
        ({"accept": "*/*"}, False),
        ({}, False),
    ],
)
def test_is_navigation(headers: dict[str, str], expected: bool) -> None:
    assert is_navigation(headers) is expected
