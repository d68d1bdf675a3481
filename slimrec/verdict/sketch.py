"""What a comparison keeps of its rows: sums by cluster, in order of size and without a name; a verdict is replayed from them.

A fold is one cluster, or several that lie next to each other in the order of what they add to the difference. What a
comparison is concluded from are sums over all folds, so that it is the same however many clusters a fold holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from slimrec.errors import SecurityError
from slimrec.schema import Frozen
from slimrec.verdict.evidence import Clusters
from slimrec.written import parse

MOST_FOLDS = 4096  # in a file
SAME = 1e-9  # what rounding may do to a sum
SIDES = {True: "positive", False: "negative"}
MODELS = ("full", "slim")
_POWERS = ("first", "second", "third", "fourth")
_SIDED = ("present", "share", "squared", "largest", *MODELS)
FOLDS = ("clusters", *_POWERS, *(f"{side}_{what}" for side in SIDES.values() for what in _SIDED))
_ORDER = ("first", *(f"{side}_{what}" for side in SIDES.values() for what in ("share", *MODELS)))


@dataclass(frozen=True)
class Sketch:
    """Figures of all rows, and of each fold an entry of `folds`, arrays (m,).

    `clusters` in the fold; `first` to `fourth`: sums of powers of what its clusters add to the difference; and of each
    class, `positive_` or `negative_`: `present` clusters with such a row, `share` of the class's weight, its `squared` sum
    over clusters, the `largest` of one cluster, and what `full` and `slim` add to the AUC: the weight of its rows times how
    much of the other class's weight they are on the right side of.
    """

    rows: int  # with a weight above zero
    copies: int
    full_auc: float | None  # None where only one class is there
    slim_auc: float | None
    positive_worth: float  # even rows, copies once, that would weigh as much
    negative_worth: float
    folds: dict[str, np.ndarray]
    differences: tuple[float, ...] = ()  # in AUC, of each training where there were several
    mixed: float = 0.0  # see `slimrec.verdict.seeds`

    @cached_property
    def count(self) -> int:
        """Clusters."""
        return int(self.folds["clusters"].sum())

    @cached_property
    def present(self) -> dict[bool, int]:
        """Clusters with a row of the class."""
        return {own: int(self.folds[f"{side}_present"].sum()) for own, side in SIDES.items()}

    @cached_property
    def effective(self) -> dict[bool, float]:
        """By class: 1 / sum of squared shares, the number of even clusters that would tell as much; 0 of nothing."""
        squares = {own: float(self.folds[f"{side}_squared"].sum()) for own, side in SIDES.items()}
        return {own: float(1 / square if square else 0) for own, square in squares.items()}

    @cached_property
    def largest_share(self) -> float:
        """Of either class's weight, in one cluster."""
        return float(max(self.folds[f"{side}_largest"].max(initial=0) for side in SIDES.values()))

    @cached_property
    def powers(self) -> tuple[float, float, float]:
        """Sums over clusters of the second, third and fourth power of what each adds to the difference."""
        second, third, fourth = (float(self.folds[name].sum()) for name in _POWERS[1:])
        return second, third, fourth

    def folded(self, most: int = MOST_FOLDS) -> Sketch:
        """The same in `most` folds at most; one whose folds are single clusters yet is put into a stable order."""
        size = len(self.folds["clusters"])
        order = np.lexsort([self.folds[name] for name in reversed(_ORDER)])
        starts = np.unique(np.linspace(0, size, min(most, size), endpoint=False).astype(np.int64))
        joined = {
            name: (np.maximum if name.endswith("_largest") else np.add).reduceat(values[order], starts)
            for name, values in self.folds.items()
        }
        return replace(self, folds=joined)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        folds = {name: values.tolist() for name, values in self.folds.items()}
        return {name: getattr(self, name) for name in _Written.model_fields if name != "folds"} | {"folds": folds}


