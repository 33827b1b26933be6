from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir import ids, tokens
from choir.errors import TokenError

KEY = tokens.new_key()


def test_a_token_is_good_for_its_own_sandbox() -> None:
    sandbox_id = ids.new_id()
    token = tokens.sign(KEY, sandbox_id)
    tokens.verify(KEY, token, sandbox_id)
    assert tokens.looks_like_token(token)


def test_two_tokens_of_one_sandbox_differ() -> None:
    assert tokens.sign(KEY, "a") != tokens.sign(KEY, "a")


def reason(token: str, sandbox_id: str = "mine", key: bytes = KEY) -> str:
    with pytest.raises(TokenError) as caught:
        tokens.verify(key, token, sandbox_id)
    message = f"{caught.value.message} {caught.value.hint}"
    assert len(token) < 12 or token[9:] not in message
    return caught.value.reason


def test_another_sandbox_is_refused() -> None:
    assert reason(tokens.sign(KEY, "yours")) == "token_of_another_sandbox"


def test_another_key_is_refused() -> None:
    assert reason(tokens.sign(tokens.new_key(), "mine")) == "token_forged"


@pytest.mark.parametrize(
    "token", ["", "x", "sk-ant-123", "choir-gt-mine", "choir-gt-mine.a", "choir-gt-mine.a.b.c", "ä.b.c"]
)
def test_malformed(token: str) -> None:
    assert reason(token) == "token_malformed"


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    token = tokens.sign(KEY, "mine")
    at = data.draw(st.integers(0, len(token) - 2))  # the last character holds padding bits
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises(TokenError):
        tokens.verify(KEY, token[:at] + other + token[at + 1 :], "mine")


@given(st.text(max_size=200))
def test_nonsense_never_passes_or_crashes(text: str) -> None:
    with pytest.raises(TokenError):
        tokens.verify(KEY, text, "mine")


def test_no_known_provider_key_looks_like_a_token() -> None:
    for value in ("sk-ant-api03-x", "AIzaSyX", "eyJhbGciOi.eyJzdWIi.c2ln", "choir-gt-", "choir-gt-..", "choir-gt-a..b"):
        assert not tokens.looks_like_token(value)
