from __future__ import annotations

import hashlib
import sqlite3
import stat
from pathlib import Path

import pytest

from choir.sandbox.memory.model import COLLECTIONS, MAX_CONTENT, Draft, MemoryStoreError
from choir.sandbox.memory.store import MemoryStore


def draft(content: str, thread: str | None = None, **more: object) -> Draft:
    return Draft("user_inputs", content, thread=thread, **more)  # type: ignore[arg-type]


def contents(store: MemoryStore, query: str, k: int = 10) -> list[str]:
    return [each.item.content for each in store.search("user_inputs", query, k)]


def test_an_ingested_item_is_found_by_the_next_search(store: MemoryStore) -> None:
    for number in range(50):
        ingested = store.ingest([draft(f"the word{number}x is here", created_at=float(number))])[0]
        found = store.search("user_inputs", f"word{number}x", 1)[0]
        assert found.item.item_id == ingested.item_id
        assert not ingested.duplicate


def test_items_as_they_were_given(store: MemoryStore) -> None:
    text = "größe 🎉\0 end\n"
    store.ingest([Draft("doc_trajectories", text, "file:a.md#3", "a.md", 1234.5678)])
    item = store.search("doc_trajectories", "größe", 1)[0].item
    assert (item.content, item.source_ref, item.thread, item.created_at) == (text, "file:a.md#3", "a.md", 1234.568)
    assert item.chunk_hash == hashlib.sha256(text.encode()).hexdigest()


def test_a_repeat_is_an_occurrence(store: MemoryStore) -> None:
    first, *_, again = store.ingest(
        [
            draft("deploy finished", "one", source_ref="a", created_at=1.0),
            draft("before it", "two"),
            draft("deploy finished", "two", source_ref="b", created_at=2.0),
        ]
    )
    assert again.item_id == first.item_id
    assert again.duplicate
    store.ingest([draft("after it", "two")])
    assert contents(store, "deploy finished").count("deploy finished") == 1
    expanded = store.expand([first.item_id], 5)[0]
    assert [(each.source_ref, each.thread, each.created_at) for each in expanded.occurrences] == [
        ("a", "one", 1.0),
        ("b", "two", 2.0),
    ]
    assert [each.content for each in expanded.occurrences[1].before] == ["before it"]
    assert [each.content for each in expanded.occurrences[1].after] == ["after it"]
    assert expanded.occurrences[0].before == expanded.occurrences[0].after == ()


def test_the_same_content_in_two_collections_is_two_items_and_one_line_of_a_snapshot(store: MemoryStore) -> None:
    one, two = store.ingest([Draft("user_inputs", "alpha beta"), Draft("version_snapshots", "alpha beta")])
    assert not two.duplicate
    assert one.item_id != two.item_id
    assert len(store.snapshot("alpha", 5)) == 1


def test_expand_walks_the_thread_in_order(store: MemoryStore) -> None:
    # Interleaved, as two conversations are.
    ids = store.ingest([draft(f"{thread}{n}", thread) for n in range(6) for thread in "ab"])
    expanded = store.expand([ids[6].item_id], 2)[0]
    assert [each.content for each in expanded.occurrences[0].before] == ["a1", "a2"]
    assert [each.content for each in expanded.occurrences[0].after] == ["a4", "a5"]


def test_an_answer_is_found_by_its_question(store: MemoryStore) -> None:
    store.ingest([draft(f"filler number {n} about nothing") for n in range(30)])
    store.ingest([draft("Which hotel did you book in Lisbon?", "t"), draft("The one with a green door.", "t")])
    store.ingest([draft("The one with a red door.")])  # no thread: nobody's neighbour
    found = contents(store, "hotel booked in Lisbon")
    assert "The one with a green door." in found
    assert "The one with a red door." not in found


