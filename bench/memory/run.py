"""How well the memory finds, how fast, and how big it is.

    python bench/memory/run.py quality DATA...             recall@10 and nDCG@10 of each set, beside BM25
    python bench/memory/run.py speed DATA... [--items 10000,100000] [--tantivy FOLDER] [--json FILE] [--plot FILE.svg]
    python bench/memory/run.py all DATA... [the same]      both; a million items take about ten minutes

DATA is a folder with ``corpus.jsonl`` {id, group, seq, text, speaker, date, session}, ``queries.jsonl`` {id, group,
text, category} and ``qrels.tsv`` (query, document, grade); a query is searched inside its own group. No data comes with
Choir. ``speed`` makes its items of the sets' words, and asks the sets' questions. FOLDER is where ``uv pip install
--target FOLDER tantivy`` put tantivy; the same items and questions go through it in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import math
import operator
import os
import random
import statistics
import sys
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from plot import svg

from choir.sandbox.memory.model import Draft
from choir.sandbox.memory.store import MemoryStore
from choir.sandbox.memory.tokenize import Tokenizer

K = 10
QUESTIONS = 400
"""The first so many after opening, and then so many others: none is asked twice."""
CHOSEN_ON = ("conv-26", "conv-30", "conv-41", "conv-42", "conv-43")
"""The LoCoMo conversations on which the ranking's constants were chosen; the others are the report."""


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return [json.loads(line) for line in file]


class DataSet:
    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in rows(folder / "corpus.jsonl"):
            self.groups[row["group"]].append(row)
        for group in self.groups.values():
            group.sort(key=lambda row: row["seq"])
        self.queries = rows(folder / "queries.jsonl")
        self.relevant: dict[str, dict[str, float]] = defaultdict(dict)
        for line in (folder / "qrels.tsv").read_text().splitlines():
            query, document, grade = line.split("\t")
            self.relevant[query][document] = float(grade)


def draft(row: dict[str, Any]) -> Draft:
    date = row.get("date")
    at = datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp() if date else 0.0
    return Draft("user_inputs", row["text"], row["id"], row.get("session") or None, at)


class Bm25:
    """The textbook's (k1 1.2, b 0.75), over the memory's own terms."""

    def __init__(self, group: list[dict[str, Any]], tokenizer: Tokenizer) -> None:
        self._terms = tokenizer.terms
        self._ids = [row["id"] for row in group]
        self._counts = [Counter(self._terms(row["text"])) for row in group]
        self._having = Counter(term for counts in self._counts for term in counts)
        self._mean = sum(sum(counts.values()) for counts in self._counts) / len(group)

    def search(self, text: str) -> list[str]:
        scores = [0.0] * len(self._ids)
        for term, times in Counter(self._terms(text)).items():
            having = self._having[term]
            idf = math.log(1 + (len(self._ids) - having + 0.5) / (having + 0.5))
            for at, counts in enumerate(self._counts):
                if tf := counts.get(term):
                    norm = 1.2 * (0.25 + 0.75 * sum(counts.values()) / self._mean)
                    scores[at] += times * idf * tf * 2.2 / (tf + norm)
        order = sorted(range(len(scores)), key=lambda at: (-scores[at], -at))
        return [self._ids[at] for at in order[:K] if scores[at] > 0]


def measures(found: list[str], relevant: dict[str, float]) -> tuple[float, float]:
    """(recall, nDCG) at K."""
    gain = sum(relevant.get(each, 0) / math.log2(rank + 2) for rank, each in enumerate(found))
    best = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(relevant.values(), reverse=True)[:K]))
    return sum(each in relevant for each in found) / len(relevant), gain / best if best else 0.0


