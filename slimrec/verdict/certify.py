"""The verdict: is the slim model's AUC as good as the full one's, judged on paired rows clustered by group?

DeLong's structural components (DeLong, DeLong & Clarke-Pearson 1988), with row weights, summed within clusters as in
Obuchowski (1997): the interval of a paired AUC difference in O(n log n). Both bounds leave room for a fault that no row
happens to show: of m rows of a class (even ones that would weigh as much, copies once) none shows what befalls a share of
-ln(1 - confidence) / m of them (the rule of three), and such a fault may cost its whole share of the AUC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from slimrec.errors import InputError
from slimrec.verdict import seeds
from slimrec.verdict.evidence import FEWEST, Clusters, clusters, groups
from slimrec.verdict.sketch import Sketch, sketch

POWER = 0.9  # for the estimate of rows needed
ROOM = 1.3  # times as many rows: a pilot knows the error to some 14 %, and tails are heavier than the normal law says


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
    clusters: int  # groups, or rows where there are no groups; copies of a row count once
    rows: int  # with a weight above zero
    positive_clusters: int  # clusters with a positive row
    negative_clusters: int
    positive_effective: float  # even clusters that would tell as much: 1 / sum of squared shares of the weight
    negative_effective: float
    largest_share: float  # of either class's weight, in one cluster
    copies: int  # rows that repeat another one
    unseen: float | None  # what a fault may cost that no row of the slice shows; bounds are at least as wide
    trainings: int  # of either side; of several, all AUCs are means and the bounds hold for any seed
    seed_error: float  # the part of `error` that seeds make; 0 of one training


def compare(
    label: np.ndarray,
    full: np.ndarray,
    slim: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    confidence: float = 0.95,
    content: np.ndarray | None = None,
) -> Comparison:
    """Compare two scores (n,) of the same rows by weighted AUC; rows of one `group` value count as one observation.

    So do copies of a row, told by `content` (n,), a uint64 key of what a row holds, or by both scores. A row whose group is
    missing (None, NaN) counts by itself. Raises InputError for labels other than 0/1, non-finite scores, and weights that
    are negative or not finite.
    """
    return conclude(gather(label, full, slim, weight, group, content), confidence)


def gather(
    label: np.ndarray,
    full: np.ndarray,
    slim: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    content: np.ndarray | None = None,
    retrained: np.ndarray | None = None,
) -> Sketch:
    """All that `conclude` asks of the rows, a fold a cluster; arguments and errors are those of `compare`.

    `retrained` (n, 2, N): scores of full and slim by further trainings; what is the same for all is told by the first one.
    """
    label, weight = np.asarray(label), np.ones(len(label)) if weight is None else np.asarray(weight, np.float64)
    others = () if retrained is None else np.moveaxis(np.asarray(retrained), 0, -1).swapaxes(0, 1)  # (N, 2, n)
    scores = (full, slim, *(each for pair in others for each in pair))
    _check_shapes(label, weight, *scores, group, content)
    _check(label, weight, *scores)
    used = weight > 0
    label, weight, full, slim = label[used] == 1, weight[used], np.asarray(full)[used], np.asarray(slim)[used]
    group = None if group is None else groups(np.asarray(group)[used])
    content = None if content is None else np.asarray(content)[used]
    found = clusters(label, weight, np.column_stack([full, slim]).astype(np.float64), group, content)
    if not min(found.present.values()):
        return sketch(found, label, {}, {}, np.zeros(found.count))
    pairs = [[influence(label, each, weight) for each in (full, slim)]]
    pairs += [[influence(label, each[used], weight) for each in pair] for pair in others]
    means = zip(("full", "slim"), zip(*pairs))
    auc, influences = {}, {}
    for name, told in means:
        auc[name] = float(np.mean([value for value, _ in told]))
        influences[name] = np.mean([part for _, part in told], axis=0)
    kept = sketch(found, label, auc, influences, _sums(influences["slim"] - influences["full"], label, found))
    if len(pairs) == 1:
        return kept
    differences = tuple(slim_auc - full_auc for (full_auc, _), (slim_auc, _) in pairs)
    sums = np.stack([_sums(slim_part - full_part, label, found) for (_, full_part), (_, slim_part) in pairs])
    return replace(kept, differences=differences, mixed=seeds.mixed(sums))


def conclude(found: Sketch, confidence: float) -> Comparison:
    """The comparison that a sketch of the rows comes to."""
    present, effective = found.present, found.effective
    facts: dict[str, Any] = {
        "confidence": confidence,
        "clusters": found.count,
        "rows": found.rows,
        "positive_clusters": present[True],
        "negative_clusters": present[False],
        "positive_effective": effective[True],
        "negative_effective": effective[False],
        "largest_share": found.largest_share,
        "copies": found.copies,
        "trainings": len(found.differences) or 1,
        "seed_error": 0.0,
    }
    if found.full_auc is None or found.slim_auc is None:
        return Comparison(None, None, None, None, None, None, unseen=None, **facts)
    difference = found.slim_auc - found.full_auc
    if min(present.values()) < 2:
        return Comparison(found.full_auc, found.slim_auc, difference, None, None, None, unseen=None, **facts)
    unseen = -math.log(1 - confidence) / min(found.positive_worth, found.negative_worth)
    error, down, up = reach(found.count, found.powers, min(present.values()) - 1, confidence)
    facts["seed_error"], (down, up) = seeds.widen(found.differences, down, up, confidence)
    error = math.hypot(error, facts["seed_error"])
    low, high = max(difference - max(down, unseen), -1.0), min(difference + max(up, unseen), 1.0)
    return Comparison(found.full_auc, found.slim_auc, difference, error, low, high, unseen=unseen, **facts)


def _sums(paired: np.ndarray, label: np.ndarray, found: Clusters) -> np.ndarray:
    """What each cluster (count,) adds to the error of the difference, from the influences of its rows (n,).

    Influences sum to 0, so a cluster with a large share h of its class is pulled to 0 by itself: it is divided by 1 - h,
    as the jackknife does (Bell and McCaffrey 2002).
    """
    sums = np.zeros(found.count)
    for own in (True, False):
        present, mine = found.present[own], label == own
        part = np.bincount(found.of_row[mine], paired[mine], found.count)
        sums += part * math.sqrt((present - 1) / present) / np.maximum(1 - found.share[own], 1e-9)
    return sums


def reach(count: int, powers: tuple[float, ...], most: float, confidence: float) -> tuple[float, float, float]:
    """Standard error of a sum of `count` independent parts, and how far below and above it the truth may lie.

    `powers` are the sums of their squares, third and fourth powers.

    The error itself is uncertain where few parts make it: degrees of freedom by their kurtosis (O'Neill 2014), at most
    `most`. A few large losses among many small changes are as uncertain as a count of that few: each bound is Wilson's
    (1927) for a Poisson count of events of the size that the skewness tells, and Student's where there is no skewness.
    """
    squares, cubes, fourths = powers
    if not squares:
        return 0, 0, 0
    excess = fourths / squares**2 - (count - 3) / (count * max(count - 1, 1))
    quantile = float(stats.t.ppf(confidence, max(1.0, min(most, 2 / excess)) if excess > 0 else most))
    error, event = math.sqrt(squares), cubes / squares
    down, up = (max(size, 0) * stats.norm.ppf(confidence) ** 2 / 2 for size in (-event, event))
    return error, *(half + math.hypot(half, quantile * error) for half in (down, up))


def influence(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """Weighted AUC and what each row (n,) adds to its error: AUC - truth = sum of influences, to first order.

    `label` is boolean with both classes present. Ties count one half.
    """
    order = np.argsort(score)
    mine, ranked = label[order], score[order]
    level = np.cumsum(np.diff(ranked, prepend=ranked[:1]) > 0)  # of equal scores, in order
    positive, negative = (np.bincount(level, np.where(mine == own, weight[order], 0)) for own in (True, False))
    positives, negatives = positive.sum(), negative.sum()
    above, below = positives - np.cumsum(positive) + positive / 2, np.cumsum(negative) - negative / 2
    auc_of_row = np.empty(len(score))  # share of the other class's weight that the row is on the right side of
    auc_of_row[order] = np.where(mine, below[level] / negatives, above[level] / positives)
    share_of_class = weight / np.where(label, positives, negatives)
    auc = float((share_of_class * auc_of_row)[label].sum())
    return auc, share_of_class * (auc_of_row - auc)


def verdict(comparison: Comparison, allowed_loss: float) -> tuple[str, str]:
    """`certified`, `rejected` or `inconclusive`, and the reason in one sentence."""
    c, sure = comparison, f"with {100 * comparison.confidence:g} % confidence"
    if c.trainings > 1:
        sure += ", whatever the seed of the training,"
    if c.full_auc is None:
        return "inconclusive", f"AUC undefined: all {c.rows:,} rows of the certification slice are of one class"
    scarce = _scarce(comparison, allowed_loss)
    if scarce or c.low is None or c.high is None:
        return "inconclusive", f"too little evidence: {scarce}"
    if c.low >= -allowed_loss:
        worst = f"rises by at least {c.low:.5f}" if c.low >= 0 else f"falls by at most {-c.low:.5f}"
        return "certified", f"{sure} the AUC {worst}; a fall of {allowed_loss:.5f} is allowed"
    if c.high < -allowed_loss:
        return "rejected", (
            f"{sure} the AUC falls by more than is allowed: "
            f"by at least {-c.high:.5f}, and {allowed_loss:.5f} is allowed"
        )
    return "inconclusive", (
        f"{sure} the AUC changes by {c.low:+.5f} to {c.high:+.5f}, and a fall of {allowed_loss:.5f} "
        f"is allowed; {_remedy(c, allowed_loss)}"
    )


def _remedy(c: Comparison, allowed_loss: float) -> str:
    """What would end an inconclusive comparison."""
    rows = rows_needed(c, allowed_loss)
    if rows is None and c.seed_error:
        return "trainings differ too much for any number of rows to settle it: raise evaluate.retrains"
    more = f"about {rows:,} rows would" if rows else "the loss sits on the allowed limit, rows will not"
    return f"{c.rows:,} rows are too few, {more} settle it"


def _scarce(c: Comparison, allowed_loss: float) -> str:
    """What the slice lacks for any verdict, and what would be enough; "" where it lacks nothing."""
    sides = {"positive": c.positive_effective, "negative": c.negative_effective}
    side = min(sides, key=lambda name: sides[name])
    if c.low is None or c.difference is None or c.unseen is None or sides[side] < FEWEST:
        times = math.ceil(c.rows * FEWEST / max(sides[side], 1.0))
        remedy = f"about {times:,} rows of the same kind would be enough"
        if c.largest_share > 1 / math.sqrt(FEWEST):
            remedy = (
                f"one observation holds {100 * c.largest_share:.0f} % of a class: if it is a group that stands for "
                "strangers, leave it empty, so that its rows count one by one; limit weights that are so large"
            )
        return (
            f"{sides[side]:.2g} independent {side} observations in the certification slice, at least {FEWEST:g} are "
            f"needed; {remedy}"
        )
    if c.difference >= -allowed_loss > c.low and c.difference - c.low <= c.unseen and allowed_loss:
        return (
            f"these rows show no loss beyond what is allowed, but a fault that costs {allowed_loss:.5f} may be so rare that "
            f"{-math.log(1 - c.confidence) / c.unseen:,.0f} rows of a class do not show it; "
            f"about {rows_needed(c, allowed_loss) or math.inf:,} rows would be enough"
        )
    return ""


def rows_needed(comparison: Comparison, allowed_loss: float) -> int | None:
    """Rows of the same kind that would settle an inconclusive comparison with 90 % power, if the difference stays.

    A gain is not counted on: it is taken as no change. None when the difference is the allowed loss itself, or so near to
    it that seeds make more than what is between.
    """
    c = comparison
    if c.error is None or c.difference is None or c.unseen is None:
        return None
    margin = abs(min(c.difference, 0) + allowed_loss)
    left = margin**2 - smallest_margin(c.seed_error, 0, c.confidence) ** 2  # for the rows' part
    if left <= 0:
        return None
    error = math.sqrt(max(c.error**2 - c.seed_error**2, 0))
    return rows_for(c.rows, error, c.unseen, math.sqrt(left), c.confidence)


def rows_for(rows: int, error: float, unseen: float, margin: float, confidence: float) -> int:
    """Rows that put a bound `margin` away from the truth with 90 % power, where so many rows have this error.

    With the rows the error falls as 1 / sqrt(rows), what is unseen as 1 / rows: a quadratic equation.
    """
    chance = math.sqrt(ROOM) * float(stats.norm.ppf(POWER)) * error
    least = (chance + math.sqrt(chance**2 + 4 * unseen * margin)) / (2 * margin)
    return math.ceil(rows * max(smallest_margin(error, 0, confidence) / margin, least) ** 2)


def smallest_margin(error: float, unseen: float, confidence: float) -> float:
    """How far from the truth a bound lies at most, with 90 % power."""
    spread, chance = math.sqrt(ROOM) * error, float(stats.norm.ppf(POWER))
    return max((float(stats.norm.ppf(confidence)) + chance) * spread, unseen + chance * spread)


def _check_shapes(label: np.ndarray, *columns: np.ndarray | None) -> None:
    shapes = [np.shape(values) for values in (label, *columns) if values is not None]
    if any(shape != (len(label),) for shape in shapes):
        raise InputError(
            f"labels, weights, scores and groups must have one value a row, got shapes {', '.join(map(str, shapes))}; of "
            "several columns of scores give that of the label 1, as [:, 1]"
        )


def _check(label: np.ndarray, weight: np.ndarray, *scores: np.ndarray) -> None:
    strange = ~np.isin(label, (0, 1))
    if strange.any():
        raise InputError(
            f"labels must be 0 or 1, got {label[strange][0]}; write 1 where it happened, 0 where it did not"
        )
    wrong = ~np.isfinite(weight) | (weight < 0)
    if wrong.any():
        raise InputError(f"weights must be finite and not negative, got {weight[wrong][0]:g}")
    for name, score in zip(("full", "slim"), scores):
        bad = int((~np.isfinite(score)).sum())
        if bad:
            raise InputError(
                f"the {name} model scores {bad:,} of {len(score):,} rows as NaN or infinity; every row needs a finite "
                "score: train a model again that gives none"
            )
