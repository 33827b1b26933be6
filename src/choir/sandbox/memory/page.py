"""A page of the index as it is in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from choir.sandbox.memory.postings import PAGE
from choir.sandbox.memory.segment import Segment
from choir.sandbox.memory.tail import Tail

SLOT = PAGE - 1
"""The bits of a document's number that are its place in the page."""


@dataclass
class Page:
    """``state``: open (filling), merging (full; its segments still answer), merged (its rows answer) or stale (to be
    made anew). ``size`` is the next free slot, ``step`` how much of a merge is done."""

    collection: int
    state: str
    step: int = 0
    size: int = 0
    segments: dict[int, Segment] = field(default_factory=dict)
    tail: Tail = field(default_factory=lambda: Tail(0))
