"""The case: all that a judgement of two models rests on, gathered once from their rows; at any confidence it comes to one.

A report keeps it as sketch.json, in sums that name no row, and whoever reads it comes to the same judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from slimrec.config import EvaluateConfig, SliceConfig
from slimrec.errors import SecurityError
from slimrec.schema import Frozen
from slimrec.verdict import certify, losses, sketch, slices
from slimrec.verdict.certify import Comparison
from slimrec.verdict.decision import Veto, heed
from slimrec.verdict.losses import Facts, Loss, Rows
from slimrec.verdict.sketch import Sketch
from slimrec.written import parse

SLICE_FOLDS = 256  # of the sketch of one slice


class Judgement(NamedTuple):
    """What a case comes to; `slices` and `losses` as report.json holds them."""

    comparison: Comparison
    slices: list[Facts]
    losses: list[Facts]
    vetoes: list[Veto]

    def outcome(self, allowed_loss: float) -> tuple[str, str]:
        """`certified`, `rejected` or `inconclusive`, and the reason in one sentence, by the scores alone."""
        return heed(*certify.verdict(self.comparison, allowed_loss), self.vetoes)


@dataclass(frozen=True)
class Case:
    """What is known of all rows, of each slice (name, rows, allowed loss), of other losses; what slices with few rows do."""

    whole: Sketch
    slices: tuple[tuple[str, Sketch, float], ...]
    losses: tuple[Loss, ...]
    unproven: Literal["veto", "remark"]

    def judge(self, confidence: float) -> Judgement:
        """The judgement whose bounds hold with a confidence, those of slices all at once."""
        sliced = slices.judge(self.slices, confidence)
        others = losses.conclude(self.losses, confidence)
        vetoes = [slices.veto(sliced, self.unproven), losses.veto(others, self.unproven)]
        return Judgement(certify.conclude(self.whole, confidence), sliced, others, vetoes)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        parts = [{"name": name, "allowed": allowed, "sketch": part.plain()} for name, part, allowed in self.slices]
        kept = [loss.model_dump() for loss in self.losses]
        return {"whole": self.whole.plain(), "slices": parts, "losses": kept, "unproven_slices": self.unproven}


def gather(rows: Rows, config: EvaluateConfig, parts: Sequence[tuple[str, np.ndarray, SliceConfig]] = ()) -> Case:
    """The case of scored rows (n,) under the limits of `config`; `parts` are slices: name, rows bool (n,) and section.

    Raises InputError as `certify.compare` does.
    """
    whole, sliced = certify.gather(*rows).folded(), []
    for name, where, of in parts:
        sliced.append((name, certify.gather(*rows.only(where)).folded(SLICE_FOLDS), config.allowed(of)))
    others = losses.gather(rows, config.binding, config.ndcg_at, [(name, where) for name, where, _ in parts])
    return Case(whole, tuple(sliced), tuple(others), config.unproven_slices)


def plain(cases: Mapping[str, Case]) -> dict[str, Any]:
    """sketch.json: one case, called "", or one for each of several tasks."""
    return cases[""].plain() if "" in cases else {"tasks": {name: each.plain() for name, each in cases.items()}}


def read_all(plain: dict[str, Any]) -> dict[str, Case]:
    """What `plain` wrote; raises as `read`."""
    if not isinstance(plain.get("tasks"), dict):
        return {"": read(plain)}
    return {str(name): read(each) for name, each in plain["tasks"].items()}


class _Part(Frozen):
    name: str
    allowed: float = Field(ge=0)
    sketch: dict[str, Any]


class _Written(Frozen):
    """sketch.json."""

    whole: dict[str, Any]
    slices: tuple[_Part, ...]
    losses: tuple[Loss, ...]
    unproven_slices: Literal["veto", "remark"]


def read(plain: dict[str, Any]) -> Case:
    """A case from JSON; SecurityError where it is none, or where its parts do not add up to what it says itself."""
    written = parse(_Written, plain, SecurityError)
    parts = tuple((part.name, sketch.read(part.sketch), part.allowed) for part in written.slices)
    return Case(sketch.read(written.whole), parts, written.losses, written.unproven_slices)
