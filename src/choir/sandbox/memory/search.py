"""One search: a text to the best documents of a collection. Reads the index; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory import dates, feedback, ranking
from choir.sandbox.memory.candidates import candidates
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
        weighted: dict[int, Weighted] = {}
        ideal = 0.0
        for key, count in Counter(sequence).items():
            if len(names) > MAX_TERMS * 8 and len(weighted) >= MAX_TERMS * 8:
                break
            postings = self._index.lookup.postings(key)
            weighted[key] = Weighted(names[key], postings, ranking.idf(total, len(postings)) * count)
        if len(weighted) > MAX_TERMS:
            kept = sorted(weighted, key=lambda key: (-weighted[key].weight, key))[:MAX_TERMS]
            weighted = {key: weighted[key] for key in weighted if key in set(kept)}
        ideal = sum(each.weight for each in weighted.values())
        present = [key for key, each in weighted.items() if len(each.postings)]
        at = {key: number for number, key in enumerate(present)}
        terms = tuple(weighted[key] for key in present)
        pairs = dict.fromkeys(
            (at[left], at[right]) for left, right in pairwise(sequence) if left in at and right in at and left != right
        )
        ideal += sum(ranking.pair_weight(terms, *pair) for pair in pairs)
        return Query(
            terms,
            tuple(pairs),
            tuple(dates.spans(text, *documents.span, now)) if documents.span else (),
            ideal,
            tuple(each.term for key, each in weighted.items() if key not in at),
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
        if len(self._board) < len(documents.length):
            self._board = np.zeros(len(documents.length), np.float32)
        try:
            found = candidates(query.terms, documents, table, collection, CANDIDATES, self._board)
        except BaseException:
            self._board = np.zeros(0, np.float32)
            raise
        window = ranking.window(documents, found)
        own = ranking.shares(window.docs, query.terms, query.pairs, collection, documents, table)
        sums = ranking.spread(window, own).sum(axis=0)
        terms = query.terms + self._feedback(query, *_best_of(window, sums))
        if only is None:
            best = self._finish(query, window, sums)
            finalists = np.sort(np.array([doc for doc, _ in self.order(best, FINALISTS)], np.int32))
        else:
            finalists = np.array([only], np.int32)
        if only is None and not documents.repeats:
            window, own = window.part(finalists, own)
        else:
            window = ranking.window(documents, finalists, spread=False)
            own = ranking.shares(window.docs, query.terms, query.pairs, collection, documents, table)
        more = ranking.shares(window.docs, terms[len(query.terms) :], (), collection, documents, table)
        return Scored(query, terms, window, np.concatenate((own, more)), table)

    def _feedback(self, query: Query, docs: Ints, scores: Floats) -> tuple[Weighted, ...]:
        """The words of the items that are best so far."""
        documents = self._index.documents
        order = np.lexsort((-docs, -documents.created[docs], -scores))[: feedback.ITEMS]
        if not len(order):
            return ()
        contents = self._contents(docs[order].tolist())
        best = [
            (score, keys)
            for score, keys in zip(scores[order].tolist(), map(self._tokenizer.keys, contents), strict=True)
            if keys
        ]
        total = sum(each.documents for each in documents.totals.values())

        def rarity(keys: feedback.Keys) -> npt.NDArray[np.float64]:
            having = self._index.lookup.having(keys)
            return np.where(having <= FEEDBACK_POSTINGS, np.log1p((total - having + 0.5) / (having + 0.5)), 0)

        known = [key_of(each.term) for each in query.terms]
        chosen = feedback.expansion(best, known, rarity, sum(each.weight for each in query.terms))
        return tuple(
            Weighted(self._tokenizer.name_of(key), self._index.lookup.postings(key), weight, "feedback")
            for key, weight in chosen
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
        docs, scores = ranked.docs, ranked.scores
        created = self._index.documents.created[docs]
        order = np.lexsort((-docs, -created, -scores))[:wanted]
        return [(int(docs[each]), float(scores[each])) for each in order]


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
