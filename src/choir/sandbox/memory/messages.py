"""What the memory actor is asked; each message's type says what answers it. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from choir.sandbox.actor import Message
from choir.sandbox.memory.model import Draft, Expanded, Explanation, Found, Ingested, Pack, Stats


@dataclass(frozen=True, slots=True)
class Ingest(Message[Ingested]):
    draft: Draft


@dataclass(frozen=True, slots=True)
class IngestBatch(Message[list[Ingested]]):
    """All or none."""

    drafts: Sequence[Draft]


@dataclass(frozen=True, slots=True)
class ArtifactSearch(Message[list[Found]]):
    collection: str
    query: str
    k: int = 10
    now: float | None = None


@dataclass(frozen=True, slots=True)
class ArtifactExpand(Message[list[Expanded]]):
    item_ids: Sequence[str]
    neighbors_per_item: int = 2


@dataclass(frozen=True, slots=True)
class ArtifactContextPack(Message[Pack]):
    objective: str
    token_budget: int
    now: float | None = None


@dataclass(frozen=True, slots=True)
class GetContextSnapshot(Message[list[Found]]):
    query: str
    max_items: int = 10
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Forget(Message[int]):
    """Exactly one of the three."""

    item_ids: Sequence[str] | None = None
    source_ref: str | None = None
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Explain(Message[Explanation]):
    item_id: str
    query: str
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Check(Message[str]):
    """Read all of the store; mends the index. What was wrong, or ``""``."""


@dataclass(frozen=True, slots=True)
class GetStats(Message[Stats]):
    pass
