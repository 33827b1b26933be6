"""One search: a text to the best documents of a collection. Reads the index; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory import dates, feedback, ranking
from choir.sandbox.memory.candidates import best, candidates
from choir.sandbox.memory.documents import Ints, distinct
from choir.sandbox.memory.index import Index
from choir.sandbox.memory.ranking import Floats, Weighted, Window
from choir.sandbox.memory.tokenize import Tokenizer, key_of

MAX_TERMS = 64
"""Different terms of a query that count, the rarest first."""

CANDIDATES = 96
"""Documents whose neighbourhood is looked at."""

FEEDBACK_POSTINGS = 2_000
"""Documents that a word from feedback may have: what bounds their cost."""

FINALISTS = 100
"""Documents that are scored with the words from feedback too."""


@dataclass(frozen=True, slots=True)
class Query:
    """``pairs`` are indices into ``terms``; ``ideal`` is the score that relevance is measured by."""

    terms: tuple[Weighted, ...]
    pairs: tuple[tuple[int, int], ...]
    spans: tuple[dates.Span, ...]
    ideal: float
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ascending document numbers and what each got."""

    docs: Ints
    scores: Floats


@dataclass(frozen=True, slots=True)
class Scored:
    """All that is known about some documents' scores; for explaining."""

    query: Query
    terms: tuple[Weighted, ...]
    window: Window
    own: Floats
    table: Floats


