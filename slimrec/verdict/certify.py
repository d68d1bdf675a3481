"""The verdict: is the slim model's AUC as good as the full one's, judged on paired rows clustered by group?

DeLong's structural components (DeLong, DeLong & Clarke-Pearson 1988), with row weights, summed within clusters as in
Obuchowski (1997): the interval of a paired AUC difference in O(n log n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from slimrec.errors import InputError

FEWEST_CLUSTERS = 10  # of either class; below that no interval of ours deserves trust
POWER = 0.9  # for the estimate of rows needed


@dataclass(frozen=True)
class Comparison:
    """AUC of full and slim on the same rows. `low` and `high` are one-sided bounds of `difference`, each at `confidence`.

    All figures are None where the AUC is undefined (one class only).
    """

    full_auc: float | None
    slim_auc: float | None
    difference: float | None  # slim - full
    error: float | None  # standard error of the difference
    low: float | None  # with `confidence`, the true difference is not below
    high: float | None  # with `confidence`, the true difference is not above
    confidence: float
    clusters: int  # groups, or rows where there are no groups
    rows: int  # with a weight above zero
    positive_clusters: int  # clusters with a positive row
    negative_clusters: int


def compare(
    label: np.ndarray,
    full: np.ndarray,
    slim: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two scores (n,) of the same rows by weighted AUC; rows of one `group` value count as one observation.

    Raises InputError for labels other than 0/1, non-finite scores, and weights that are negative or not finite.
    """
    label, weight = np.asarray(label), np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    _check(label, weight, full, slim)
    used = weight > 0
    label, weight, full, slim = label[used] == 1, weight[used], np.asarray(full)[used], np.asarray(slim)[used]
    cluster = np.arange(len(label)) if group is None else np.unique(np.asarray(group)[used], return_inverse=True)[1]
    count = int(cluster.max()) + 1 if len(cluster) else 0
    positives, negatives = len(np.unique(cluster[label])), len(np.unique(cluster[~label]))
    facts: dict[str, Any] = {"confidence": confidence, "clusters": count, "rows": len(label)}
    facts |= {"positive_clusters": positives, "negative_clusters": negatives}
    if not positives or not negatives:
        return Comparison(None, None, None, None, None, None, **facts)
    full_auc, full_influence = influence(label, full, weight)
    slim_auc, slim_influence = influence(label, slim, weight)
    difference = slim_auc - full_auc
    if min(positives, negatives) < 2:
        return Comparison(full_auc, slim_auc, difference, None, None, None, **facts)
    paired = slim_influence - full_influence
    paired[label] *= math.sqrt(positives / (positives - 1))
    paired[~label] *= math.sqrt(negatives / (negatives - 1))
    error = float(np.sqrt(np.square(np.bincount(cluster, paired, count)).sum()))
    reach = float(stats.t.ppf(confidence, min(positives, negatives) - 1)) * error
    return Comparison(full_auc, slim_auc, difference, error, difference - reach, difference + reach, **facts)


def influence(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """Weighted AUC and what each row (n,) adds to its error: AUC - truth = sum of influences, to first order.

    `label` is boolean with both classes present. Ties count one half.
    """
    auc_of_row = np.empty(len(score))
    for own in (True, False):
        others = np.sort(score[label != own])
        mass = np.concatenate([[0.0], np.cumsum(weight[label != own][np.argsort(score[label != own], kind="stable")])])
        mine = score[label == own]
        below = mass[np.searchsorted(others, mine, "left")] + mass[np.searchsorted(others, mine, "right")]
        share = below / (2 * mass[-1])  # weight of the other class under this row, ties by half
        auc_of_row[label == own] = share if own else 1 - share
    share_of_class = weight / np.where(label, weight[label].sum(), weight[~label].sum())
    auc = float((share_of_class * auc_of_row)[label].sum())
    return auc, share_of_class * (auc_of_row - auc)


def verdict(comparison: Comparison, allowed_loss: float) -> tuple[str, str]:
    """`certified`, `rejected` or `inconclusive`, and the reason in one sentence."""
    c, percent = comparison, f"{100 * comparison.confidence:g} %"
    if c.full_auc is None:
        return "inconclusive", f"AUC undefined: all {c.rows:,} rows of the certification slice are of one class"
    fewest = min(c.positive_clusters, c.negative_clusters)
    if fewest < FEWEST_CLUSTERS or c.low is None or c.high is None:
        side = "positive" if c.positive_clusters == fewest else "negative"
        return "inconclusive", (
            f"too little evidence: {fewest} independent {side} observations in the certification slice, "
            f"at least {FEWEST_CLUSTERS} are needed"
        )
    if c.low >= -allowed_loss:
        worst = f"rises by at least {c.low:.5f}" if c.low >= 0 else f"falls by at most {-c.low:.5f}"
        return "certified", f"with {percent} confidence the AUC {worst}; a fall of {allowed_loss:.5f} is allowed"
    if c.high < -allowed_loss:
        return "rejected", (
            f"with {percent} confidence the AUC falls by more than is allowed: "
            f"by at least {-c.high:.5f}, and {allowed_loss:.5f} is allowed"
        )
    rows = rows_needed(comparison, allowed_loss)
    more = (
        f"about {rows:,} rows would settle it"
        if rows
        else "the loss sits on the allowed limit, rows will not settle it"
    )
    return "inconclusive", (
        f"with {percent} confidence the AUC changes by {c.low:+.5f} to {c.high:+.5f}, and a fall of {allowed_loss:.5f} "
        f"is allowed; {c.rows:,} rows are too few, {more}"
    )


def rows_needed(comparison: Comparison, allowed_loss: float) -> int | None:
    """Rows of the same kind that would settle an inconclusive comparison with 90 % power, if the difference stays.

    A gain is not counted on: it is taken as no change. None when the difference is the allowed loss itself.
    """
    c = comparison
    if c.error is None or c.difference is None:
        return None
    margin = abs(min(c.difference, 0.0) + allowed_loss)
    if margin == 0:
        return None
    quantiles = stats.norm.ppf(c.confidence) + stats.norm.ppf(POWER)
    return math.ceil(c.rows * (quantiles * c.error / margin) ** 2)


def _check(label: np.ndarray, weight: np.ndarray, *scores: np.ndarray) -> None:
    if any(len(values) != len(label) for values in (weight, *scores)):
        sizes = [len(label), len(weight), *(len(s) for s in scores)]
        raise InputError(f"labels, weights and scores must have one value a row, got {sizes} values")
    if not np.isin(label, (0, 1)).all():
        raise InputError("labels must be 0 or 1; set `label.positive_above` in the schema to make them so")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InputError("weights must be finite and not negative; correct the weight column of the source")
    for name, score in zip(("full", "slim"), scores):
        bad = int((~np.isfinite(score)).sum())
        if bad:
            raise InputError(
                f"the {name} model scores {bad:,} of {len(score):,} rows as NaN or infinity; train it again"
            )