def test_snapshot_is_one_ranking_over_all_collections(store: MemoryStore) -> None:
    for collection in COLLECTIONS:
        store.ingest([Draft(collection, f"{collection} speaks of zebras {n} times") for n in range(3)])
    store.ingest([Draft("run_trajectories", "zebra crossing painted, zebra happy")])
    found = store.snapshot("zebra crossing", 8)
    assert found[0].item.content.startswith("zebra crossing")
    assert [each.relevance for each in found] == sorted((each.relevance for each in found), reverse=True)
    assert all(0 <= each.relevance < 1 for each in found)
    for collection in COLLECTIONS:
        alone = {each.item.item_id: each.relevance for each in store.search(collection, "zebra crossing", 10)}
        assert all(alone[each.item.item_id] == each.relevance for each in found if each.item.collection == collection)


def test_no_quota(store: MemoryStore) -> None:
    store.ingest([Draft("doc_trajectories", f"zebra crossing {n}") for n in range(9)])
    store.ingest(
        [Draft("user_inputs", "a very long text that has one zebra and a lot of other words in it, really many")]
    )
    assert {each.item.collection for each in store.snapshot("zebra crossing", 5)} == {"doc_trajectories"}


def test_ties_go_to_the_newest(store: MemoryStore) -> None:
    store.ingest([draft(f"zebra {letter * 3}", created_at=at) for letter, at in (("a", 5.0), ("b", 9.0), ("c", 7.0))])
    assert contents(store, "zebra") == ["zebra bbb", "zebra ccc", "zebra aaa"]


def test_dates_in_the_question(store: MemoryStore) -> None:
    store.ingest([draft(f"met Ann for lunch, {n}", created_at=1_672_531_200 + n * 86400.0 * 30) for n in range(12)])
    found = store.search("user_inputs", "lunch with Ann on 31 January 2023", 1)[0]
    assert found.item.content == "met Ann for lunch, 1"
    now = 1_672_531_200 + 86400 * 151.0
    assert store.search("user_inputs", "lunch with Ann yesterday", 1, now)[0].item.content == "met Ann for lunch, 5"


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "🎉",
        '"unbalanced AND (OR NOT NEAR/3 *:^',
        "col:umn -minus +plus ~3 'a' ; DROP TABLE memory_items; --",
        "\x00\ud800",
        "the of and",
        "a" * 100_000,
        " ".join(f"word{n}" for n in range(10_000)),
        "zebra " * 10_000,
        "東京 Ω ñ ﷺ",
        "%s %d {} [x](y)",
    ],
)
def test_any_query_is_safe(store: MemoryStore, query: str) -> None:
    store.ingest([draft("zebra crossing"), draft("word17 and word18")])
    for found in (store.search("user_inputs", query, 10), store.snapshot(query, 10)):
        assert all(0 <= each.relevance < 1 for each in found)
    assert store.context_pack(query, 100).tokens <= 100
    if "zebra" in query:
        assert contents(store, query) == ["zebra crossing"]
    if "word1" in query:
        assert contents(store, query) == ["word17 and word18"]


def test_a_question_of_question_words_only_still_asks(store: MemoryStore) -> None:
    store.ingest([draft("it happened long ago"), draft("zebra")])
    assert contents(store, "what happened") == ["it happened long ago"]


def test_explain_adds_up(store: MemoryStore) -> None:
    ids = store.ingest(
        [
            draft("Where is the red house?", "t", created_at=1e9),
            draft("Near the old harbour.", "t", created_at=1e9),
            *(draft(f"filler {n} text", created_at=1e9) for n in range(20)),
        ]
    )
    query = "red house harbour in September 2001 unicorn"
    for each in store.search("user_inputs", query, 5):
        explained = store.explain(each.item.item_id, query)
        total = sum(share.share for share in explained.shares)
        for factor in explained.factors.values():
            total *= factor
        assert explained.relevance == pytest.approx(each.relevance, abs=1e-6)
        assert explained.relevance == pytest.approx(1 - 4 ** -(total / explained.ideal), abs=1e-6)
        assert explained.missing == ("septemb", "2001", "unicorn")
    second = store.explain(ids[1].item_id, query)
    assert {(share.term, share.via) for share in second.shares if share.origin == "query"} == {
        ("harbour", None),
        ("red", ids[0].item_id),
        ("hous", ids[0].item_id),
    }
    assert second.factors["date"] > 1
    assert store.explain(ids[5].item_id, "unicorn").relevance == 0


