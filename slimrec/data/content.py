"""A hash of what each row of a split holds, to find lines that stand in a log more than once."""

from __future__ import annotations

import numpy as np

from slimrec.data.dataset import Split
from slimrec.data.hashing import splitmix64

_ROWS = 65_536  # at once


def contents(split: Split) -> np.ndarray:
    """uint64 (n,): equal where all fields of the split's schema, as encoded, and the time are; the label is left out."""
    parts = []
    for batch in split.batches(_ROWS, shuffle="none"):
        key = np.zeros(len(batch.label), np.uint64)
        for columns in (batch.ids.numpy(), batch.dense.numpy() + np.float32(0)):  # which makes -0 a 0
            for column in columns.T:
                key = splitmix64(key ^ column.copy().view(np.uint32))
        parts.append(key)
    keys = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return keys if split.time is None else splitmix64(keys ^ split.time.view(np.uint64))
