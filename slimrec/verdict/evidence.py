"""How much the rows of a comparison are worth: what counts as one observation, which rows are copies, how even the shares are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from slimrec.data.hashing import splitmix64

FEWEST = 20.0  # effective clusters of either class; below that no interval of ours deserves trust
_SURE = 0.01  # how seldom chance may give so few mixed labels, before alike rows count as copies
_TELLING = 5.0  # mixed sets that chance gives, from which their absence tells
_SETS = 10  # of alike rows, that it takes to tell
_NEIGHBOURS = 500  # sets of similar score that say how often a label is positive there, at most


@dataclass(frozen=True)
class Clusters:
    """Rows that count as one observation together, and how the weight of each class lies on them."""

    of_row: np.ndarray  # int64 (n,)
    count: int
    copies: int  # rows that repeat another one
    share: dict[bool, np.ndarray]  # (count,) by class: share of the class's weight
    present: dict[bool, int]  # clusters with such a row
    worth: dict[bool, float]  # by class: even rows, copies once, that would weigh as much


def groups(values: np.ndarray) -> np.ndarray:
    """Group values (n,) of any type, told apart; a row without one (None, NaN) is a group of its own, as ingest has it."""
    if values.dtype.kind in "iub":
        return values
    import pandas

    codes, distinct = pandas.factorize(values)
    missing = codes < 0
    codes[missing] = len(distinct) + np.arange(missing.sum())
    return codes


def clusters(
    label: np.ndarray, weight: np.ndarray, scores: np.ndarray, group: np.ndarray | None, content: np.ndarray | None
) -> Clusters:
    """The clusters of rows (n,) with weights above zero: groups, and copies of a row that stands in no group with others.

    `scores` and `weight` are float64, scores (n, 2); `content` is a uint64 key of what a row holds, told by its scores
    where None.
    """
    rows = np.arange(len(label))
    of_row = rows if group is None else np.unique(group, return_inverse=True)[1]
    single = np.bincount(of_row)[of_row] == 1
    first, copies = _copies(label, weight, scores, single, content)
    if copies:
        of_row = np.unique(of_row[first], return_inverse=True)[1]
    count = int(of_row.max()) + 1 if len(of_row) else 0
    showing = first if group is None else _alike_in_clusters(of_row, scores)
    share, present, worth = {}, {}, {}
    for own in (True, False):
        mass = np.bincount(of_row[label == own], weight[label == own], count)
        share[own] = mass / max(mass.sum(), np.finfo(float).tiny)
        present[own] = int(np.count_nonzero(mass))
        worth[own] = _even(np.bincount(showing[label == own], weight[label == own]))
    return Clusters(of_row, count, copies, share, present, worth)


def _alike_in_clusters(of_row: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A number for each row, the same for rows of one cluster that score alike."""
    order = np.lexsort((*scores.T, of_row))
    keys = np.column_stack([of_row, scores])[order]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(np.diff(keys, axis=0, prepend=keys[:1]).any(1))
    return numbers


def _even(mass: np.ndarray) -> float:
    """How many even parts would tell as much as these (n,): 1 / sum of squared shares; 0 of nothing."""
    return float(mass.sum() ** 2 / np.square(mass).sum() if mass.any() else 0)


def _copies(
    label: np.ndarray, weight: np.ndarray, scores: np.ndarray, single: np.ndarray, content: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """For each row the first that it repeats (itself where none), and how many rows repeat one.

    Rows may hold the same by chance where fields have few values. Only where that is not how chance looks do alike rows
    of one label count as copies.
    """
    rows = np.arange(len(label))
    among = rows[single]
    key = np.zeros(len(among), np.uint64)
    for part in (weight, *(scores.T if content is None else [content])):
        number = part[among] if part.dtype == np.uint64 else (part[among] + 0).view(np.uint64)  # -0 becomes 0
        key = splitmix64(key ^ number)
    key = key & ~np.uint64(1) | label[among].astype(np.uint64)  # one hash a row: one sort, the labels in its last bit
    order = np.argsort(key)
    key = key[order]
    start = np.append(True, key[1:] != key[:-1])
    alike = np.cumsum(np.append(False, key[1:] >> np.uint64(1) != key[:-1] >> np.uint64(1)))  # the set of each row
    if not _repeated(label[among][order], scores[among, 0][order], alike, np.bincount(alike)):
        return rows, 0
    first = rows.copy()
    first[among[order]] = among[order][np.flatnonzero(start)[np.cumsum(start) - 1]]
    return first, int((~start).sum())


def _repeated(label: np.ndarray, score: np.ndarray, alike: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether the sets of alike rows show that lines were repeated.

    Either their labels mix far less often than labels do among rows of similar score; or, where that cannot be told,
    nearly all sets have one size, which chance varies at least as a Poisson distribution without its zero does.
    """
    several = sizes > 1
    if several.sum() < _SETS:
        return False
    positives = np.bincount(alike, label)
    expected = float(_mixing(positives, sizes, score[np.unique(alike, return_index=True)[1]])[several].sum())
    mixed = int(((positives > 0) & (positives < sizes))[several].sum())
    if expected >= _TELLING and mixed >= expected / 2:
        return False
    if stats.poisson.cdf(mixed, expected / 2) < _SURE:
        return True
    mean = sizes.mean()
    chance = mean * (1 + _poisson_rate(mean) - mean)  # variance of the sizes
    return bool(mean > 1.5 and special.chdtr(len(sizes) - 1, len(sizes) * sizes.var() / chance) < _SURE**2)


def _mixing(positives: np.ndarray, sizes: np.ndarray, score: np.ndarray) -> np.ndarray:
    """How likely each of ten sets (m,) or more mixes its labels, if these come as in sets of similar score."""
    order = np.argsort(score, kind="stable")
    share = (positives / sizes)[order]
    width = int(np.clip(len(share) // 20, 10, _NEIGHBOURS))
    total = np.concatenate([[0], np.cumsum(share)])
    low = np.clip(np.arange(len(share)) - width // 2, 0, len(share) - width)
    rate = np.empty(len(share))
    rate[order] = np.clip((total[low + width] - total[low] - share) / (width - 1), 0, 1)  # without the set itself
    return 1 - rate**sizes - (1 - rate) ** sizes


def _poisson_rate(mean: float) -> float:
    """The rate of a Poisson distribution whose values above zero have this mean, above 1."""
    return float(mean + special.lambertw(-mean * np.exp(-mean)).real)  # mean = rate / (1 - exp(-rate)), solved
