"""Attempts, recovery codes, API tokens, browsers, addresses, local peers."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.errors import StartError
from choir.hypervisor.people import recovery
from choir.hypervisor.people.api_tokens import SCOPES, ApiTokens
from choir.hypervisor.people.attempts import MAX_ADDRESSES, PER_ADDRESS, PER_ADDRESS_SECONDS, Attempts
from choir.hypervisor.people.client import browser_name, client_address
from choir.hypervisor.people.peer import endpoint, uid_of
from choir.storage.people import People


def test_attempts_of_one_address() -> None:
    attempts = Attempts()
    assert [attempts.admit("10.0.0.1", 5.0) for _ in range(PER_ADDRESS)] == [0.0] * PER_ADDRESS
    assert attempts.admit("10.0.0.1", 15.0) == PER_ADDRESS_SECONDS - 10.0
    assert attempts.admit("10.0.0.2", 15.0) == 0.0
    assert attempts.admit("10.0.0.1", 5.0 + PER_ADDRESS_SECONDS) == 0.0


def test_many_addresses_lock_nobody_else_out() -> None:
    attempts = Attempts()
    for number in range(1000):
        for _ in range(PER_ADDRESS + 1):
            attempts.admit(f"10.0.{number // 256}.{number % 256}", 1.0)
    assert attempts.admit("10.9.9.9", 1.0) == 0.0


def test_attempts_of_one_ipv6_network() -> None:
    attempts = Attempts()
    assert all(attempts.admit(f"2001:db8:0:1::{number:x}", 1.0) == 0.0 for number in range(PER_ADDRESS))
    assert attempts.admit("2001:db8:0:1:ffff::1", 1.0) > 0.0
    assert attempts.admit("2001:db8:0:2::1", 1.0) == 0.0
    assert attempts.admit("fe80::1%eth0", 1.0) == 0.0


def test_attempts_that_proved_right_are_forgiven() -> None:
    attempts = Attempts()
    for _ in range(PER_ADDRESS * 3):
        assert attempts.admit("10.0.0.1", 1.0) == 0.0
        attempts.forgive("10.0.0.1")
    for _ in range(5):
        attempts.forgive("10.0.0.1")  # no more than was counted
    assert sum(attempts.admit("10.0.0.1", 1.0) == 0.0 for _ in range(99)) == PER_ADDRESS


def test_attempts_take_a_bounded_place() -> None:
    attempts = Attempts()
    for number in range(MAX_ADDRESSES * 2):
        attempts.admit(str(number), number * PER_ADDRESS_SECONDS)
    assert len(attempts._counts) <= MAX_ADDRESSES


def test_recovery_codes() -> None:
    codes = recovery.new_codes()
    assert len(set(codes)) == recovery.COUNT
    for code in codes:
        assert recovery.normal(code) == code
        assert recovery.normal(f" {code.upper().replace('-', ' ')}\n") == code
        assert recovery.normal(code[:-1]) == ""


@given(st.text())
def test_recovery_codes_typed_wrong(text: str) -> None:
    code = recovery.normal(text)
    assert code == "" or recovery.normal(code) == code


def test_api_tokens(people: People) -> None:
    now = 100.0
    tokens = ApiTokens(people, lambda: now)
    made, secret = tokens.create("ben", " nightly\n run ", "control", 1)
    assert (made.name, made.expires) == ("nightly run", 100.0 + 86400.0)
    for scope, works in zip(SCOPES, (True, True, False), strict=True):
        assert (tokens.find(f"Bearer {secret}", scope) is not None) == works
    for header in ("", "Bearer", f"Basic {secret}", f"Bearer {secret}x", f"Bearer {secret[:-1]}", "Bearer choir-api-"):
        assert tokens.find(header, "read") is None
    assert people.drop_api_token("ada", made.id) is False  # another's
    now += 86400.0
    assert tokens.find(f"Bearer {secret}", "read") is None


def test_a_revoked_api_token_and_one_of_a_removed_user(people: People) -> None:
    tokens = ApiTokens(people)
    first, secret = tokens.create("ben", "a", "read", 30)
    _, other = tokens.create("ben", "b", "read", 30)
    assert people.drop_api_token("ben", first.id)
    assert tokens.find(f"Bearer {secret}", "read") is None
    assert tokens.find(f"Bearer {other}", "read") is not None
    people.remove_user("ben")
    assert tokens.find(f"Bearer {other}", "read") is None


def test_an_admins_token_ends_with_the_role(people: People) -> None:
    tokens = ApiTokens(people)
    _, secret = tokens.create("ada", "a", "admin", 30)
    assert tokens.find(f"bearer {secret}", "admin") is not None
    people.set_admin("ben", True)
    people.set_admin("ada", False)
    assert tokens.find(f"bearer {secret}", "read") is None


@pytest.mark.parametrize(("scope", "days"), [("admin", 30), ("all", 30), ("read", 0), ("read", 367), ("read", -1)])
def test_api_tokens_that_are_not_made(people: People, scope: str, days: int) -> None:
    with pytest.raises(StartError) as caught:
        ApiTokens(people).create("ben", "x", scope, days)
    assert caught.value.reason == "token_invalid"
    assert people.api_tokens("ben", 0.0) == []


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605 Version/18 Safari/605.1", "Safari on macOS"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140 Safari/537.36 Edg/140", "Edge on Windows"),
        ("curl/8.5", "Another program"),
        ("", "Another program"),
    ],
)
def test_browser_names(agent: str, name: str) -> None:
    assert browser_name(agent) == name


@pytest.mark.parametrize(
    ("peer", "header", "address"),
    [
        ("198.51.100.7", "10.0.0.1", "198.51.100.7"),  # says so of itself
        ("127.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("127.0.0.1", "10.9.9.9, 203.0.113.5", "203.0.113.5"),  # what the client put in front is not believed
        ("127.0.0.1", "203.0.113.5, 127.0.0.2", "203.0.113.5"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("::ffff:127.0.0.1", "10.0.0.9", "10.0.0.9"),  # as a socket for both families has it
        ("127.0.0.1", "10.0.0.9, ::ffff:127.0.0.2", "10.0.0.9"),
    ],
)
def test_client_addresses(peer: str, header: str, address: str) -> None:
    assert client_address(peer, header, ("127.0.0.1", "127.0.0.2")) == address


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_uid_at_the_other_end(family: int, host: str) -> None:
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        own = listener.getsockname()[:2]
        with socket.create_connection(own) as client, listener.accept()[0]:
            assert uid_of(client.getsockname()[:2], own) == os.geteuid()
            assert uid_of((host, 1), own) is None
    assert uid_of(("198.51.100.7", 4000), own) is None
    assert uid_of(("nonsense", 4000), own) is None


def test_endpoints_as_the_kernel_writes_them() -> None:
    # proc(5) writes 32-bit words in the machine's order; the machines Choir runs on are little-endian.
    assert endpoint("127.0.0.1", 7000) == "0100007F:1B58"
    assert endpoint("::1", 80) == "00000000000000000000000001000000:0050"
