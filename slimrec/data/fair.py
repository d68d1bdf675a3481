"""A fair sample of rows by their hashes: bounded, the same in whatever pieces they come."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from slimrec.data.hashing import hash_numbers

_SEED = 0x5A3F


class RowSample:
    """A uniform sample of values by row hash: bounded, the same in whatever pieces the rows come."""

    def __init__(self, capacity: int):
        self.capacity, self._held = capacity, 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # (hashes, values)

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Take values (n,) of the rows numbered `rows` (n,)."""
        self.add_hashed(hash_numbers(rows, _SEED), values)

    def add_hashed(self, hashes: np.ndarray, values: np.ndarray) -> None:
        """Take values (n,) whose rows have these hashes (n,), as `hashed` gives them."""
        self._parts.append((hashes, values))
        self._held += len(hashes)
        if self._held > 2 * self.capacity:
            self._shrink()

    def _shrink(self) -> None:
        hashes, values = (np.concatenate(parts) for parts in zip(*self._parts))
        if len(hashes) > self.capacity:
            lowest = np.argpartition(hashes, self.capacity)[: self.capacity]
            hashes, values = hashes[lowest], values[lowest]
        self._parts, self._held = [(hashes, values)], len(hashes)

    def hashed(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes (n,) and values (n,) of the sample, in no order that matters."""
        if not self._parts:
            return np.empty(0, np.uint64), np.empty(0)
        self._shrink()
        return self._parts[0]

    def sorted(self) -> np.ndarray:
        """The sample, ascending."""
        return np.sort(self.hashed()[1])


class Some(NamedTuple):
    """Some rows of a batch, the same for all fields: of all batches' those with the lowest hashes are a fair sample."""

    places: np.ndarray  # (m,) in the batch
    hashes: np.ndarray  # uint64 (m,)


def some(rows: np.ndarray, count: int) -> Some:
    """At most `count` of the rows numbered `rows` (n,), chosen as `RowSample` would."""
    hashes = hash_numbers(rows, _SEED)
    places = np.arange(len(rows))
    if len(rows) > count:
        places = np.argpartition(hashes, count)[:count]
    return Some(places, hashes[places])
