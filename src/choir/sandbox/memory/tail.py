"""The latest documents of a page, which are in no segment yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from choir.sandbox.memory.postings import Bytes, Part, Slots
from choir.sandbox.memory.segment import Segment


class Tail:
    """Dictionaries, since it grows by one document at a time."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.size = 0
        self._lists: dict[int, list[int]] = {}

    def add(self, slot: int, keys: list[int]) -> None:
        """Slots must come in ascending order."""
        lists = self._lists
        counted: dict[int, int] = {}
        for position, key in enumerate(keys):
            entry = counted.get(key)
            if entry is None:
                counted[key] = slot << 16 | 256 | min(position, 255)
            elif entry & 0xFF00 != 0xFF00:
                counted[key] = entry + 256
        for key, entry in counted.items():
            found = lists.get(key)
            if found is None:
                lists[key] = [entry]
            else:
                found.append(entry)
        self.size += 1

    def find(self, keys: Iterable[int], page: int) -> Iterator[tuple[int, Part]]:
        """As ``Segment.find``."""
        found = [(index, entries) for index, key in enumerate(keys) if (entries := self._lists.get(key))]
        every = np.array([entry for _, entries in found for entry in entries], np.uint32)
        slots, counts, first = _unpacked(every)  # arrays once for all of them
        end = 0
        for index, entries in found:
            begin, end = end, end + len(entries)
            yield index, ((page,), (end - begin,), slots[begin:end], counts[begin:end], first[begin:end])

    def having(self, key: int) -> int:
        found = self._lists.get(key)
        return 0 if found is None else len(found)

    def segment(self) -> Segment:
        sizes = [len(entries) for entries in self._lists.values()]
        keys = np.repeat(np.fromiter(self._lists, np.int64, len(self._lists)), sizes)
        entries = np.fromiter(chain.from_iterable(self._lists.values()), np.uint32, sum(sizes))
        return Segment.of(keys, *_unpacked(entries))

    def remove(self, slot: int) -> None:
        for key in list(self._lists):
            kept = [entry for entry in self._lists[key] if entry >> 16 != slot]
            if kept:
                self._lists[key] = kept
            else:
                del self._lists[key]


def _unpacked(entries: npt.NDArray[np.uint32]) -> tuple[Slots, Bytes, Bytes]:
    return (entries >> 16).astype(np.uint16), (entries >> 8 & 255).astype(np.uint8), (entries & 255).astype(np.uint8)
