"""Regions: stretches of a field's columns, normalised and weighed side by side; what searches for widths share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.errors import did_you_mean
from slimrec.gates.base import Gate
from slimrec.probes import is_probe
from slimrec.schema import Block, Schema
from slimrec.selection import Budget, Selection, within_budget

Columns = dict[str, tuple[int, ...]]

# Under the variance: no explosion of a constant column. Of new tables (variance 1e-4) it is a tenth, so that until they
# grow the scale of a table moves what comes out by up to 5 %.
_EPSILON = 1e-5
_MOMENTUM = 0.1  # of the running statistics, once ten batches are seen; before, their plain mean
_RULES = ("exponential", "linear", "uniform")


def candidate_widths(candidates: object, blocks: Sequence[Block], zero: bool) -> list[tuple[int, ...]]:
    """The widths that each field may have, ascending, ending in its native one.

    `candidates` is a rule, a list of widths (those beyond a field's native width do not concern it), or a mapping of
    field to either; fields it leaves out follow "exponential". Rules: "exponential" 0, 1, 2, 4, 8, ..., "linear"
    0, 1, 3, 6, 10, ..., "uniform" seven equal steps; they hold 0 where the method has a `zero` width.
    """
    if not isinstance(candidates, Mapping):
        return [_widths(candidates, block.width, zero) for block in blocks]
    names = [block.name for block in blocks]
    for name in candidates:
        if name not in names:
            raise ValueError(f"`candidates` names '{name}', which is not a field; {did_you_mean(str(name), names)}")
    return [_widths(candidates.get(block.name, "exponential"), block.width, zero) for block in blocks]


def _widths(rule: object, native: int, zero: bool) -> tuple[int, ...]:
    if isinstance(rule, str) and rule in _RULES:
        steps = {
            "exponential": [2**i for i in range(native.bit_length())],
            "linear": [i * (i + 1) // 2 for i in range(native + 1)],
            "uniform": range(0, native, math.ceil(native / 7)),
        }[rule]
        given = [0, *steps] if zero else list(steps)
    elif isinstance(rule, (list, tuple)) and rule and all(_is_width(width) for width in rule):
        given = [int(width) for width in rule]
        if 0 in given and not zero:
            raise ValueError(f"`candidates` holds width 0, but this method drops no field by width, got {rule!r}")
    else:
        raise ValueError(f"`candidates` must be one of {', '.join(_RULES)} or a list of widths, got {rule!r}")
    return (*sorted({width for width in given if width < native and (width or zero)}), native)


def _is_width(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0 and value == int(value)


class RegionGate(Gate, ABC):
    """Columns, batch-normalised, times the weight of their region: x -> w_m (x - mean) / deviation.

    A field with candidate widths d_1 < ... < d_K (the last one native) falls into K regions: region m holds the
    columns from d_(m-1) up to d_m, none if d_1 = 0. Every field with more than one candidate has K logits; fields
    with one have none and nothing to learn. Embedded fields and vectors have regions over their own columns, a
    number has the one column it is.

    Normalisation has no affine part. It uses the statistics of the batch while training and running ones afterwards,
    so that the frozen gate is an affine map and a cut is exact; a dropped column leaves its mean, which is zero. The
    running statistics are those of batches that step the gate.
    """

    shared = ("running_mean", "running_variance")

    def __init__(
        self, schema: Schema, embedding_dim: int, widths: Sequence[tuple[int, ...]], temperature: float, normalise: bool
    ):
        super().__init__(schema, embedding_dim)
        self.real = tuple(block for block in self.blocks if not is_probe(block.name))  # what there is to decide about
        self.widths, self.temperature, self.normalise = tuple(widths), temperature, normalise
        self.regions = [
            [tuple(range(lower, upper)) for lower, upper in zip((0, *each[:-1]), each)] for each in self.widths
        ]
        longest = max(map(len, self.widths))
        self.logits = nn.Parameter(torch.zeros(sum(len(each) for each in self.widths if len(each) > 1)))
        self.register_buffer("ends", torch.tensor([0.0, -math.inf]), persistent=False)  # an only region, and none
        self.register_buffer("place", self._places(longest), persistent=False)  # (F, K) in [logits, ends]
        of_column = [
            i * longest + m for i, field in enumerate(self.regions) for m, region in enumerate(field) for _ in region
        ]
        self.register_buffer("region_of", torch.tensor(of_column), persistent=False)  # (W,) in the flat (F * K)
        sizes = [[len(region) for region in field] + [0] * (longest - len(field)) for field in self.regions]
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float), persistent=False)  # c (F, K)
        self.register_buffer("observed", torch.zeros(()))  # batches in the running statistics
        self.register_buffer("running_mean", torch.zeros(len(self.owner)))
        self.register_buffer("running_variance", torch.ones(len(self.owner)))

    def _places(self, longest: int) -> Tensor:
        only, none, rows, next_logit = len(self.logits), len(self.logits) + 1, [], 0
        for each in self.widths:
            own = range(next_logit, next_logit + len(each)) if len(each) > 1 else [only]
            next_logit += len(each) if len(each) > 1 else 0
            rows.append([*own, *[none] * (longest - len(each))])
        return torch.tensor(rows)

    def softmax(self, values: Tensor) -> Tensor:
        """Softmax over the regions of each field: one value a logit -> (F, K), zero where a field has fewer than K."""
        return torch.cat([values, self.ends.to(values)])[self.place].softmax(1)

    def alpha(self) -> Tensor:
        """The weights (F, K) of the regions, adding up to 1 in each field."""
        return self.softmax(self.logits / self.temperature)

    def draw(self) -> Tensor:
        """The weights (F, K) of one training batch."""
        return self.alpha()

    def column_weights(self, alpha: Tensor) -> Tensor:
        """The weight (W,) of each column."""
        return alpha.flatten()[self.region_of]

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            scale, shift = self.affine()
            return torch.addcmul(shift, x, scale)
        if self.normalise:
            if self.logits.requires_grad:
                self._observe(x.detach())
            x = F.batch_norm(x, None, None, training=True, eps=_EPSILON)
        return x * self.column_weights(self.draw()).to(x.dtype)

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        variance, mean = torch.var_mean(x.to(self.running_mean.dtype), 0, correction=0)
        self.observed += 1
        share = (1 / self.observed).clamp(min=_MOMENTUM)
        self.running_mean.lerp_(mean, share)
        self.running_variance.lerp_(variance, share)

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.column_weights(self.alpha()).detach()
        if not self.normalise:
            return scale, torch.zeros_like(scale)
        scale = scale * (self.running_variance + _EPSILON).rsqrt()
        return scale, -self.running_mean * scale

    def masses(self) -> list[list[float]]:
        """The weights of each field's regions in double precision: what decisions are made of."""
        alpha = self.softmax(self.logits.detach().double() / self.temperature)
        return [row[: len(each)] for row, each in zip(alpha.tolist(), self.widths)]

    @abstractmethod
    def decide(self) -> Columns:
        """The method's own decision: the columns of each real field, none for a field that goes."""

    def fit(self, budget: Budget) -> Columns:
        """The decision under a budget of costs: fields by score at the widths decided, while they fit."""
        return self.take(self.decide(), budget)

    def take(self, columns: Columns, budget: Budget) -> Columns:
        """Fields of `columns` in order of score, each taken if it still fits."""
        columns = {name: kept for name, kept in columns.items() if kept} or {b.name: self.best(b) for b in self.real}
        cost, scores = {name: self.cost_of({name: kept}, budget) for name, kept in columns.items()}, self.scores()
        chosen = within_budget({name: scores[name] for name in columns}, cost, *budget.limit)
        return {name: kept for name, kept in columns.items() if name in chosen}

    def cost_of(self, columns: Columns, budget: Budget) -> float:
        """What these columns take of the budget; those of a field cost alike."""
        whole, width = self.takes(budget), {b.name: b.width for b in self.blocks}
        return sum(whole[name] * len(kept) / width[name] for name, kept in columns.items())

    def best(self, block: Block) -> tuple[int, ...]:
        """The columns of a field's heaviest region that has any; what stays of it at least."""
        at = self.blocks.index(block)
        masses = self.masses()[at]
        return self.regions[at][max((m for m in range(len(masses)) if self.regions[at][m]), key=masses.__getitem__)]

    def returning(self, block: Block) -> tuple[int, ...]:
        """The columns decided, as far as there are any."""
        return self.decide().get(block.name) or self.best(block) if block in self.real else block.columns

    def select(self, budget: Budget, seed: int) -> Selection:
        """Without a budget the method's own decision; `keep`, `fields` and `threshold` choose fields by score, which
        stay with the columns decided (at least one region); costs as `fit` says; keep: 1 keeps every column."""
        if budget.keep == 1:
            columns = {block.name: block.columns for block in self.real}
        elif budget.limit is not None:
            columns = self.fit(budget)
        else:
            columns = self.decide()
            if budget.model_dump(exclude_none=True) or not any(columns.values()):
                chosen = budget.choose(self.scores(), {}, threshold=1.0)
                columns = {b.name: columns[b.name] or self.best(b) for b in self.real if b.name in chosen}
        return self._pack(budget, seed, {block.name: columns.get(block.name, ()) for block in self.blocks})

    def evidence(self) -> dict[str, float]:
        """The weight of every region, by the width that it ends at."""
        return {
            f"width_{width}/{block.name}": mass
            for block, each, masses in zip(self.blocks, self.widths, self.masses())
            for width, mass in zip(each, masses)
        }
