"""i-Razor (arXiv 2204.00281): disjoint regions of a field's columns compete with a region of none; what wins stays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from slimrec.gates.regions import Columns, RegionGate, candidate_widths
from slimrec.probes import is_probe
from slimrec.schema import Schema, blocks_of
from slimrec.selection import Budget

_TOLERANCE = 1e-6  # softmax sums to 1 only up to rounding
_CODE_WEIGHT = 0.01  # of every field in the penalty of the released code
_CODE_SCALE = 1.001**-0.5  # of its normalisation, which runs in inference mode with variance 1 and epsilon 0.001


def chosen_regions(alpha: Sequence[float], cpt: float, reference: str | None = "paper") -> tuple[int, ...]:
    """Algorithm 1: regions in order of weight until their cumulative probability reaches the threshold `cpt`.

    `alpha` holds a field's weights by region; returns region numbers, ascending, that of the zero region among them.
    cpt 0 takes the heaviest alone, cpt 1 takes all; of equal weights the first region comes first. The released code
    rounds to 4 decimals, wants the threshold exceeded, and takes nothing where no sum exceeds it.
    """
    code = reference == "code"
    if cpt >= 1 and not code:
        return tuple(range(len(alpha)))
    masses = [round(mass, 4) for mass in alpha] if code else list(alpha)
    order = sorted(range(len(masses)), key=lambda m: -masses[m])
    for count, total in enumerate(accumulate(masses[m] for m in order), start=1):
        if total > cpt if code else total >= cpt - _TOLERANCE:
            return tuple(sorted(order[:count]))
    return () if code else tuple(range(len(alpha)))


class IRazorGate(RegionGate):
    """Columns, batch-normalised, times the softmax weight of their region; a region without columns stands for "drop".

    Penalty: lambda_ * sum_i share_i * sum_m c_m alpha_im, the expected width, weighed by the field's share of all
    table rows (`lp_weight: cardinality`; fields without a table count one row) or evenly (`uniform`). Decision: the
    columns of `chosen_regions` at `cpt`, so a width need neither be a candidate nor the columns a prefix. A field's
    score is the weight of its regions with columns. Budgets of costs (`dims`, bytes, time) take the largest `cpt` whose
    columns fit.

    `temperature`, `lambda_` and `cpt` are those of the paper for Avazu, `learning_rate` that of the released search.
    The paper trains gate and network together on the training rows, epoch after epoch: that is `reference: paper`. By
    default the gate steps on held-out rows at every `every`-th step, because on memorised rows it keeps noise. Search
    for one pass either way: in later epochs held-out rows also turn against useful fields that the network overfits
    (users of MovieLens-1M at temperature 0.2: score 0.96 after one epoch, 0.25 after four). The paper retrains from
    scratch (`finetune.start: fresh`); going on from the pruned weights is an extension. Where fields of unequal width
    meet, the paper maps each to one width by a learned matrix, which is the option `projection` of deepfm, pnn and
    xdeepfm (here the search has these maps too); by default columns that a field lacks count as zeros.

    `reference: code` is the released program where it differs: normalisation that does nothing, 0.01 a field in
    the penalty, the threshold to be exceeded by rounded weights, on training rows as the paper. Feeding one branch of a
    network ungated is not copied.
    """

    method = "irazor"
    tells_noise = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        candidates: str | Sequence[int] | Mapping[str, str | Sequence[int]] = "exponential",
        temperature: float = 0.05,
        lambda_: float = 1e-4,
        lp_weight: Literal["cardinality", "uniform"] = "cardinality",
        cpt: float = 0.45,
        embedding_bn: bool = True,
        reference: Literal["paper", "code"] | None = None,
        learning_rate: float = 0.01,
        stream: Literal["gate", "first", "train"] | None = None,  # gate; of paper and code train
        every: int = 4,
        warmup: float = 0.0,
    ):
        if temperature <= 0 or lambda_ < 0 or not 0 <= cpt <= 1:
            raise ValueError(
                f"needs temperature > 0, lambda_ >= 0 and 0 <= cpt <= 1, got {temperature=}, {lambda_=}, {cpt=}"
            )
        if lp_weight not in ("cardinality", "uniform") or reference not in (None, "paper", "code"):
            raise ValueError(
                f"`lp_weight` is cardinality or uniform, `reference` paper, code or not there, got {lp_weight!r} and "
                f"{reference!r}"
            )
        widths = candidate_widths(candidates, blocks_of(schema, embedding_dim), zero=True)
        super().__init__(schema, embedding_dim, widths, temperature, normalise=embedding_bn and reference != "code")
        self.published = reference is not None
        self.drive(stream or ("train" if self.published else "gate"), every, learning_rate, warmup)
        self.lambda_, self.cpt, self.reference = lambda_, cpt, reference
        self.factor = _CODE_SCALE if embedding_bn and reference == "code" else 1.0
        rows = torch.tensor([float(field.rows) if field.embedded else 1.0 for field in schema.fields])
        real = torch.tensor([not is_probe(field.name) for field in schema.fields])  # probes weigh what their fields do
        even = torch.full_like(rows, _CODE_WEIGHT if reference == "code" else 1 / float(real.sum()))
        cardinality = lp_weight == "cardinality" and reference != "code"
        self.register_buffer("shares", rows / rows[real].sum() if cardinality else even, persistent=False)

    def column_weights(self, alpha: Tensor) -> Tensor:
        return self.factor * super().column_weights(alpha)

    def penalty(self) -> Tensor:
        return self.lambda_ * (self.shares * (self.sizes * self.alpha()).sum(1)).sum()

    def scores(self) -> dict[str, float]:
        return {
            block.name: min(1.0, sum(mass for mass, region in zip(masses, regions) if region))
            for block, masses, regions in zip(self.blocks, self.masses(), self.regions)
        }

    def decide(self) -> Columns:
        return self.columns_at(self.cpt)

    def columns_at(self, cpt: float) -> Columns:
        """The columns of each real field that stay at this threshold."""
        chosen = {
            block: tuple(c for m in chosen_regions(masses, cpt, self.reference) for c in regions[m])
            for block, masses, regions in zip(self.blocks, self.masses(), self.regions)
        }
        return {block.name: chosen[block] for block in self.real}

    def fit(self, budget: Budget) -> Columns:
        levels, (_, limit) = self.levels(), budget.limit
        fitting = bisect_right(levels, limit, key=lambda cpt: self.cost_of(self.columns_at(cpt), budget))
        columns = self.columns_at(levels[fitting - 1]) if fitting else {}
        return columns if any(columns.values()) else self.take(self.columns_at(0.0), budget)

    def levels(self) -> list[float]:
        """The thresholds, ascending, between which the decision does not change; sizes grow along them."""
        code, ends, sums = self.reference == "code", [], {0.0}
        for masses in self.masses():
            ordered = sorted((round(mass, 4) for mass in masses) if code else masses, reverse=True)
            running = list(accumulate(ordered))
            sums.update(running)
            ends.append(running[-1])
        return sorted(cpt for cpt in sums if cpt < min(ends)) if code else [*sorted(s for s in sums if s < 1), 1.0]