def test_context_pack_skips_what_does_not_fit(store: MemoryStore) -> None:
    store.ingest([draft("zebra zebra " + "long story " * 200), draft("zebra short"), draft("a zebra too")])
    pack = store.context_pack("zebra", 60)
    assert {each.content for each in pack.items} == {"zebra short", "a zebra too"}
    assert pack.tokens <= 60
    assert all(each.content in pack.text for each in pack.items)
    assert store.context_pack("zebra", 60) == pack
    assert store.context_pack("zebra", 0).text == ""


class TestForget:
    def test_items(self, store: MemoryStore, path: str) -> None:
        ids = store.ingest([draft(f"{n} zebra", "t") for n in ("secretone", "secrettwo", "secretthree")])
        assert store.forget(item_ids=[ids[1].item_id]) == 1
        assert "secrettwo zebra" not in contents(store, "zebra")
        assert contents(store, "secrettwo") == []
        for file in Path(path).parent.iterdir():
            assert b"secrettwo" not in file.read_bytes()
        store.ingest([draft("secretfour " * 3000, source_ref="long")])
        store.forget(source_ref="long")
        assert b"secretfour" not in Path(path).read_bytes()
        before = store.expand([ids[2].item_id], 1)[0].occurrences[0].before
        assert [each.content for each in before] == ["secretone zebra"]  # neighbours now
        with pytest.raises(MemoryStoreError) as unknown:
            store.expand([ids[1].item_id], 1)
        assert unknown.value.reason == "unknown_item"

    def test_a_source(self, store: MemoryStore) -> None:
        store.ingest([draft("zebra", "t", source_ref="x"), draft("zebra", "u", source_ref="y", created_at=7.0)])
        store.ingest([draft("lion", "u", source_ref="x")])
        assert store.forget(source_ref="x") == 1  # the lion; the zebra is known from y too
        found = store.search("user_inputs", "zebra lion", 5)
        assert [(each.item.content, each.item.source_ref, each.item.thread) for each in found] == [("zebra", "y", "u")]
        assert found[0].item.created_at == 7.0
        assert store.ingest([draft("next", "u")])[0]
        occurrences = store.expand([found[0].item.item_id], 3)[0].occurrences
        assert [[each.content for each in one.after] for one in occurrences] == [["next"]]
        assert store.forget(source_ref="nowhere") == 0

    def test_before(self, store: MemoryStore) -> None:
        store.ingest([draft(f"zebra {n}", created_at=float(n)) for n in range(10)])
        assert store.forget(before=4.0) == 4
        assert sorted(contents(store, "zebra")) == [f"zebra {n}" for n in range(4, 10)]
        assert store.forget(before=2e11) == 6
        assert store.stats().items["user_inputs"] == 0
        store.ingest([draft("zebra 3")])
        assert contents(store, "zebra") == ["zebra 3"]

    def test_all_or_nothing(self, store: MemoryStore) -> None:
        ids = store.ingest([draft("zebra")])
        with pytest.raises(MemoryStoreError):
            store.forget(item_ids=[ids[0].item_id, "no-such-item"])
        assert contents(store, "zebra") == ["zebra"]

    @pytest.mark.parametrize("request_", [{}, {"source_ref": "x", "before": 1.0}])
    def test_one_of_three(self, store: MemoryStore, request_: dict[str, object]) -> None:
        with pytest.raises(MemoryStoreError) as refused:
            store.forget(**request_)  # type: ignore[arg-type]
        assert refused.value.reason == "bad_request"


