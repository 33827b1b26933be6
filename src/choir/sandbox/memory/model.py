"""What the memory holds and answers."""

from __future__ import annotations

from dataclasses import dataclass

from choir.errors import ChoirError

COLLECTIONS = ("user_inputs", "version_snapshots", "run_trajectories", "doc_trajectories")

MAX_CONTENT = 1_000_000
"""Characters of one item."""


class MemoryStoreError(ChoirError):
    """A request the memory refused, or a store that cannot be used. Never shown as an empty result."""


class RebuildingError(MemoryStoreError):
    """``rebuilding``: nothing can be found until the index is made anew. ``progress`` is from 0 to 1. What is ingested
    meanwhile is kept."""

    def __init__(self, progress: float) -> None:
        super().__init__(
            "rebuilding",
            f"The memory's index is being made anew, {progress:.0%} of it is done.",
            "Ask again a little later; what is remembered meanwhile is kept.",
        )
        self.progress = progress


@dataclass(frozen=True, slots=True)
class Draft:
    """Something to remember.

    Args:
        collection: one of ``COLLECTIONS``.
        source_ref: where it comes from; whatever helps the caller to find it again, or ``""``.
        thread: what it is a part of (a conversation, a run, a file); items of one thread that were ingested one after
            the other are neighbours. None: it has none.
        created_at: Unix seconds; None is now.
    """

    collection: str
    content: str
    source_ref: str = ""
    thread: str | None = None
    created_at: float | None = None


@dataclass(frozen=True, slots=True)
class Ingested:
    """``duplicate``: the collection had this content; it is one item with one occurrence more."""

    item_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One remembered content, with the provenance of its first occurrence. ``chunk_hash`` is SHA-256 in hex;
    ``created_at`` Unix seconds, exact to the millisecond."""

    item_id: str
    collection: str
    source_ref: str
    thread: str | None
    created_at: float
    content: str
    chunk_hash: str


@dataclass(frozen=True, slots=True)
class Found:
    """``relevance`` in [0, 1): 0.75 is an item of average length that has every word of the query once and side by
    side. Comparable between the collections of one store for one query, not between queries."""

    item: Item
    relevance: float


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One time an item's content was ingested, and what stood around it in its thread, in order."""

    source_ref: str
    thread: str | None
    created_at: float
    before: tuple[Item, ...]
    after: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Expanded:
    item: Item
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """``text`` is what to show a model; ``tokens`` what it costs at most, see ``context.tokens_of``."""

    text: str
    tokens: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class TermShare:
    """What one term of the query gave an item.

    Args:
        origin: ``query``, ``pair`` (two words side by side) or ``feedback`` (a word of the best items).
        idf: how rare it is, in nats.
        via: the neighbour it was found in, or None when it was the item itself.
        decay: 1 for the item itself.
        share: of the score, before the factors.
    """

    term: str
    origin: str
    idf: float
    via: str | None
    decay: float
    share: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """relevance = 1 - 4 ** -(sum of shares * product of factors / ideal)."""

    item: Item
    relevance: float
    shares: tuple[TermShare, ...]
    factors: dict[str, float]
    ideal: float
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """``notes`` say what was mended since the store was opened; sizes are bytes."""

    items: dict[str, int]
    repeats: int
    index_bytes: int
    file_bytes: int
    pending: int
    notes: tuple[str, ...]
