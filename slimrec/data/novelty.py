"""How much of what comes is new to an encoder: values that training did not see, numbers far outside, by field."""

from __future__ import annotations

import math
from collections import Counter
from threading import Lock

import numpy as np

from slimrec.schema import Schema

_FAR = 0.05  # more of a field's values than training found new outside its own rows, beside what chance may add


class Novelty:
    """Counts over all rows added, by field; `rows` (n,) bool, where set, are those of a batch that count."""

    def __init__(self):
        self.new: Counter[str] = Counter()
        self.present: Counter[str] = Counter()
        self.rows: np.ndarray | None = None
        self._lock = Lock()  # a server adds from several threads

    def add(self, field: str, new: np.ndarray | None, present: np.ndarray) -> None:
        """Take bool (n, width): which values of a field training did not see (None: none), and which are there at all."""
        strange, there = (0 if each is None else self._count(each) for each in (new, present))
        with self._lock:
            self.new[field] += strange
            self.present[field] += there

    def _count(self, values: np.ndarray) -> int:
        return int(np.count_nonzero(values if self.rows is None else values & self.rows[:, None]))

    def state(self) -> dict[str, dict[str, int]]:
        """What `join` takes, as JSON."""
        return {"new": dict(self.new), "present": dict(self.present)}

    def join(self, state: dict[str, dict[str, int]]) -> None:
        """Add what another has counted."""
        self.new.update(state["new"])
        self.present.update(state["present"])

    def shares(self) -> dict[str, float]:
        """Of the values that are there, the share that is new, by field."""
        return {name: self.new[name] / max(self.present[name], 1) for name in self.present}

    def far(self, schema: Schema) -> dict[str, str]:
        """A sentence for each field whose share is far above the one that training had outside its own rows."""
        found = {}
        for name, share in self.shares().items():
            usual = schema[name].statistics.unseen_share
            if share - usual > _FAR + 1 / math.sqrt(max(self.present[name], 1)):
                found[name] = (
                    f"{share:.1%} of the values of '{name}' are new to the model, in training {usual:.1%} were; is its "
                    f"column '{chr(39).join(schema[name].columns)}' still what it was?"
                )
        return found


def fitted(schema: Schema, novelty: Novelty) -> Schema:
    """The schema with each field's share of new values among the rows that were counted."""
    shares = novelty.shares()

    def told(field):
        figures = field.statistics.model_copy(update={"unseen_share": shares.get(field.name, 0.0)})
        return field.model_copy(update={"statistics": figures})

    return schema.model_copy(update={"fields": tuple(map(told, schema.fields))})
