"""The shuffled copy of a batch: every field's rows in an order of their own, watched for how much that changes."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from slimrec.errors import ConfigError
from slimrec.gates.survey import Survey
from slimrec.schema import Schema

_MEMORY_ROWS = 1024  # past rows that the effective shuffle rate is measured against
_RATE_FLOOR = 0.9
_RATE_PATIENCE = 20  # gate steps before the rate is believed


def permutations(rows: int, pool: int, fields: int, generator: torch.Generator | None = None) -> Tensor:
    """Which row of the pool replaces each row of the batch, by field: (rows, fields), drawn anew.

    A random permutation of the pool, rotated by another amount for each field, so that every field's own is uniform
    and no two fields share one; independent draws would cost twice as much. Where there are more fields than rows,
    each run of `pool` fields has a permutation of its own. Drawn where the generator is, by default on the CPU or the
    default device's stream.
    """
    device = None if generator is None else generator.device
    draw = {"generator": generator, "device": device}
    runs = [(torch.randperm(pool, **draw), torch.randperm(pool, **draw)) for _ in range(0, fields, pool)]
    places, sources = torch.arange(rows, device=device)[:, None], []
    for run, (base, turns) in enumerate(runs):
        sources.append(base[(places + turns[: fields - run * pool]) % pool])
    return torch.cat(sources, dim=1)


class Run(NamedTuple):
    """Neighbouring columns of equally wide blocks: where they start, how wide a block is, and what moves each of them."""

    start: int
    width: int
    movers: Tensor  # (n,) numbers of the fields or gates that the n blocks belong to


def runs_of(owner: Tensor) -> list[Run]:
    """The blocks of the columns that belong to owner (W,), in order, equally wide neighbours together."""
    movers, widths = owner.unique_consecutive(return_counts=True)
    runs, start, sizes = [], 0, widths.tolist()
    for width, same in groupby(range(len(sizes)), key=sizes.__getitem__):
        members = list(same)
        runs.append(Run(start, width, movers[members[0] : members[-1] + 1]))
        start += width * len(members)
    return runs


def taken(pool: Tensor, sources: Tensor, runs: list[Run]) -> Tensor:
    """The blocks (B, W) of `pool` (P, W) from the rows `sources` (B, movers), each by what moves it.

    As `pool.gather(0, sources[:, owner])`, block by block and not number by number: a fifth of the time.
    """
    parts = []
    for start, width, movers in runs:
        count = len(movers)
        blocks = pool[:, start : start + count * width].reshape(-1, width)
        rows = sources.index_select(1, movers.to(sources.device)) * count + torch.arange(count, device=pool.device)
        parts.append(blocks.index_select(0, rows.reshape(-1)).view(len(sources), -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class ShuffleGate(Survey):
    """What gates share that mix a field with a shuffled copy of itself while they learn within a training.

    `reservoir` rows of earlier batches join the shuffle, for logs whose batches hold few users. Moving averages
    (`decay`, bias-corrected, weighted by row) of the distance between a row's block and its replacement, of that
    distance squared, and of the blocks; the exact mean over the gate slice follows when the training is over.
    """

    shared = ("distance_sum", "square_sum", "mean_sum", "changed", "compared")

    def __init__(self, schema: Schema, embedding_dim: int, decay: float, reservoir: int):
        super().__init__(schema, embedding_dim)
        if not 0 <= decay < 1 or reservoir < 0:
            raise ValueError(f"needs 0 <= decay < 1 and reservoir >= 0, got {decay=}, {reservoir=}")
        self.decay, self.reservoir = decay, int(reservoir)
        fields, width = len(self.blocks), len(self.owner)
        self.runs = runs_of(self.owner)
        membership = torch.zeros(width, fields)
        membership[torch.arange(width), self.owner] = 1
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("observed", torch.zeros(()))  # gate steps so far
        self.register_buffer("distance_sum", torch.zeros(fields))  # uncorrected moving averages
        self.register_buffer("square_sum", torch.zeros(fields))
        self.register_buffer("mean_sum", torch.zeros(width))
        self.register_buffer("changed", torch.zeros(2, fields))  # rows that changed: by shuffling, against the past
        self.register_buffer("compared", torch.zeros(()))  # rows looked at for that
        self.register_buffer("past", torch.zeros(self.reservoir, width))
        self.register_buffer("past_marks", torch.zeros(max(self.reservoir, _MEMORY_ROWS), fields, dtype=torch.double))
        self.register_buffer("past_rows", torch.zeros((), dtype=torch.long))
        self._add_mark_weights()

    def _add_mark_weights(self) -> None:
        """Weights that turn a field's ids or dense columns into one number, equal where and only where they are."""
        generator = torch.Generator().manual_seed(0)
        slots = [i for i, block in enumerate(self.blocks) for _ in range(self.schema[block.name].slots)]
        marks_ids = torch.zeros(len(slots), len(self.blocks), dtype=torch.double)
        marks_ids[torch.arange(len(slots)), slots] = torch.rand(len(slots), generator=generator, dtype=torch.double) + 1
        dense = torch.tensor([not self.schema[block.name].embedded for block in self.blocks])[self.owner]
        weights = torch.rand(len(self.owner), generator=generator, dtype=torch.double) + 1
        self.register_buffer("marks_ids", marks_ids, persistent=False)
        self.register_buffer("marks_dense", self.membership.double() * (weights * dense)[:, None], persistent=False)

    def permutations(self, rows: int, pool: int) -> Tensor:
        """As the function of this name, on the gate's device, from the training's own stream."""
        with self.owner.device:
            return permutations(rows, pool, len(self.blocks))

    def shuffled(self, x: Tensor, ids: Tensor, watch: bool) -> Tensor:
        """What replaces the blocks `x` (B, W); `watch` updates the averages."""
        pool = x.detach()
        if self.reservoir:
            pool = torch.cat([pool, self.past[: int(self.past_rows.clamp(max=self.reservoir))].to(pool.dtype)])
        rows = self.permutations(len(x), len(pool))
        noise = taken(pool, rows, self.runs)
        if watch:
            self._observe(x.detach(), noise, ids, rows)
        return noise

    @torch.no_grad()
    def _observe(self, x: Tensor, noise: Tensor, ids: Tensor, rows: Tensor) -> None:
        """Update the moving averages of distances and changed rows."""
        squares = (x - noise).to(self.membership.dtype).square() @ self.membership
        weight = torch.ones(len(x), device=x.device) if self.row_weight is None else self.row_weight
        share = weight.to(squares)
        share = share / share.sum().clamp(min=1e-12)
        self.observed += 1
        self.distance_sum.lerp_(share @ squares.sqrt(), 1 - self.decay)
        self.square_sum.lerp_(share @ squares, 1 - self.decay)
        self.mean_sum.lerp_(share @ x.to(squares.dtype), 1 - self.decay)
        marks = ids.double() @ self.marks_ids + x.double() @ self.marks_dense
        filled = int(self.past_rows.clamp(max=len(self.past_marks)))
        pool = torch.cat([marks, self.past_marks[: min(filled, self.reservoir)]]) if self.reservoir else marks
        if filled:
            against = self.past_marks[torch.randint(filled, (len(marks),), device=marks.device)]
            self.changed += torch.stack([(marks != pool.gather(0, rows)).sum(0), (marks != against).sum(0)])
            self.compared += len(marks)
        self._remember(x, marks)

    def _remember(self, x: Tensor, marks: Tensor) -> None:
        """Overwrite the oldest remembered rows with a share of this batch, so that the past spans many batches."""
        share = max(1, min(len(x), len(self.past_marks) // 16))
        chosen = torch.randperm(len(x), device=x.device)[:share]
        places = (self.past_rows + torch.arange(share, device=x.device)) % len(self.past_marks)
        self.past_marks[places] = marks[chosen]
        if self.reservoir:
            fit = places < self.reservoir
            self.past[places[fit]] = x[chosen][fit].to(self.past.dtype)
        self.past_rows += share

    def _corrected(self, average: Tensor) -> Tensor:
        return average / (1 - self.decay**self.observed).clamp(min=1e-12)

    def distance(self) -> Tensor:
        """Moving average (F,) of the mean distance between a block and its replacement."""
        return self._corrected(self.distance_sum)

    def relative_distance(self) -> Tensor:
        """The same over the root of the mean squared distance (F,), in 0..1: it knows neither width nor scale."""
        return self.distance() / self._corrected(self.square_sum).sqrt().clamp(min=1e-12)

    def fill(self) -> Tensor:
        """The mean of each column (W,): while the gate learns, as far as is known."""
        return self.mean if self.rows else self._corrected(self.mean_sum)

    def step(self, progress: float) -> None:
        rates = self.effective_shuffle_rates()
        # three standard deviations of a ratio of counts; the past that a rate rests on is no larger than what was
        # remembered, however often it is compared with
        seen = self.changed[1] / self.compared.clamp(min=1) * self.past_rows
        doubt = 3 * (2 / seen.clamp(min=1)).sqrt()
        if self.observed >= _RATE_PATIENCE and (rates + doubt).min() < _RATE_FLOOR:
            worst = int((rates + doubt).argmin())
            raise ConfigError(
                f"shuffling within a batch changes field '{self.blocks[worst].name}' in only {rates[worst]:.0%} of the "
                f"rows it should (batches hold few groups): use shuffle: window, a larger batch, or "
                f"reservoir: {16 * _MEMORY_ROWS} in the method's options"
            )

    def effective_shuffle_rates(self) -> Tensor:
        """By field, rows that a shuffle changes over those that rows from other batches would change; at most 1."""
        within, against = self.changed
        return torch.where(against > 0, within / against.clamp(min=1), torch.ones_like(within)).clamp(max=1)
