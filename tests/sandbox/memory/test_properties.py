"""However the index came about, it says the same: filled bit by bit, reopened, merged, thinned out, made anew."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from choir.sandbox.memory import index
from choir.sandbox.memory.model import Draft
from choir.sandbox.memory.store import MemoryStore

pytestmark = pytest.mark.usefixtures("small_pages")
lenient = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)

WORDS = ("zebra", "lion", "house", "red", "running", "foo_bar", "東京", "the", "may", "go")
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
drafts = st.builds(
    Draft,
    st.sampled_from(("user_inputs", "doc_trajectories")),
    texts,
    st.sampled_from(("", "a", "b")),
    st.sampled_from((None, "t", "u")),
    st.integers(0, 5).map(lambda day: 1e9 + 86400.0 * day),
)
batches = st.lists(st.lists(drafts, min_size=1, max_size=9), max_size=14)
QUERIES = ("zebra lion", "red house running", "foo_bar in September 2001", "東京", "")


def ask(store: MemoryStore) -> list[object]:
    """Everything a caller can see but for ids, which are new each time."""
    seen: list[object] = []
    for query in QUERIES:
        for found in (*store.search("user_inputs", query, 20, 2e9), *store.snapshot(query, 20, 2e9)):
            seen.append((found.item.content, found.item.created_at, found.relevance))
            expanded = store.expand([found.item.item_id], 2)[0]
            seen.append(
                [
                    (one.source_ref, one.thread, [each.content for each in (*one.before, *one.after)])
                    for one in expanded.occurrences
                ]
            )
    return seen


@contextlib.contextmanager
def new() -> object:  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(MemoryStore(f"{folder}/m.db")) as store:
        yield store


@lenient
@given(batches, st.data())
def test_rebuilt_reopened_and_merged_are_the_same(groups: list[list[Draft]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/m.db"
        store = MemoryStore(path)
        for group in groups:
            store.ingest(group)
            if data.draw(st.booleans(), label="reopen"):
                store.close()
                store = MemoryStore(path)
        before = store.dump(), ask(store)
        assert store.check() == ""
        while store.maintain():
            pass
        assert (store.dump(), ask(store)) == before
        store.close()
        store = MemoryStore(path)
        assert (store.dump(), ask(store)) == before
        store.rebuild()
        assert (store.dump(), ask(store)) == before
        assert store.check() == ""
        store.close()


@lenient
@given(batches)
def test_one_by_one_and_at_once_are_the_same(groups: list[list[Draft]]) -> None:
    everything = [each for group in groups for each in group]
    with new() as one, new() as other:  # type: ignore[attr-defined]
        for each in everything:
            one.ingest([each])
        if everything:
            other.ingest(everything)
        assert one.dump() == other.dump()
        assert ask(one) == ask(other)


@lenient
@given(batches, st.data())
def test_forgetting_leaves_what_was_never_there(groups: list[list[Draft]], data: st.DataObject) -> None:
    with new() as store:  # type: ignore[attr-defined]
        everything = [each for group in groups for each in group]
        ids = [each.item_id for group in groups for each in store.ingest(group)]
        for _ in range(data.draw(st.integers(0, 20), label="merge steps")):
            store.maintain()
        how = data.draw(st.sampled_from(("items", "source", "before")), label="how")
        left: list[Draft]
        if how == "items":
            gone = data.draw(st.sets(st.sampled_from(ids)) if ids else st.just(set()), label="items")
            store.forget(item_ids=sorted(gone))
            left = [each for each, item in zip(everything, ids, strict=True) if item not in gone]
        elif how == "source":
            store.forget(source_ref="a")
            left = [each for each in everything if each.source_ref != "a"]
        else:
            store.forget(before=1e9 + 86400.0 * 3)
            left = [each for each in everything if (each.created_at or 0) >= 1e9 + 86400.0 * 3]
        assert store.check() == ""
        known = ask(store)
        words = {key for key, _ in store.dump()}
        store.rebuild()
        assert ask(store) == known
        with new() as fresh:  # type: ignore[attr-defined]
            if left:
                fresh.ingest(left)
            assert {key for key, _ in fresh.dump()} == words
            assert sorted(map(repr, ask_unordered(fresh))) == sorted(map(repr, ask_unordered(store)))


def ask_unordered(store: MemoryStore) -> list[object]:
    """Occurrences and their neighbours; which of an item's occurrences is its first may differ after forgetting."""
    seen: list[object] = []
    for line in store.export():
        for one in store.expand([line["item_id"]], 2)[0].occurrences:
            around = ([each.content for each in one.before], [each.content for each in one.after])
            seen.append((line["content"], line["collection"], one.source_ref, one.thread, one.created_at, around))
    return seen


@lenient
@given(st.lists(drafts, max_size=60))
def test_dedupe(given_: list[Draft]) -> None:
    with new() as store:  # type: ignore[attr-defined]
        results = [store.ingest([each])[0] for each in given_]
        known: dict[tuple[str, str], str] = {}
        for each, result in zip(given_, results, strict=True):
            key = (each.collection, each.content)
            assert result.duplicate == (key in known)
            assert known.setdefault(key, result.item_id) == result.item_id
        stats = store.stats()
        assert sum(stats.items.values()) == len(known)
        assert stats.repeats == len(given_) - len(known)


@lenient
@given(st.lists(drafts, max_size=60), st.integers(0, 400))
def test_a_pack_is_within_its_budget_and_always_the_same(given_: list[Draft], budget: int) -> None:
    with new() as store:  # type: ignore[attr-defined]
        if given_:
            store.ingest(given_)
        pack = store.context_pack("zebra lion house", budget, 2e9)
        assert pack.tokens <= budget
        assert store.context_pack("zebra lion house", budget, 2e9) == pack


@lenient
@given(st.lists(drafts, min_size=1, max_size=60))
def test_order(given_: list[Draft]) -> None:
    with new() as store:  # type: ignore[attr-defined]
        store.ingest(given_)
        for k in (1, 3, 60):
            found = store.search("user_inputs", "zebra house", k, 2e9)
            assert found == store.search("user_inputs", "zebra house", 60, 2e9)[:k]
            for left, right in pairwise(found):
                assert (left.relevance, left.item.created_at) >= (right.relevance, right.item.created_at)


def test_the_small_pages_are_in_force() -> None:
    """Or the tests above would see tails only."""
    with new() as store:  # type: ignore[attr-defined]
        store.ingest([Draft("user_inputs", f"zebra {n}") for n in range(50)])
        states: Callable[[], list[str]] = lambda: [page.state for page in store._file.index.pages.values()]  # noqa: E731
        assert "merging" in states()
        assert index.CAPACITY == 16
        while store.maintain():
            pass
        assert states() == ["merged"] * 3 + ["open"]
