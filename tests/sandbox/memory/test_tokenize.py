from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.tokenize import MAX_WORD, Tokenizer, key_of


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The cats were running", ["cat", "run"]),
        ("Don't stop; it's Caroline's", ["stop", "carolin"]),
        ("don’t CAROLINE’S", ["carolin"]),
        ("O'Brien", ["obrien"]),
        ("snake_case", ["snake", "case", "snakecase"]),
        ("getUserName", ["get", "user", "name", "getusername"]),
        ("HTTPServer", ["http", "server", "httpserver"]),
        ("src/foo_bar.py", ["src", "foo", "bar", "foobar", "py"]),
        ("utf8", ["utf", "8", "utf8"]),
        ("__init__", ["init"]),
        ("東京都", ["東京", "京都"]),
        ("東", ["東"]),
        ("ｆｕｌｌｗｉｄｔｈ", ["fullwidth"]),
        ("Straße", ["strass"]),
        ("ÉCOLE", ["école"]),
        ("2023-05-08 v1.2", ["2023", "05", "08", "v", "1", "v1", "2"]),
        ('🎉 … () *^ "', []),
        ("", []),
        ("to be or not to be", []),
        ("x" * 5000, ["x" * MAX_WORD]),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    tokenizer = Tokenizer()
    assert tokenizer.terms(text) == terms
    assert tokenizer.keys(text) == [key_of(term) for term in terms]


@given(st.text())
def test_any_text_and_always_the_same(text: str) -> None:
    tokenizer = Tokenizer()
    terms = tokenizer.terms(text)
    assert Tokenizer().terms(text) == terms == tokenizer.terms(text)
    assert tokenizer.terms(unicodedata.normalize("NFKC", text)) == terms
    assert all(0 <= key < 1 << 47 for key in tokenizer.keys(text))


def test_question_words() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.is_question_word("Happened")
    assert not tokenizer.is_question_word("Caroline")
