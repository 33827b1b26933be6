from __future__ import annotations

import unicodedata

import pytest
import snowballstemmer
from hypothesis import given
from hypothesis import strategies as st

from choir.sandbox.memory.tokenize import MAX_WORD, Tokenizer, key_of, stop_words


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


def test_the_stemmer_is_asked_for_what_it_changes() -> None:
    text = "cats hoped hoping controller operator electric adoption criticism irritant dependent cease happy skies skis"
    stem = snowballstemmer.stemmer("english").stemWord
    for word in text.split():
        assert Tokenizer().terms(word) == [stem(word)] != [word]


@given(st.text("abcdefghiklmnorstuvyzé", min_size=1, max_size=12))
def test_the_stemmer_leaves_the_others_as_they_are(word: str) -> None:
    if word not in stop_words().index:
        assert Tokenizer().terms(word) == [snowballstemmer.stemmer("english").stemWord(word)]


@given(st.text(st.characters(max_codepoint=127)))
def test_what_is_ascii_is_split_as_all_is(text: str) -> None:
    tokenizer = Tokenizer()
    words = [word for word, _ in tokenizer.words(text)]
    assert words == [word for word, _ in tokenizer.words(text + " é")][:-1]


def test_question_words() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.is_question_word("Happened")
    assert not tokenizer.is_question_word("Caroline")
