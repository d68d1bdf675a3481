"""Twins: fields that say the same, found by how well each tells the other."""

from __future__ import annotations

from itertools import compress
from typing import NamedTuple

import numpy as np

from slimrec.schema import Field

ALIKE = 0.98  # agreement beyond chance, both ways, from which two fields say the same
_BINS = 64  # a number is compared by its quantiles
_ASKED = 256  # pairs of rows that hold one value of a field, by which most others are seen to be no twins of it


def codes(field: Field, values: np.ndarray) -> np.ndarray:
    """One integer a row, equal where the field's value is: int64 (n,); numbers by quantile, bags as sets.

    The smallest value of a number is a bin of its own where it fills one: as a boundary it would part nothing.
    """
    if not field.embedded:
        column = values.ravel()
        edges = np.unique(np.quantile(column, np.arange(1, _BINS) / _BINS))
        edges[edges == column.min()] = np.nextafter(edges.dtype.type(column.min()), np.inf)
        return np.searchsorted(edges, column, side="right")
    return np.unique(np.sort(values), axis=0, return_inverse=True)[1].ravel()


class Coded(NamedTuple):
    """The codes (n,) of a field, and what every comparison with another one asks of it alone."""

    group: np.ndarray  # (n,) each row's rank among the distinct codes
    size: np.ndarray  # how often each of those occurs
    chance: float  # how likely another row has the same
    entropy: float  # in nats

    @classmethod
    def of(cls, code: np.ndarray) -> Coded:
        _, group, size = np.unique(code, return_inverse=True, return_counts=True)
        share = np.sort(size) / len(code)
        return cls(group, size, ((size[group] - 1) / (len(code) - 1)).mean(), -(share * np.log(share)).sum())


def agreement(of: Coded, given: Coded) -> float:
    """How well another row with the same `given` tells `of`, 0 for no better than chance, 1 for always.

    Leave-one-out Goodman-Kruskal tau: unlike a conditional entropy it does not take near-unique fields for functions
    of each other, because a value that was seen once tells nothing. `of` is no constant, and `given` repeats itself.
    """
    cells, both = np.unique(given.group * len(of.size) + of.group, return_counts=True)
    value = cells // len(of.size)
    repeated = given.size[given.size > 1].sum()
    agree = (both * (both - 1) / np.maximum(given.size - 1, 1)[value]).sum() / repeated
    return (agree - of.chance) / (1 - of.chance)


def twins(fields: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    """Groups of fields that tell each other, from a code a row (n,) of each.

    Constants belong to none, nor does what never repeats. Fields that tell each other have nearly the same distinct
    counts, so only neighbours by entropy are compared.
    """
    coded = {name: Coded.of(code) for name, code in fields.items()}
    entropy = {name: one.entropy for name, one in coded.items() if 1 < len(one.size) < len(one.group)}
    names = sorted(entropy, key=lambda name: (entropy[name], name))
    head = {name: name for name in names}

    def root(name: str) -> str:
        while head[name] != name:
            name = head[name]
        return name

    random = np.random.default_rng(0)
    table = np.array([coded[name].group for name in names], np.int32).T.copy()
    chance, most = np.array([coded[name].chance for name in names]), [entropy[name] for name in names]
    ends = np.searchsorted([0.95 * other - 0.01 for other in most], most)
    for i, (a, end) in enumerate(zip(names, ends)):
        perhaps = _perhaps(coded[a], table[:, i + 1 : end], chance[i + 1 : end], random)
        for b in compress(names[i + 1 : end], perhaps):
            if root(a) == root(b):
                continue
            both = (agreement(coded[one], coded[other]) for one, other in ((a, b), (b, a)))
            if all(value >= ALIKE for value in both):
                head[root(b)] = root(a)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(root(name), []).append(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _perhaps(given: Coded, others: np.ndarray, chance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Which of the other fields (n, F) a field may tell: bool (F,), False only where `agreement` stays below `ALIKE`.

    By pairs of rows that share a value of the field, drawn as `agreement` weighs them: so many differing ones as are
    refused come of a field that it tells with a probability below 1e-8, by Bernstein's bound.
    """
    if not others.size:
        return np.zeros(others.shape[1], bool)
    order, start = np.argsort(given.group, kind="stable"), np.cumsum(given.size) - given.size
    one = random.choice(np.flatnonzero(given.size[given.group[order]] > 1), _ASKED)
    value = given.group[order[one]]
    other = start[value] + (one - start[value] + random.integers(1, given.size[value])) % given.size[value]
    differing = (others[order[one]] != others[order[other]]).sum(0)
    expected = _ASKED * (1 - ALIKE) * (1 - chance)
    return differing <= expected + 6 * np.sqrt(expected) + 12
