"""Other losses that people steer by, of full and slim on the same rows: log-loss, calibration, grouped AUC, NDCG, with bounds.

Each is a ratio of sums over clusters, of which the slim model may be the worse one by so much; the bounds are those of the
certificate (`slimrec.verdict.certify.reach`), and leave the same room for a fault that no row shows. They are concluded from
few sums, `Moments`, which a report keeps. Every bound holds by itself with its confidence, those of calibration in slices
all at once. Where several losses are binding all must pass, and
a model that is too bad in one passes all no more often than it passes that one (Berger 1982).

`calibration` is |predicted / observed - 1| over all rows. `grouped_auc` is the AUC within each group, a mean weighted by the
group's rows (Zhu et al. 2017, "Optimized cost per click in Taobao display advertising"), `ndcg` that of Järvelin and
Kekäläinen (2002) with a group as query; groups with rows of one class only tell neither apart and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from slimrec.metrics import probability
from slimrec.schema import Frozen
from slimrec.verdict import seeds
from slimrec.verdict.certify import reach
from slimrec.verdict.decision import Veto
from slimrec.verdict.evidence import FEWEST, Clusters, clusters

Facts = dict[str, Any]
TITLES = {"log_loss": "log-loss", "calibration": "calibration", "grouped_auc": "AUC within groups", "ndcg": "NDCG"}
_SIGNS = tuple(product((1, -1), (1, -1)))


class Rows(NamedTuple):
    """What is judged: arrays (n,)."""

    label: np.ndarray  # 0 or 1
    full: np.ndarray  # logits
    slim: np.ndarray
    weight: np.ndarray
    group: np.ndarray | None
    content: np.ndarray | None  # uint64 keys of what rows hold, to find copies
    retrained: np.ndarray | None = None  # (n, 2, N): logits of full and slim by further trainings

    def only(self, rows: np.ndarray) -> Rows:
        """Some of them, bool (n,)."""
        return Rows(*(None if column is None else column[rows] for column in self))  # type: ignore[arg-type]

    def carrying(self) -> Rows:
        """Those with a weight above zero, and labels as booleans."""
        return self.only(self.weight > 0)._replace(label=self.label[self.weight > 0] == 1)

    def scores(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Logits (n,) of full and of slim, by each training."""
        more = () if self.retrained is None else np.moveaxis(self.retrained, 0, -1).swapaxes(0, 1)
        return [self.full, *(full for full, _ in more)], [self.slim, *(slim for _, slim in more)]

    def clusters(self) -> Clusters:
        """What counts as one observation."""
        scores = np.column_stack([self.full, self.slim]).astype(np.float64)
        return clusters(self.label, self.weight.astype(np.float64), scores, self.group, self.content)


class Moments(Frozen):
    """What the bounds of a ratio of sums over clusters are concluded from."""

    value: float
    clusters: int = Field(ge=0)
    present: int = Field(ge=2)  # those that carry weight
    powers: tuple[float, float, float]  # sums of the second, third and fourth power of what each adds to its error
    worst: float = Field(ge=0)  # what a fault may cost a row
    worth: float = Field(gt=0)  # even rows, of which none shows such a fault
    effective: float = Field(gt=0)  # even clusters that would tell as much
    values: tuple[float, ...]  # of each training where there were several, see `slimrec.verdict.seeds`


class Loss(Frozen):
    """One loss of both models, and all that its bounds take."""

    name: str
    full: float | None
    slim: float | None
    allowed: float | None = Field(ge=0)  # None: not binding
    among: int = Field(ge=1)  # bounds that hold all at once, this being one
    moments: tuple[Moments, ...]  # one of a ratio, four of calibration (see `_calibrated`), none where nothing is told

    @field_validator("moments")
    @classmethod
    def _of_one_kind(cls, moments: tuple[Moments, ...]) -> tuple[Moments, ...]:
        if len(moments) not in (0, 1, len(_SIGNS)):
            raise ValueError("a loss has one ratio, or four of calibration")
        return moments


class Bounds(NamedTuple):
    """How much worse the slim model is: the estimate, and between what it lies; `effective`: even clusters behind it."""

    worse: float
    least: float
    most: float
    effective: float


def gather(rows: Rows, binding: Mapping[Any, float], at: int, slices: Sequence[tuple[str, np.ndarray]]) -> list[Loss]:
    """The losses over all rows, and calibration in slices, which are names and rows bool (n,). `at`: the places of NDCG."""
    kept = [(name, binding.get(name), 1, told) for name, told in _whole(rows.carrying(), at)]
    for name, where in slices:
        part = rows.only(where).carrying()
        told = _calibration(part, part.clusters())
        kept.append((f"calibration of {name}", binding.get("slice_calibration"), len(slices), told))
    return [
        Loss(name=name, full=full, slim=slim, allowed=allowed, among=among, moments=moments)
        for name, allowed, among, (full, slim, moments) in kept
    ]