class _Written(Frozen, strict=True):
    """sketch.json."""

    rows: int = Field(ge=0)
    copies: int = Field(ge=0)
    full_auc: float | None = Field(ge=0, le=1)
    slim_auc: float | None = Field(ge=0, le=1)
    positive_worth: float = Field(ge=0)
    negative_worth: float = Field(ge=0)
    folds: dict[str, list[Annotated[int, Field(ge=0)] | float]]
    differences: tuple[Annotated[float, Field(ge=-1, le=1)], ...] = Field(strict=False)
    mixed: float = Field(ge=0)

    @model_validator(mode="after")
    def _check_folds(self) -> Self:
        sizes = {len(values) for values in self.folds.values()}
        if set(self.folds) != set(FOLDS) or len(sizes) != 1 or max(sizes) > MOST_FOLDS:
            raise ValueError(f"`folds` must be {', '.join(FOLDS)}, each with as many figures, {MOST_FOLDS} at most")
        return self


def read(plain: Any) -> Sketch:
    """A sketch from JSON; SecurityError where it is none, or where its parts do not add up to what it says itself."""
    written = parse(_Written, plain, SecurityError)
    folds = {name: np.array(values, np.float64) for name, values in written.folds.items()}
    found = Sketch(**{**dict(written), "folds": folds})
    if wrong := _contradiction(found):
        raise SecurityError(f"the sketch of the verdict contradicts itself: {wrong}")
    return found


def _contradiction(found: Sketch) -> str:
    """What does not add up, "" where all does."""
    folds = found.folds
    if (found.full_auc is None) != (found.slim_auc is None):
        return "one model has an AUC and the other none"
    for side in SIDES.values() if found.full_auc is not None else ():
        if not np.isclose(folds[f"{side}_share"].sum(), 1, rtol=0, atol=SAME):
            return f"the shares of the {side} class do not sum to 1"
        for model in MODELS:
            if not np.isclose(folds[f"{side}_{model}"].sum(), getattr(found, f"{model}_auc"), rtol=0, atol=SAME):
                return f"the parts of the {side} class do not sum to the {model} model's AUC"
    if len(found.differences) == 1:
        return "there is one training, and figures of several"
    if found.differences and found.full_auc is not None and found.slim_auc is not None:
        whole = found.slim_auc - found.full_auc
        if not np.isclose(np.mean(found.differences), whole, rtol=0, atol=SAME):
            return "the mean over trainings is not the difference in AUC"
    single = folds["clusters"] == 1
    for power, name in enumerate(_POWERS, 1):
        if not np.allclose(folds[name][single], folds["first"][single] ** power, rtol=SAME, atol=0):
            return f"the {name} powers of single clusters are not those of their first"
    return ""


def sketch(
    found: Clusters, label: np.ndarray, auc: dict[str, float], influences: dict[str, np.ndarray], sums: np.ndarray
) -> Sketch:
    """The sketch of rows with labels (n,), a fold a cluster, in the order of `found`.

    `auc` and `influences` (n,) are by model, empty where only one class is there; `sums` (count,) is what each cluster adds
    to the difference.
    """
    folds: dict[str, np.ndarray] = {"clusters": np.ones(found.count, np.int64)}
    squares = np.square(sums)
    folds |= {"first": sums, "second": squares, "third": squares * sums, "fourth": np.square(squares)}
    for own, side in SIDES.items():
        mine = label == own
        share = found.share[own]
        folds[f"{side}_present"] = (np.bincount(found.of_row[mine], minlength=found.count) > 0).astype(np.int64)
        folds |= {f"{side}_share": share, f"{side}_squared": np.square(share), f"{side}_largest": share}
        for model in MODELS:
            part = np.zeros(found.count)
            if auc:
                part = np.bincount(found.of_row[mine], influences[model][mine], found.count) + share * auc[model]
            folds[f"{side}_{model}"] = part
    return Sketch(
        len(label), found.copies, auc.get("full"), auc.get("slim"), found.worth[True], found.worth[False], folds
    )
