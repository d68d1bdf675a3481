"""Which split a row belongs to: by time, by group hash or by row hash, the same in every run; and what each split holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from slimrec.config import SplitConfig
from slimrec.data.fair import RowSample
from slimrec.data.hashing import hash_numbers, uniform
from slimrec.data.keys import Keys
from slimrec.errors import ConfigError, InputError
from slimrec.schema import Label, Schema, Task

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

    def __init__(self, by: str, config: SplitConfig, seed: int, thresholds: Sequence[int] | None = None):
        self.by, self.seed, self.thresholds = by, seed, thresholds
        self.edges = np.cumsum([config.train, config.gate, config.valid])

    def assign(self, keys: Keys, rows: np.ndarray) -> np.ndarray:
        """Positions in SPLITS (n,) of the rows numbered `rows`."""
        if self.by == "time":
            return np.searchsorted(self.thresholds, keys.time, side="right")
        owner = keys.group if self.by == "group" else rows
        return np.searchsorted(self.edges, uniform(hash_numbers(owner, self.seed, 0x51)), side="right")


class Tally:
    """Rows, positives and weight of each split; of several `tasks` rows observed and positives (splits, T) as well."""

    def __init__(self, tasks: int = 0):
        self.rows = np.zeros(len(SPLITS), np.int64)
        self.positive = np.zeros((len(SPLITS), tasks) if tasks else len(SPLITS), np.int64)
        if tasks:
            self.observed = np.zeros_like(self.positive)
        self.weight = np.zeros(len(SPLITS))  # only its being 0 counts: a sum of floats depends on their order

    def add(self, keys: Keys, split: np.ndarray) -> None:
        """Take rows with their positions (n,) in SPLITS."""
        self.rows += np.bincount(split, minlength=len(SPLITS))
        if keys.label.ndim == 1:
            self.positive += np.bincount(split[keys.label > 0], minlength=len(SPLITS))
        else:
            for task, label in enumerate(keys.label.T):
                self.positive[:, task] += np.bincount(split[label > 0], minlength=len(SPLITS))
                self.observed[:, task] += np.bincount(split[~np.isnan(label)], minlength=len(SPLITS))
        self.weight += np.bincount(split, keys.weight, len(SPLITS))

    def state(self) -> dict[str, list]:
        """What `joined` takes, as JSON."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def joined(cls, states: Iterable[dict[str, list]]) -> Tally:
        """One tally of all the rows that these have taken."""
        states = list(states)
        tally = cls(len(states[0]["observed"][0]) if states and "observed" in states[0] else 0)
        for state in states:
            for name, values in vars(tally).items():
                values += np.array(state[name], values.dtype)
        return tally

    def check(self, config: SplitConfig, by: str, labels: Sequence[Label]) -> None:
        """Raise InputError for a split that cannot serve: no rows, no weight, or labels (of a task) of one class."""
        observed = self.observed if self.positive.ndim == 2 else self.rows
        for name, rows, seen, positive, weight in zip(SPLITS, self.rows, observed, self.positive, self.weight):
            share = getattr(config, name)
            if share and not rows:
                raise InputError(
                    f"the split '{name}' gets none of the {self.rows.sum()} rows when split by {by}; "
                    "give more rows or another `split`"
                )
            if share and not weight:
                raise InputError(f"the weights of the split '{name}' sum to zero; at least one row must count")
            for label, held, ones in zip(labels, np.atleast_1d(seen), np.atleast_1d(positive)):
                task = label.name if isinstance(label, Task) else ""
                if name != "gate" and task and not held:
                    raise InputError(
                        f"no row of the split '{name}' has a label of task '{task}'; check its column, or give more rows"
                    )
                if name != "gate" and ones in (0, held):
                    raise InputError(
                        f"all {held} labels {f'of task {task!r} in' if task else 'of'} the split '{name}' are {int(ones > 0)}; "
                        f"both classes are needed, check the label {label.told}, or split otherwise"
                    )


def time_thresholds(config: SplitConfig, times: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The first times of gate, valid and test, int64 (3,), from pieces (row numbers, times); equal times stay together."""
    sample = RowSample(_TIME_ROWS)
    for rows, values in times:
        sample.add(rows, values)
    values = sample.sorted()
    at = np.round(np.cumsum([config.train, config.gate, config.valid]) * len(values)).astype(int)
    found = values[np.minimum(at, len(values) - 1)]
    _check_ties(config, values, found)
    return found


def _check_ties(config: SplitConfig, values: np.ndarray, thresholds: np.ndarray) -> None:
    """Raise InputError where a split stays empty because equal times, which stay together, fill its place."""
    held = np.bincount(np.searchsorted(thresholds, values, side="right"), minlength=len(SPLITS))
    empty = [name for name, rows in zip(SPLITS, held) if getattr(config, name) and not rows]
    most = np.unique(values, return_counts=True)[1].max(initial=0)
    if empty and most > 1:
        raise InputError(
            f"split by time: {100 * most / len(values):.0f} % of the rows have one and the same time, and equal times stay "
            f"together, so the split '{empty[0]}' gets no row; name a finer time column, or choose `split: {{by: random}}`"
        )
