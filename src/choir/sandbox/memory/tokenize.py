"""Text to terms: Unicode words (NFKC, case-folded), identifiers and their parts, CJK in bigrams; Snowball stems."""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
import unicodedata
from array import array
from dataclasses import dataclass
from hashlib import blake2b

import snowballstemmer

MAX_WORD = 64
"""Characters of a word that count; what is longer is data."""

_CACHED_WORDS = 200_000

_FORM = "2"
"""How the index keeps them; another form is made anew."""

# Scripts written without spaces: Thai to Myanmar, Khmer, kana, Han, Hangul, and the supplementary Han planes.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+(?:['’][^\W{_UNSPACED}]+)*")
_ASCII_WORD = re.compile(r"\w+(?:'\w+)*", re.ASCII)
"""As ``_WORD`` for what is ASCII, and twice as quick."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\WA-Za-z0-9_]+")
_IDENTIFIER = re.compile(r"_|[a-z][A-Z]|[A-Z]{2}[a-z]|[A-Za-z][0-9]|[0-9][A-Za-z]")
_SUFFIXES = (*"seyil", "ed", "ing", "er", "or", "ic", "ion", "ism", "ant", "ent")
"""Of all words that the stemmer changes, which takes 25 us of any."""

_UNSPACED_WORD = re.compile(f"[{_UNSPACED}]")


@dataclass(frozen=True)
class StopWords:
    """``index`` are in no index; ``question`` are left out of a query that has other words."""

    index: frozenset[str]
    question: frozenset[str]


@functools.cache
def stop_words() -> StopWords:
    text = importlib.resources.files("choir").joinpath("data/stop_words.toml").read_text()
    return StopWords(**{name: frozenset(words.split()) for name, words in tomllib.loads(text).items()})


def key_of(term: str) -> int:
    """47 bits that stand for a term in the index (BLAKE2b)."""
    return int.from_bytes(blake2b(term.encode(), digest_size=6).digest()) >> 1


def fingerprint() -> int:
    """Changes when the same text may give other terms: what an index was made with. The stems of words at hand stand
    for the stemmer's version."""
    words = sorted(stop_words().index)
    stems = map(snowballstemmer.stemmer("english").stemWord, words)
    parts = (_FORM, unicodedata.unidata_version, _WORD.pattern, _PART.pattern, *words, *stems)
    return int.from_bytes(blake2b("\n".join(parts).encode(), digest_size=6).digest())


class Tokenizer:
    """Terms of texts. Keeps what it worked out for a word; not for use by several threads at once."""

    def __init__(self) -> None:
        self._stem = snowballstemmer.stemmer("english").stemWord
        self._stop = stop_words()
        # Nothing here that the garbage collector would walk through, again and again.
        self._keys: dict[str, int | bytes] = {}
        self._names: dict[int, str] = {}

    def terms(self, text: str) -> list[str]:
        """In order, repeats and all; without stop words."""
        return [term for _, found in self.words(text) for term, _ in found]

    def keys(self, text: str) -> list[int]:
        """As ``terms``, each as ``key_of`` gives it."""
        known = self._keys
        keys: list[int] = []
        for word in _split(text):
            found = known.get(word)
            if found is None:
                found = self._keys_of(word)
            if type(found) is int:
                keys.append(found)
            elif found:
                keys += array("q", found)  # type: ignore[arg-type]
        return keys

    def _keys_of(self, word: str) -> int | bytes:
        if len(self._keys) >= _CACHED_WORDS:
            self._keys.clear()
            self._names.clear()
        terms = self._terms_of(word)
        keys = [key_of(term) for term in terms]
        self._names.update(zip(keys, terms, strict=True))
        self._keys[word] = found = keys[0] if len(keys) == 1 else array("q", keys).tobytes()
        return found

    def words(self, text: str) -> list[tuple[str, tuple[tuple[str, int], ...]]]:
        """(word as written, its terms and their keys); a stop word has no terms."""
        return [(word, self._analyse(word)) for word in _split(text)]

    def is_question_word(self, word: str) -> bool:
        return word.casefold() in self._stop.question

    def _analyse(self, word: str) -> tuple[tuple[str, int], ...]:
        found = self._keys.get(word)
        if found is None:
            found = self._keys_of(word)
        keys = (found,) if type(found) is int else array("q", found)  # type: ignore[arg-type]
        return tuple((self._names[key], key) for key in keys)

    def name_of(self, key: int) -> str:
        """The term of a key that this tokenizer gave; "" when that was long ago."""
        return self._names.get(key, "")

    def _terms_of(self, word: str) -> list[str]:
        if _UNSPACED_WORD.match(word):
            return [word[at : at + 2] for at in range(len(word) - 1)] or [word]
        word = word[:MAX_WORD]
        if not _IDENTIFIER.search(word):
            return self._stemmed(word)
        parts = _PART.findall(word)
        whole = "".join(parts).casefold()
        terms = [term for part in parts for term in self._stemmed(part)]
        if len(parts) > 1 and whole:
            terms.append(whole)
        return terms

    def _stemmed(self, word: str) -> list[str]:
        word = word.casefold().replace("’", "'")
        if word in self._stop.index:
            return []
        base, _, rest = word.partition("'")
        if rest in ("s", "t", "d", "ll", "re", "ve", "m"):  # it's, don't, they'll
            word = base
            if word in self._stop.index:
                return []
        else:
            word = word.replace("'", "")
        return [self._stem(word) if word.endswith(_SUFFIXES) and len(word) > 2 else word]


def _split(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return _WORD.findall(unicodedata.normalize("NFKC", text))
