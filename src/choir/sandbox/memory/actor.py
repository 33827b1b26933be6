"""The memory actor: the store in a thread of its own, asked by messages.

``await actor.ask(ArtifactSearch("user_inputs", "the query"))``; numpy and SQLite are loaded in the actor's thread,
when it starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from choir.sandbox.actor import Message, ThreadActor
from choir.sandbox.memory import messages as m
from choir.sandbox.memory.model import MemoryStoreError

if TYPE_CHECKING:
    from choir.sandbox.memory.store import MemoryStore


def memory_actor(path: str) -> ThreadActor:
    """An actor on the memory in the SQLite file ``path``; to be started and stopped by the caller."""
    return ThreadActor("memory", lambda: MemoryState(path))


class MemoryState:
    """``choir.sandbox.actor.State`` over a ``MemoryStore``; also for one question without an actor."""

    def __init__(self, path: str) -> None:
        from choir.sandbox.memory.store import MemoryStore

        self._store: MemoryStore = MemoryStore(path)

    def handle(self, message: Message[Any]) -> Any:
        store = self._store
        match message:
            case m.Ingest(draft):
                return store.ingest([draft])[0]
            case m.IngestBatch(drafts):
                return store.ingest(drafts)
            case m.ArtifactSearch(collection, query, k, now):
                return store.search(collection, query, k, now)
            case m.ArtifactExpand(item_ids, neighbors):
                return store.expand(item_ids, neighbors)
            case m.ArtifactContextPack(objective, budget, now):
                return store.context_pack(objective, budget, now)
            case m.GetContextSnapshot(query, max_items, now):
                return store.snapshot(query, max_items, now)
            case m.Forget(item_ids, source_ref, before):
                return store.forget(item_ids=item_ids, source_ref=source_ref, before=before)
            case m.Explain(item_id, query, now):
                return store.explain(item_id, query, now)
            case m.Check():
                return store.check()
            case m.GetStats():
                return store.stats()
        raise MemoryStoreError("unknown_message", f"The memory takes no {type(message).__name__}.")

    def idle(self) -> bool:
        return self._store.maintain()

    def mend(self) -> None:
        """As ``MemoryStore.mend``."""
        self._store.mend()

    def close(self) -> None:
        self._store.close()