class Searcher:
    """
    Args:
        contents: the content of documents, in the order asked for.
    """

    def __init__(self, index: Index, tokenizer: Tokenizer, contents: Callable[[Sequence[int]], list[str]]) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._contents = contents
        self._board = np.zeros(0, np.float32)

    def query(self, text: str, now: int) -> Query:
        """``now``: Unix milliseconds, for "yesterday"."""
        documents = self._index.documents
        total = sum(each.documents for each in documents.totals.values())
        words = [(word, term, key) for word, found in self._tokenizer.words(text) for term, key in found]
        words = [each for each in words if not self._tokenizer.is_question_word(each[0])] or words
        sequence = [key for _, _, key in words]
        names = {key: term for _, term, key in words}
        counts = Counter(sequence)
        keys = list(counts)[: MAX_TERMS * 8]
        if len(keys) > MAX_TERMS:
            having = self._index.lookup.having(np.array(keys, np.int64)).tolist()
            weight = {key: ranking.idf(total, own) * counts[key] for key, own in zip(keys, having, strict=True)}
            kept = set(sorted(keys, key=lambda key: (-weight[key], key))[:MAX_TERMS])
            keys = [key for key in keys if key in kept]
        weighted = [
            Weighted(names[key], postings, ranking.idf(total, len(postings)) * counts[key])
            for key, postings in zip(keys, self._index.lookup.postings(keys), strict=True)
        ]
        ideal = sum(each.weight for each in weighted)
        terms = tuple(each for each in weighted if len(each.postings))
        present = [key for key, each in zip(keys, weighted, strict=True) if len(each.postings)]
        at = {key: number for number, key in enumerate(present)}
        pairs = dict.fromkeys(
            (at[left], at[right]) for left, right in pairwise(sequence) if left in at and right in at and left != right
        )
        ideal += sum(ranking.pair_weight(terms, *pair) for pair in pairs)
        return Query(
            terms,
            tuple(pairs),
            tuple(dates.spans(text, *documents.span, now)) if documents.span else (),
            ideal,
            tuple(names[key] for key in keys if key not in at),
        )

    def rank(self, query: Query, collection: int) -> Ranked:
        scored = self._score(query, collection, None)
        return self._finish(query, scored.window, ranking.spread(scored.window, scored.own).sum(axis=0))

    def rank_and_score(self, query: Query, collection: int, doc: int) -> tuple[Ranked, Scored]:
        """As ``rank`` does it, of one document, with what it was made of."""
        scored = self._score(query, collection, doc)
        return self._finish(query, scored.window, ranking.spread(scored.window, scored.own).sum(axis=0)), scored

    def _score(self, query: Query, collection: int, only: int | None) -> Scored:
        documents = self._index.documents
        totals = documents.totals.get(collection)
        table = ranking.lengths_table(documents, totals.mean if totals else 1.0)
        board, self._board = self._board, np.zeros(0, np.float32)  # comes back when it is sure to be zeros again
        if len(board) < len(documents.length):
            board = np.zeros(len(documents.length), np.float32)
        found = candidates(query.terms, documents, table, collection, CANDIDATES, board)
        window = ranking.window(documents, found)
        own = ranking.shares(window.docs, query.terms, query.pairs, collection, documents, table, board)
        sums = ranking.spread(window, own).sum(axis=0)
        terms = query.terms + self._feedback(query, *_best_of(window, sums))
        if only is None:
            ranked = self._finish(query, window, sums)
            finalists = np.sort(ranked.docs[best(documents, ranked.docs, ranked.scores, FINALISTS)])
        else:
            finalists = np.array([only], np.int32)
        if only is None and not documents.repeats:
            window, own = window.part(finalists, own)
        else:
            window = ranking.window(documents, finalists, spread=False)
            own = ranking.shares(window.docs, query.terms, query.pairs, collection, documents, table, board)
        more = ranking.shares(window.docs, terms[len(query.terms) :], (), collection, documents, table, board)
        self._board = board
        return Scored(query, terms, window, np.concatenate((own, more)), table)

    def _feedback(self, query: Query, docs: Ints, scores: Floats) -> tuple[Weighted, ...]:
        """The words of the items that are best so far."""
        documents = self._index.documents
        order = best(documents, docs, scores, feedback.ITEMS)
        if not len(order):
            return ()
        contents = self._contents(docs[order].tolist())
        liked = [
            (score, keys)
            for score, keys in zip(scores[order].tolist(), map(self._tokenizer.keys, contents), strict=True)
            if keys
        ]
        total = sum(each.documents for each in documents.totals.values())

        def rarity(keys: feedback.Keys) -> npt.NDArray[np.float64]:
            having = self._index.lookup.having(keys)
            return np.where(having <= FEEDBACK_POSTINGS, np.log1p((total - having + 0.5) / (having + 0.5)), 0)

        known = [key_of(each.term) for each in query.terms]
        chosen = feedback.expansion(liked, known, rarity, sum(each.weight for each in query.terms))
        postings = self._index.lookup.postings([key for key, _ in chosen])
        return tuple(
            Weighted(self._tokenizer.name_of(key), each, weight, "feedback")
            for (key, weight), each in zip(chosen, postings, strict=True)
        )

    def _finish(self, query: Query, window: Window, sums: Floats) -> Ranked:
        documents = self._index.documents
        docs, scores = _best_of(window, sums)
        for factor in ranking.factors(documents, docs, query.spans).values():
            scores = scores * factor
        some = scores > 0
        return Ranked(docs[some], scores[some])

    def order(self, ranked: Ranked, wanted: int) -> list[tuple[int, float]]:
        """(document, score), best first; ties go to the newest."""
        order = best(self._index.documents, ranked.docs, ranked.scores, wanted)
        return list(zip(ranked.docs[order].tolist(), ranked.scores[order].tolist(), strict=True))


def _best_of(window: Window, sums: Floats) -> tuple[Ints, Floats]:
    """Each document once, with the best of its occurrences."""
    targets = window.targets()
    real = targets >= 0
    if real.all() and len(window.docs) and len(targets) == len(distinct(targets.astype(np.int32))):
        return window.docs[targets], sums
    best = np.full(len(window.docs), -1, np.float32)
    np.maximum.at(best, targets[real], sums[real])
    scored = best >= 0
    return window.docs[scored], best[scored]
