from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import config as configuration
from choir import public_url
from choir.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ""),
        ("https://choir.example.org", "https://choir.example.org"),
        ("https://choir.example.org/", "https://choir.example.org"),
        ("https://choir.example.org:443", "https://choir.example.org"),
        ("HTTPS://Choir.Example.ORG:443/", "https://choir.example.org"),
        ("https://choir.example.org.", "https://choir.example.org"),
        ("https://choir.example.org:8443", "https://choir.example.org:8443"),
        ("https://choir.example.org:80", "https://choir.example.org:80"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:7000/", "http://localhost:7000"),
        (" https://xn--bcher-kva.example ", "https://xn--bcher-kva.example"),
    ],
)
def test_what_is_meant(written: str, meant: str) -> None:
    assert public_url.normal(written) == meant


REFUSED = [
    ("choir.example.org", "begins with"),
    ("choir.example.org:443", "begins with"),
    ("//choir.example.org", "begins with"),
    ("ftp://choir.example.org", "begins with"),
    ("https:choir.example.org", "begins with"),
    ("https://", "begins with"),
    ("https://choir.example.org/choir", "no path"),
    ("https://choir.example.org//", "no path"),
    ("https://choir.example.org?x", "no path"),
    ("https://choir.example.org#x", "no path"),
    ("https://me@choir.example.org", "no path"),
    ("https://192.0.2.1", "host name"),
    ("https://[2001:db8::1]:7000", "host name"),
    ("https://[x", "not a URL"),
    ("https://a_b.example.org", "host name"),
    ("https://b\u00fccher.example", "xn--"),
    ("https://*.example.org", "host name"),
    ("https://:443", "host name"),
    ("https://choir.example.org:99999", "not a URL"),
    ("https://choir.example.org:x", "not a URL"),
    ("https://choir.example.org:0", "port"),
]


@pytest.mark.parametrize(("written", "why"), REFUSED)
def test_what_is_refused(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        public_url.normal(written)


@given(st.text() | st.from_regex(r"https?://[a-zA-Z0-9.:/@\[\]-]{0,30}", fullmatch=True))
def test_it_is_normal_or_refused(text: str) -> None:
    try:
        found = public_url.normal(text)
    except ValueError:
        return
    assert public_url.normal(found) == found


def load(tmp_path: Path, written: str) -> configuration.Config:
    path = tmp_path / "choir.toml"
    path.write_text(f'[hypervisor]\nhost = "127.0.0.1"\npublic_url = "{written}"\n')
    return configuration.load(path)


def test_in_choir_toml(tmp_path: Path) -> None:
    assert load(tmp_path, "HTTPS://Choir.example.org:443/").hypervisor.public_url == "https://choir.example.org"
    with pytest.raises(ConfigError, match=r"choir\.toml:3:1: public_url begins with"):
        load(tmp_path, "choir.example.org")