def conclude(found: Sequence[Loss], confidence: float) -> list[Facts]:
    """What report.json holds of each loss: `full`, `slim`, `worse` and its bounds `least` and `most`, what is `allowed`.

    `verdict` is certified, rejected, open or scarce, "" where the loss is not binding. Losses without a value are left out,
    unless binding.
    """
    facts = [_facts(loss, 1 - (1 - confidence) / loss.among) for loss in found]
    return [each for each in facts if each["worse"] is not None or each["allowed"] is not None]


def _facts(loss: Loss, confidence: float) -> Facts:
    bounds = (_calibrated if len(loss.moments) > 1 else _bounds)(loss.moments, confidence) if loss.moments else None
    verdict = ""
    if loss.allowed is not None:
        verdict = "scarce"
        if bounds is not None and bounds.effective >= FEWEST:
            passed = bounds.most <= loss.allowed
            verdict = "certified" if passed else "rejected" if bounds.least > loss.allowed else "open"
    worse, least, most = (None, None, None) if bounds is None else bounds[:3]
    figures = {"full": loss.full, "slim": loss.slim, "worse": worse, "least": least, "most": most}
    return {"name": loss.name, **figures, "allowed": loss.allowed, "verdict": verdict}


def _bounds(moments: Sequence[Moments], confidence: float) -> Bounds:
    (m,) = moments
    _, down, up = reach(m.clusters, m.powers, m.present - 1, confidence)
    _, (down, up) = seeds.widen(m.values, down, up, confidence)
    unseen = -math.log(1 - confidence) / m.worth * m.worst
    return Bounds(m.value, m.value - max(down, unseen), m.value + max(up, unseen), m.effective)


def _calibrated(moments: Sequence[Moments], confidence: float) -> Bounds:
    """Bounds of |b| - |a| from those of s b - t a, for all `_SIGNS` (s, t), which are smooth where either is near 0.

    It is the larger of b and -b less |a|, and each of these is at most what is left of it by a and by -a.
    """
    level = 1 - (1 - confidence) / 2  # two bounds have a say in each
    known = {sign: _bounds((each,), level) for sign, each in zip(_SIGNS, moments)}
    most = max(min(known[s, t].most for t in (1, -1)) for s in (1, -1))
    least = min(max(known[s, t].least for s in (1, -1)) for t in (1, -1))
    sides = [(moments[0].value - moments[1].value) / 2, (moments[0].value + moments[1].value) / 2]  # a with its sign, b
    return Bounds(abs(sides[1]) - abs(sides[0]), least, most, moments[0].effective)


Told = tuple[float | None, float | None, tuple[Moments, ...]]  # full, slim, and how they differ


def _whole(rows: Rows, at: int) -> Iterator[tuple[str, Told]]:
    found = rows.clusters()
    yield "log_loss", _log_loss(rows, found)
    yield "calibration", _calibration(rows, found)
    if rows.group is not None and len(rows.group):
        groups = np.unique(rows.group, return_inverse=True)[1]
        mass = np.bincount(groups, rows.weight)
        values = [[within(groups, rows.label, score, rows.weight) for score in side] for side in rows.scores()]
        yield "grouped_auc", _by_group(values, mass, found)
        values = [[ndcg(groups, rows.label, score, at) for score in side] for side in rows.scores()]
        yield "ndcg", _by_group(values, mass / np.bincount(groups), found)


def _log_loss(rows: Rows, found: Clusters) -> Told:
    if not len(rows.label):
        return None, None, ()
    parts = [[np.logaddexp(0, np.where(rows.label, -score, score)) for score in side] for side in rows.scores()]
    worst = max(float(part.max()) for side in parts for part in side)
    full, slim = (float(np.average(np.mean(side, axis=0), weights=rows.weight)) for side in parts)
    above = [np.bincount(found.of_row, rows.weight * (other - one)) for one, other in zip(*parts)]
    return full, slim, _ratio(above, np.bincount(found.of_row, rows.weight), worst, found)


def _calibration(rows: Rows, found: Clusters) -> Told:
    observed = rows.weight * rows.label
    if not observed.any():
        return None, None, ()
    total = float(observed.sum())
    chances = [[probability(score) for score in side] for side in rows.scores()]
    parts = [[np.bincount(found.of_row, rows.weight * (chance - rows.label)) for chance in side] for side in chances]
    full, slim = (float(np.mean([part.sum() for part in side])) / total for side in parts)
    worst = max(float(chance.max()) for side in chances for chance in side) * float(rows.weight.sum()) / total
    below = np.bincount(found.of_row, observed)
    ratios = (_ratio([s * b - t * a for a, b in zip(*parts)], below, worst, found) for s, t in _SIGNS)
    return full, slim, sum(ratios, ())


