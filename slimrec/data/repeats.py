"""How many rows repeat another one in everything that was read of them: a bounded sketch, the same from all parts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from slimrec.data.hashing import hash_numbers, splitmix64
from slimrec.data.keys import Keys
from slimrec.schema import UNSEEN

_KINDS = 16_384  # different rows counted: those of the lowest hashes, so the share is known to about 1 %

_FEW = 0.02  # share of copies up to which nothing is said


class Repeats:
    """Rows by hash, of the lowest `_KINDS` different hashes: copies fall on one hash, wherever in the log they stand.

    Rows are compared as they were encoded, with label, weight, group and time; those with a value that training has
    not seen are left out, because different values of that sort are encoded alike.
    """

    def __init__(self):
        self.hashes, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)

    def add(self, ids: np.ndarray, dense: np.ndarray, keys: Keys) -> None:
        """Take rows: ids int32 (n, S), dense float32 (n, N) and their keys (n,)."""
        hashes = _hashes(ids, dense, keys)
        if len(self.hashes) == _KINDS:
            low = hashes <= self.hashes[-1]
            hashes, ids = hashes[low], ids[low]
        self._join(*np.unique(hashes[~(ids == UNSEEN).any(axis=1)], return_counts=True))

    def _join(self, hashes: np.ndarray, counts: np.ndarray) -> None:
        every, places = np.unique(np.concatenate([self.hashes, hashes]), return_inverse=True)
        totals = np.bincount(places, np.concatenate([self.counts, counts]), len(every)).astype(np.int64)
        self.hashes, self.counts = every[:_KINDS], totals[:_KINDS]

    def state(self) -> dict[str, list[int]]:
        """What `joined` takes, as JSON."""
        return {"hashes": self.hashes.tolist(), "counts": self.counts.tolist()}

    @classmethod
    def joined(cls, states: Iterable[dict[str, list[int]]]) -> Repeats:
        """The sketch of all the rows that these have taken."""
        repeats = cls()
        for state in states:
            repeats._join(np.array(state["hashes"], np.uint64), np.array(state["counts"], np.int64))
        return repeats

    @property
    def share(self) -> float:
        """Share of the rows that are another copy of one that is counted already."""
        return float(1 - len(self.counts) / max(self.counts.sum(), 1)) if len(self.counts) else 0.0

    def remarks(self) -> list[str]:
        """A sentence where more than a few rows are copies."""
        if self.share <= _FEW:
            return []
        return [
            (
                f"{self.share:.0%} of the rows are repeated: the same as another row in everything read of them. Where they are "
                "duplicates of one event remove them, or name a `group` that holds copies together: copies in train and test "
                "make a verdict more certain than it is"
            )
        ]


def _hashes(ids: np.ndarray, dense: np.ndarray, keys: Keys) -> np.ndarray:
    """uint64 (n,): sums of all values times odd numbers, mixed with the keys."""
    hashes = np.zeros(len(ids), np.uint64)
    for number, values in enumerate((ids, dense)):
        even = values.shape[1] // 2 * 2
        words = values[:, :even].view(np.uint64)  # two values at once
        hashes += words @ (hash_numbers(np.arange(words.shape[1]), 0x3D, number) | np.uint64(1))
        if even < values.shape[1]:
            hashes = splitmix64(hashes ^ values[:, even].copy().view(np.uint32).astype(np.uint64))
    for column in keys:
        for key in () if column is None else column.T if column.ndim == 2 else (column,):
            key = np.ascontiguousarray(key)
            hashes = splitmix64(hashes ^ key.view(f"u{key.itemsize}").astype(np.uint64))
    return hashes
