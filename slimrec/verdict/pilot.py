"""The pilot: which loss of AUC a certification slice can be expected to certify, from its labels, weights and groups alone.

Before any training nothing is known of the models' scores. It is assumed that within a class those of full and slim model are
normal and correlate by CORRELATION, that the AUC is AUC (a higher one needs fewer rows) and that what two rows of a group add
to the error correlates by ALIKE, which gives even groups of m rows the design effect 1 + ALIKE (m - 1) (Kish 1965).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from slimrec.config import EvaluateConfig, SliceConfig
from slimrec.data.dataset import Split
from slimrec.verdict.certify import Comparison, rows_for, smallest_margin
from slimrec.verdict.evidence import FEWEST

CORRELATION, AUC, ALIKE = 0.992, 0.75, 0.05
NAMED = 5  # slices, in a sentence
LOOKED_AT = 2_000_000  # rows whose groups are counted: memory stays bounded


@dataclass(frozen=True)
class Pilot:
    """What a slice can be expected to show where the slim model loses nothing; None where it holds one class only."""

    rows: int  # with a weight above zero
    confidence: float
    error: float | None  # standard error that the difference in AUC will have
    unseen: float | None  # what a fault may cost that no row shows

    @property
    def loss(self) -> float | None:
        """The smallest allowed loss that ends certified with 90 % power."""
        return _loss(self.error, self.unseen, self.confidence)

    def rows_needed(self, allowed_loss: float) -> int | None:
        """Rows of the same kind that certify an allowed loss with 90 % power; None where none can be told."""
        if self.error is None or self.unseen is None or not allowed_loss:
            return None
        return rows_for(self.rows, self.error, self.unseen, allowed_loss, self.confidence)

    def outlook(self, allowed_loss: float | None = None) -> str:
        """A sentence for who is about to train, with what the audit allows where that is known."""
        if self.loss is None:
            return f"all {self.rows:,} certification rows are of one class: no verdict is possible"
        can = (
            f"{self.rows:,} certification rows can certify with {100 * self.confidence:g} % confidence that a loss of "
            f"AUC is below about {self.loss:.2g}, if the models' scores correlate by {CORRELATION:g}"
        )
        if allowed_loss is None or self.loss <= allowed_loss:
            return can
        needed = self.rows_needed(allowed_loss)
        more = f"; about {int(float(f'{needed:.2g}')):,} such rows would be enough" if needed else ""
        return (
            f"warning: {can}; {allowed_loss:g} is allowed, so that this audit ends certified only where the slim model gains "
            f"or the models agree better than that{more}"
        )


def of(test: Split, confidence: float) -> Pilot:
    """The pilot of a certification slice."""
    return plan(test.label, test.weight, test.group, confidence)


def plan(label: np.ndarray, weight: np.ndarray, group: np.ndarray | None, confidence: float = 0.95) -> Pilot:
    """The pilot of a slice of rows (n,), with labels 0 or 1, weights of any scale and groups as uint64 hashes."""
    used = weight > 0
    positive, weight = np.asarray(label)[used].astype(bool), np.asarray(weight)[used]
    if not positive.any() or positive.all():
        return Pilot(len(weight), confidence, None, None)
    rows = {own: _squares(weight[positive == own]) for own in (True, False)}
    clustered = rows if group is None else _of_groups(positive, weight, np.asarray(group)[used])
    totals = {own: float(weight[positive == own].sum(dtype=np.float64)) ** 2 for own in (True, False)}
    spread = sum(((1 - ALIKE) * rows[own] + ALIKE * clustered[own]) / totals[own] for own in (True, False))
    unseen = -math.log(1 - confidence) * max(rows[own] / totals[own] for own in (True, False))
    return Pilot(len(weight), confidence, math.sqrt(_variance_of_a_row() * spread), unseen)


def sliced(
    label: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray | None,
    config: EvaluateConfig,
    parts: Sequence[tuple[str, np.ndarray, SliceConfig]],
) -> list[dict[str, Any]]:
    """What each slice of rows (n,) can be expected to show, all of them at once; `parts` are as `case.gather` takes them.

    With 90 % power a slice passes that loses nothing, if at least `certifies` is allowed, and one is rejected by name that
    loses `rejects`, which is as much more than its `allowed`; both None where no rows of it tell. One that loses what it is
    allowed, or more, is vetoed whatever its rows.
    """
    found = []
    for name, rows, of in parts:
        of_group = None if group is None else group[rows]
        planned = plan(label[rows], weight[rows], of_group, 1 - (1 - config.confidence) / len(parts))
        loss, allowed = planned.loss, config.allowed(of)
        few = planned.unseen is None or -math.log(1 - planned.confidence) / planned.unseen < FEWEST
        tells = (
            {"certifies": None, "rejects": None}
            if few or loss is None
            else {"certifies": loss, "rejects": allowed + loss}
        )
        found.append({"name": name, "rows": planned.rows, "allowed": allowed, **tells})
    return found


def undecided(found: Sequence[dict[str, Any]]) -> str:
    """Which slices their rows do not decide, in words for who is about to train and for who reads the report."""
    doubtful = [each for each in found if each["certifies"] is None or each["certifies"] > each["allowed"]]
    if not doubtful:
        return f"their rows decide all {len(found)} slices"
    names = (
        f"{each['name']} ({each['rows']:,} rows "
        + ("tell nothing" if each["certifies"] is None else f"certify {each['certifies']:.2g}")
        + f", {each['allowed']:g} is allowed)"
        for each in doubtful[:NAMED]
    )
    more = f" and {len(doubtful) - NAMED} more" if len(doubtful) > NAMED else ""
    return f"{len(doubtful)} of {len(found)} slices have too few rows to be decided: {', '.join(names)}{more}"


def against(planned: Pilot, found: Comparison, allowed_loss: float) -> dict[str, Any]:
    """What report.json holds: the smallest loss that was planned to be certified, and by the error that was found."""
    loss = _loss(found.error, found.unseen, found.confidence)
    return {"planned": planned.loss, "found": loss, "rows_needed": planned.rows_needed(allowed_loss)}


def _loss(error: float | None, unseen: float | None, confidence: float) -> float | None:
    return None if error is None or unseen is None else smallest_margin(error, unseen, confidence)


def _squares(mass: np.ndarray) -> float:
    return float(np.square(mass, dtype=np.float64).sum())


def _of_groups(positive: np.ndarray, weight: np.ndarray, group: np.ndarray) -> dict[bool, float]:
    """The sum over groups of their squared weights, by class; of many rows a part of the groups stands for all."""
    share = min(1.0, LOOKED_AT / len(group))
    some = slice(None) if share == 1 else group < np.uint64(share * 2.0**64)
    of_row = np.unique(group[some], return_inverse=True)[1]
    mine = positive[some]
    return {own: _squares(np.bincount(of_row[mine == own], weight[some][mine == own])) / share for own in (True, False)}


def _variance_of_a_row() -> float:
    """Variance of a row's placement among the other class by one model less that by the other, both binormal.

    By the delta method: E phi(x)^2 (x - x')^2 with x ~ N(m, 1), where m tells the classes apart.
    """
    apart = math.sqrt(2) * float(stats.norm.ppf(AUC))
    return 2 * (1 - CORRELATION) * math.exp(-(apart**2) / 3) / (2 * math.pi * math.sqrt(3))