def _by_group(values: Sequence[Sequence[np.ndarray]], mass: np.ndarray, found: Clusters) -> Told:
    """Means over groups of what is NaN for those that tell nothing; of a quality, so that a fall is worse.

    `values` are those of full and slim, (g,) by each training.
    """
    (some, *_), _ = values
    there = ~np.isnan(some)
    if not there.any():
        return None, None, ()
    parts = [[each[there] for each in side] for side in values]
    mass = mass[there]
    full, slim = (float(np.average(np.mean(side, axis=0), weights=mass)) for side in parts)
    return full, slim, _ratio([mass * (one - other) for one, other in zip(*parts)], mass, 1.0, found)


def _ratio(aboves: Sequence[np.ndarray], below: np.ndarray, worst: float, found: Clusters) -> tuple[Moments, ...]:
    """The moments of sum(above) / sum(below) over independent clusters (m,); none where fewer than two carry weight.

    `aboves` are those of each training, of which the mean counts; `worst` is what a fault may cost a row.
    """
    total, present = float(below.sum()), int(np.count_nonzero(below))
    if present < 2:
        return ()
    above = np.mean(aboves, axis=0)
    value, share = float(above.sum()) / total, below / total
    sums = (above - value * below) / total * math.sqrt((present - 1) / present) / np.maximum(1 - share, 1e-9)
    second, third, fourth = (float((sums**power).sum()) for power in (2, 3, 4))
    kept = Moments(
        value=value,
        clusters=len(sums),
        present=present,
        powers=(second, third, fourth),
        worst=worst,
        worth=sum(found.worth.values()),
        effective=1 / float(np.square(share).sum()),
        values=tuple(float(each.sum()) / total for each in aboves) if len(aboves) > 1 else (),
    )
    return (kept,)


def within(groups: np.ndarray, label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted AUC of each group (g,), numbered from 0 in `groups` (n,); NaN where it has one class. Ties count one half."""
    order = np.lexsort((score, groups))
    of, mine, mass = groups[order], label[order], weight[order]
    level = _levels(of, score[order])
    positive, negative = (np.bincount(level, np.where(mine == own, mass, 0)) for own in (True, False))
    owner = of[np.unique(level, return_index=True)[1]]
    positives, negatives = (np.bincount(owner, part) for part in (positive, negative))
    before = np.cumsum(negative) - negative / 2 - (np.cumsum(negatives) - negatives)[owner]
    right = np.bincount(owner, positive * before)
    told = (positives > 0) & (negatives > 0)
    return right / np.where(told, positives * negatives, np.nan)


def _levels(groups: np.ndarray, score: np.ndarray) -> np.ndarray:
    """A number for each row (n,), in the order of groups and of scores in them, the same for equal scores of a group."""
    first = np.diff(groups, prepend=groups[:1]) != 0
    return np.cumsum(first | (np.diff(score, prepend=score[:1]) != 0))


def ndcg(groups: np.ndarray, label: np.ndarray, score: np.ndarray, at: int) -> np.ndarray:
    """NDCG over the first `at` places of each group (g,), NaN where it has one class; equal scores share their places."""
    order = np.lexsort((-score, groups))
    of, mine = groups[order], label[order]
    sizes = np.bincount(groups)
    place = np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
    discount = np.where(place < at, 1 / np.log2(place + 2), 0)
    level = _levels(of, score[order])
    shared = (np.bincount(level, discount) / np.bincount(level))[level]
    best = np.append(np.nan, np.cumsum(1 / np.log2(np.arange(at) + 2)))  # by positives, none of no positive
    positives = np.bincount(of, mine).astype(np.int64)
    ideal = np.where(positives < sizes, best[np.minimum(positives, at)], np.nan)
    return np.bincount(of, mine * shared) / ideal


def veto(found: Sequence[Facts], unproven: Literal["veto", "remark"]) -> Veto:
    """What binding losses say against certifying the whole; `unproven` is of slices with too few rows."""
    found = [each for each in found if each["verdict"] != "scarce" or each["name"] in TITLES or unproven == "veto"]
    by = {kind: [each for each in found if each["verdict"] == kind] for kind in ("rejected", "open", "scarce")}
    if by["rejected"]:
        worst = max(by["rejected"], key=lambda each: each["least"] / max(each["allowed"], 1e-9))
        told = f"is worse by at least {worst['least']:.5f}, and {worst['allowed']:.5f} is allowed"
        return Veto("rejected", f"{titled(worst['name'])} {told}")
    if by["open"]:
        told = f"may be worse by {by['open'][0]['most']:.5f}, and {by['open'][0]['allowed']:.5f} is allowed"
        return Veto("inconclusive", f"{titled(by['open'][0]['name'])} {told}")
    if by["scarce"]:
        return Veto(
            "inconclusive", f"{titled(by['scarce'][0]['name'])} has too little evidence in the certification slice"
        )
    return Veto("", "")


def titled(name: str) -> str:
    """A loss as people call it."""
    return TITLES.get(name, name)
