"""Which split a row belongs to: by time, by group hash or by row hash, the same in every run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from slimrec.config import SplitConfig
from slimrec.data.fit import RowSample
from slimrec.data.hashing import hash_numbers, uniform
from slimrec.data.keys import Keys
from slimrec.errors import ConfigError
from slimrec.schema import Schema

SPLITS = ("train", "gate", "valid", "test")  # in order of time
_TIME_ROWS = 8_000_000  # times held for the thresholds; exact up to here, a fair sample beyond


def resolve(config: SplitConfig, schema: Schema) -> str:
    """`time`, `group` or `random`; raises ConfigError where the schema lacks the column that this needs."""
    by = config.by if config.by != "auto" else ("time" if schema.time else "random")
    if by != "random" and getattr(schema, by) is None:
        raise ConfigError(
            f"split by {by} needs a {by} column: add `{by}: COLUMN` to the schema, or choose `by: random`"
        )
    return by


class Splitter:
    """Assigns rows to splits; `thresholds` (3,) are the first times of gate, valid and test."""

    def __init__(self, by: str, config: SplitConfig, seed: int, thresholds: np.ndarray | None = None):
        self.by, self.seed, self.thresholds = by, seed, thresholds
        self.edges = np.cumsum([config.train, config.gate, config.valid])

    def assign(self, keys: Keys, rows: np.ndarray) -> np.ndarray:
        """Positions in SPLITS (n,) of the rows numbered `rows`."""
        if self.by == "time":
            return np.searchsorted(self.thresholds, keys.time, side="right")
        owner = keys.group if self.by == "group" else rows
        return np.searchsorted(self.edges, uniform(hash_numbers(owner, self.seed, 0x51)), side="right")


def time_thresholds(config: SplitConfig, times: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The first times of gate, valid and test, int64 (3,), from pieces (row numbers, times); equal times stay together."""
    sample = RowSample(_TIME_ROWS)
    for rows, values in times:
        sample.add(rows, values)
    values = sample.sorted()
    at = np.round(np.cumsum([config.train, config.gate, config.valid]) * len(values)).astype(int)
    return values[np.minimum(at, len(values) - 1)]