def quality(sets: list[DataSet]) -> None:
    tokenizer = Tokenizer()
    for data in sets:
        scores: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        kinds: dict[str, list[float]] = defaultdict(list)
        times = []
        for name, group in data.groups.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.closing(MemoryStore(f"{folder}/m.db")) as store:
                store.ingest([draft(row) for row in group])
                bm25 = Bm25(group, tokenizer)
                for query in data.queries:
                    relevant = data.relevant.get(query["id"])
                    if query["group"] != name or not relevant:
                        continue
                    began = time.perf_counter()
                    found = [each.item.source_ref for each in store.search("user_inputs", query["text"], K)]
                    times.append(time.perf_counter() - began)
                    got = measures(found, relevant)
                    scores["memory"][name].append(got)
                    scores["bm25"][name].append(measures(bm25.search(query["text"]), relevant))
                    kinds[query["category"]].append(got[0])
        chosen = [each for each in data.groups if each in CHOSEN_ON]
        parts = {"all": list(data.groups)}
        if chosen:
            parts |= {"chosen on": chosen, "held out": [each for each in data.groups if each not in chosen]}
        for part, names in parts.items():
            for kind in ("memory", "bm25"):
                got = [each for name in names for each in scores[kind][name]]
                recall, ndcg = (100 * statistics.fmean(column) for column in zip(*got, strict=True))
                print(f"{data.name:12} {part:10} {kind:7} recall@10 {recall:5.1f}  nDCG@10 {ndcg:5.1f}  n {len(got)}")
        if len(kinds) > 1:
            print(
                f"{data.name:12} by category:",
                {k: round(100 * statistics.fmean(v), 1) for k, v in sorted(kinds.items())},
            )
        print(f"{data.name:12} {1000 * statistics.median(times):.2f} ms a query (median)\n")


def synthetic(sets: list[DataSet], items: int, seed: int = 7) -> Iterable[Draft]:
    """Items of about 200 characters: runs of four to ten words from random places of the sets, each item with one of
    200,000 invented words (Zipf), in threads of twenty."""
    chance = random.Random(seed)
    texts = [row["text"].split() for data in sets for group in data.groups.values() for row in group]
    texts = [words for words in texts if len(words) > 10]
    invented = np.random.default_rng(seed).zipf(1.2, items) % 200_000
    for number in range(items):
        words: list[str] = [f"w{invented[number]:x}q"]
        size = 0
        while size < 195:
            source = chance.choice(texts)
            at = chance.randrange(len(source) - 4)
            run = source[at : at + chance.randint(4, 10)]
            words += run
            size += sum(map(len, run)) + len(run)
        yield Draft("user_inputs", " ".join(words), f"i{number}", f"t{number // 20}", 1.6e9 + 60 * number)