class TestRefusals:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (Draft("nonsense", "x"), "unknown_collection"),
            (Draft("user_inputs", "x" * (MAX_CONTENT + 1)), "content_too_long"),
            (Draft("user_inputs", "\ud800"), "content_not_text"),
            (Draft("user_inputs", "x", created_at=float("nan")), "bad_time"),
            (Draft("user_inputs", "x", created_at=1e300), "bad_time"),
        ],
    )
    def test_ingest(self, store: MemoryStore, bad: Draft, reason: str) -> None:
        with pytest.raises(MemoryStoreError) as refused:
            store.ingest([draft("zebra"), bad])
        assert refused.value.reason == reason
        assert contents(store, "zebra") == []  # all or none

    def test_search(self, store: MemoryStore) -> None:
        for call in (lambda: store.search("nonsense", "x", 1), lambda: store.search("user_inputs", "x", -1)):
            with pytest.raises(MemoryStoreError):
                call()
        with pytest.raises(MemoryStoreError):
            store.explain("no-such-item", "x")

    def test_a_failed_write_leaves_memory_and_file_alike(self, store: MemoryStore, path: str) -> None:
        store.ingest([draft("zebra", "t")])
        other = sqlite3.connect(path)
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON memory_items WHEN new.content = 'bad'"
            " BEGIN SELECT raise(ABORT, 'no'); END"
        )
        other.commit()
        with pytest.raises(MemoryStoreError):
            store.ingest([draft("lion", "t"), draft("bad", "t")])
        other.execute("DROP TRIGGER no")
        other.commit()
        other.close()
        assert contents(store, "lion") == []
        ids = store.ingest([draft("bad", "t")])
        before = store.expand([ids[0].item_id], 3)[0].occurrences[0].before
        assert [each.content for each in before] == ["zebra"]


class TestFile:
    def test_is_private(self, store: MemoryStore, path: str) -> None:
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600

    def test_newer(self, store: MemoryStore, path: str) -> None:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE memory_meta SET value = 99 WHERE name = 'version'")
        db.close()
        with pytest.raises(MemoryStoreError) as newer:
            MemoryStore(path)
        assert newer.value.reason == "store_too_new"

    def test_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "bad.db").write_bytes(b"no database " * 500)
        with pytest.raises(MemoryStoreError) as bad:
            MemoryStore(str(tmp_path / "bad.db"))
        assert bad.value.reason == "store_corrupt"

    def test_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(MemoryStoreError) as bad:
            MemoryStore(str(tmp_path / "file" / "m.db"))
        assert bad.value.reason == "store_unusable"


def test_export_can_be_ingested_again(store: MemoryStore, tmp_path: Path) -> None:
    store.ingest([draft("zebra", "t", source_ref="x"), draft("lion", "t"), draft("zebra", "u", source_ref="y")])
    lines = list(store.export())
    assert [(each["content"], each["source_ref"]) for each in lines] == [("zebra", "x"), ("lion", ""), ("zebra", "y")]
    other = MemoryStore(str(tmp_path / "other.db"))
    names = ("collection", "content", "source_ref", "thread", "created_at")
    other.ingest([Draft(**{name: line[name] for name in names}) for line in lines])
    assert other.dump() == store.dump()
    other.close()


def test_what_can_wait_fails_no_ingest(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> bool:
        raise MemoryStoreError("no_space", "No space left.")

    monkeypatch.setattr(store._file, "step", full)
    assert len(store.ingest([draft(f"zebra {n}") for n in range(40)])) == 40


@pytest.mark.parametrize("at", [1e308, 1e30, -1e30, float("nan"), float("inf")])
def test_an_impossible_time_is_refused(store: MemoryStore, at: float) -> None:
    made = store.ingest([draft("zebra")])[0]
    for call in (
        lambda: store.forget(before=at),
        lambda: store.search("user_inputs", "zebra yesterday", 1, at),
        lambda: store.explain(made.item_id, "zebra yesterday", at),
    ):
        with pytest.raises(MemoryStoreError) as refused:
            call()
        assert refused.value.reason == "bad_time"
