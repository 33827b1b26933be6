from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from choir import user_limits
from choir.config import Config, UserEntry, UserLimits
from choir.errors import ChoirError, ConfigError
from choir.user_limits import FIELDS, LIFTED, LISTS, NUMBERS, merged, parse, read, words, write

KNOWN = ("openai", "local")
TYPED = {
    "providers": "openai, local",
    "models": "openai/gpt-* local/*",
    "usd_per_day": "2.50",
    "usd_per_month": "none",
    "tokens_per_minute": " 1000 ",
    "requests_per_minute": "0",
}


def entries() -> st.SearchStrategy[UserEntry]:
    count = st.none() | st.integers(0, 10**9)
    money = st.none() | st.just("none") | st.floats(0, 1e6, width=32).map(lambda amount: round(amount, 4))
    chosen = {
        name: money if name.startswith("usd") else count | st.just("none") if name in LIFTED else count
        for name in NUMBERS
    }
    return st.builds(
        UserEntry,
        providers=st.none() | st.lists(st.sampled_from(KNOWN), min_size=1).map(tuple),
        models=st.none() | st.lists(st.sampled_from(["openai/*", "local/a", "*/b"]), min_size=1).map(tuple),
        limits=st.builds(UserLimits, **chosen),
    )


def test_what_is_typed() -> None:
    entry = parse(TYPED, UserEntry(), KNOWN)
    assert entry == UserEntry(
        providers=("openai", "local"),
        models=("openai/gpt-*", "local/*"),
        limits=UserLimits(usd_per_day=2.5, usd_per_month="none", tokens_per_minute=1000, requests_per_minute=0),
    )
    assert parse({"usd_per_day": "", "models": " "}, entry, KNOWN).limits.usd_per_day is None
    assert parse({"usd_per_day": ""}, entry, KNOWN).limits.tokens_per_minute == 1000  # the others stay


@given(entries())
def test_what_is_shown_can_be_typed(entry: UserEntry) -> None:
    assert parse(words(entry), UserEntry(), KNOWN) == entry
    assert parse(dict.fromkeys(FIELDS, ""), entry, KNOWN) == UserEntry()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("usd_per_day", "-1"),
        ("usd_per_day", "nan"),
        ("usd_per_day", "inf"),
        ("usd_per_day", "five"),
        ("requests_per_minute", "none"),
        ("requests_per_minute", "1.5"),
        ("tokens_per_minute", "-2"),
        ("providers", "nobody"),
        ("models", "gpt-4"),
        ("models", "nobody/gpt-4"),
        ("deny_models", "openai/*"),
        ("colour", "red"),
    ],
)
def test_what_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({name: text}, UserEntry(), KNOWN)
    assert caught.value.reason == "limit_invalid"


@given(entries(), entries())
def test_the_file_of_the_operator_wins(first: UserEntry, second: UserEntry) -> None:
    operators = msgspec.structs.replace(first, deny_models=("openai/x",))
    both = merged(Config(path=None, users={"ben": operators, "cleo": first}), {"ben": second, "dan": second})
    assert (both.users["cleo"], both.users["dan"]) == (first, second)
    ben = both.users["ben"]
    assert ben.deny_models == ("openai/x",)
    for name in LISTS:
        expected = getattr(first, name)
        assert getattr(ben, name) == (getattr(second, name) if expected is None else expected)
    for name in NUMBERS:
        expected = getattr(first.limits, name)
        assert getattr(ben.limits, name) == (getattr(second.limits, name) if expected is None else expected)


@settings(max_examples=20, deadline=None)
@given(given=st.dictionaries(st.sampled_from(["ben", "cleo"]), entries()))
def test_the_file(tmp_path_factory: pytest.TempPathFactory, given: dict[str, UserEntry]) -> None:
    path = tmp_path_factory.getbasetemp() / "limits.json"
    write(path, given)
    assert read(path) == given
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in path.parent.glob(".limits*")] == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"ben": 7}', b'{"ben": {"usd": 1}}', b"\xff", b'{"b": {"limits": 1}}']
)
def test_a_file_that_is_not_one_of_ours(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "limits.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.reason == "limits_unreadable"


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    assert read(tmp_path / "limits.json") == {}
    with pytest.raises(ChoirError) as caught:
        user_limits.write(tmp_path / "none" / "limits.json", {})
    assert caught.value.reason == "limits_unwritable"