def percentiles(times: Iterable[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50": 1000 * ordered[len(ordered) // 2],
        "p99": 1000 * ordered[int(len(ordered) * 0.99)],
        "max": 1000 * ordered[-1],
    }


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


class Ingests:
    """Seconds that each took, what it waited for a processor that others had, and what it had of one. Arrays: a list
    of a million objects would make the garbage collector the slowest ingest."""

    def __init__(self, store: MemoryStore, drafts: list[Draft]) -> None:
        self.wall, self.waited, self.cpu = array("d"), array("d"), array("d")
        with Path("/proc/thread-self/schedstat").open() as file:
            before = _waited(file.fileno())
            for draft in drafts:
                cpu, began = time.thread_time(), time.perf_counter()
                store.ingest([draft])
                self.wall.append(time.perf_counter() - began)
                self.cpu.append(time.thread_time() - cpu)
                waited = _waited(file.fileno())
                self.waited.append(waited - before)
                before = waited


def _waited(schedstat: int) -> float:
    """proc_pid_schedstat(5)"""
    return int(os.pread(schedstat, 99, 0).split()[1]) / 1e9


def speed_of_memory(drafts: list[Draft], questions: list[str], folder: str) -> dict[str, Any]:
    gc.collect()
    gc.freeze()  # a collector that walks the bench's own million drafts is not the store's stall
    store = MemoryStore(f"{folder}/m.db")
    began = time.perf_counter()
    singles = Ingests(store, drafts)
    whole = time.perf_counter() - began
    while store.maintain():
        pass
    store.close()
    opening = timed(lambda: globals().update(_store=MemoryStore(f"{folder}/m.db")))
    store = globals()["_store"]
    asked = [timed(lambda q=q: store.search("user_inputs", q, K)) for q in questions]  # type: ignore[misc]
    stats = store.stats()
    text = sum(len(each.content.encode()) for each in drafts)
    store.close()
    return {
        "ingests_per_s": len(drafts) / whole,
        "ingest": percentiles(singles.wall),
        "stalls_over_50_ms": sum(each > 0.05 for each in singles.wall),
        "stalls_over_100_ms": sum(each > 0.1 for each in singles.wall),
        # Without what others took from us: the store's own work and its waits for the disk; then its work alone.
        "ingest_own": percentiles(map(operator.sub, singles.wall, singles.waited)),
        "ingest_cpu": percentiles(singles.cpu),
        "open_s": opening,
        "after_opening": percentiles(asked[:QUESTIONS]),
        "query": percentiles(asked[QUESTIONS:]),
        "index_to_text": stats.index_bytes / text,
        "file_to_text": stats.file_bytes / text,
    }


def speed_of_tantivy(drafts: list[Draft], questions: list[str], folder: str) -> dict[str, Any]:
    import tantivy  # type: ignore[import-not-found]

    schema = tantivy.SchemaBuilder().add_text_field("text", stored=False, tokenizer_name="en_stem").build()
    index = tantivy.Index(schema, path=folder)
    writer = index.writer(heap_size=128_000_000, num_threads=1)
    began = time.perf_counter()
    for each in drafts:
        writer.add_document(tantivy.Document(text=each.content))
    writer.commit()
    writer.wait_merging_threads()
    whole = time.perf_counter() - began
    index.reload()
    searcher = index.searcher()
    tokenizer = Tokenizer()
    stop = tokenizer._stop.index | tokenizer._stop.question
    asked = [
        " ".join(word for word in "".join(c if c.isalnum() else " " for c in q).lower().split() if word not in stop)
        for q in questions
    ]

    def ask(text: str) -> object:
        return searcher.search(index.parse_query(text, ["text"]), K).hits

    times = [timed(lambda q=q: ask(q)) for q in asked]  # type: ignore[misc]
    size = sum(each.stat().st_size for each in Path(folder).iterdir())
    writer = index.writer(heap_size=15_000_000, num_threads=1)

    def commit(each: Draft) -> None:
        writer.add_document(tantivy.Document(text=each.content))
        writer.commit()

    singles = [timed(lambda each=each: commit(each)) for each in drafts[:50]]  # type: ignore[misc]
    return {
        "bulk_per_s": len(drafts) / whole,
        "ingests_per_s": len(singles) / sum(singles),
        "after_opening": percentiles(times[:QUESTIONS]),
        "query": percentiles(times[QUESTIONS:]),
        "index_to_text": size / sum(len(each.content.encode()) for each in drafts),
    }


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, each in value.items():
        found |= flat(each, f"{prefix}{name}.") if isinstance(each, dict) else {prefix + name: each}
    return found


def speed(sets: list[DataSet], sizes: list[int], tantivy: str | None, output: str | None, picture: str | None) -> None:
    questions = [query["text"] for data in sets for query in data.queries]
    random.Random(3).shuffle(questions)
    questions = questions[: 2 * QUESTIONS]
    results: dict[str, Any] = {}
    if tantivy:
        sys.path.append(tantivy)
    beside_tantivy = importlib.util.find_spec("tantivy") is not None
    if not beside_tantivy:
        print("tantivy is not installed; nothing stands beside the memory's figures (see --tantivy)\n")
    for size in sizes:
        drafts = list(synthetic(sets, size))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            results[str(size)] = {"memory": speed_of_memory(drafts, questions, folder)}
        if beside_tantivy:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                results[str(size)]["tantivy"] = speed_of_tantivy(drafts, questions, folder)
        ours = flat(results[str(size)]["memory"])
        theirs = flat(results[str(size)].get("tantivy", {}))
        print(
            f"{size:,} items of {statistics.fmean(len(each.content) for each in drafts):.0f} characters (times in ms)"
        )
        for name, value in ours.items():
            other = theirs.get(name)
            beside = f"  tantivy {other:10.2f}  ratio {value / other:8.2f}" if other else ""
            print(f"  {name:20} {value:10.2f}{beside}")
        print(flush=True)
        if output:
            Path(output).write_text(json.dumps(results, indent=1) + "\n")
    if picture:
        Path(picture).parent.mkdir(parents=True, exist_ok=True)
        Path(picture).write_text(svg(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("quality", "speed", "all"))
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--items", default="10000,100000")
    parser.add_argument("--tantivy")
    parser.add_argument("--json")
    parser.add_argument("--plot")
    options = parser.parse_args()
    sets = [DataSet(folder) for folder in options.data]
    if options.what != "speed":
        quality(sets)
    if options.what != "quality":
        speed(sets, [int(each) for each in options.items.split(",")], options.tantivy, options.json, options.plot)


if __name__ == "__main__":
    main()
