"""Whether rows hold more than one thing, where no count of values tells: hashed categories, and bags."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from slimrec.data.values import Bags, Categories


class Varying:
    """The first two different contents of rows, as they are encoded; in whatever order rows come, as many."""

    def __init__(self) -> None:
        self.held: list[str | list[str | None] | None] = []  # at most two: a category's key, or the keys of a bag

    @property
    def varies(self) -> bool:
        """Whether there were two."""
        return len(self.held) > 1

    def add(self, found: Categories | Bags) -> None:
        """Take the values of a batch."""
        if not self.varies:
            self.join(_two_of_bags(found) if isinstance(found, Bags) else _two_of(found))

    def join(self, held: Iterable[str | list[str | None] | None]) -> None:
        """Take what another has held."""
        for content in held:
            if not self.varies and content not in self.held:
                self.held.append(content)


def _two_of(found: Categories) -> list[str | None]:
    values = [*found.values, None]  # where code -1 points
    return list(dict.fromkeys(values[code] for code in np.unique(found.codes)))[:2]


def _two_of_bags(bags: Bags) -> list[list[str | None]]:
    """What the first row holds, and the first row that holds something else."""
    rows = len(bags.lengths)
    if not rows:
        return []
    keys: dict[str | None, int] = {}  # two spellings may be one; code -1 points to the last
    numbers = np.array([keys.setdefault(value, len(keys)) for value in [*bags.found.values, None]])
    held, lengths = numbers[bags.found.codes], np.bincount(bags.rows, minlength=rows)
    other = lengths != lengths[0]
    if not other.any():
        content = held.reshape(rows, -1)
        other = (content != content[0]).any(axis=1)
    ends, names = np.cumsum(lengths), list(keys)
    chosen = [0, *np.flatnonzero(other)[:1].tolist()]
    return [[names[key] for key in held[ends[row] - lengths[row] : ends[row]].tolist()] for row in chosen]
