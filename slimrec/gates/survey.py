"""Surveys: methods that leave training alone and score the fields of the trained model, or of the data, on gate rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.gates.base import Gate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection

if TYPE_CHECKING:
    from slimrec.batch import Batch

Batches = Callable[[], "Iterable[Batch]"]


class Survey(Gate):
    """The identity while the model trains; afterwards `measure` gives each field an importance.

    The score is importance / largest importance, negative importance counting as 0. Without a budget the fields that
    `needed` names stay: each method says what it takes for needed. A column that goes leaves its mean over the surveyed
    rows behind as a constant, which is what a network that never saw it gated misses least.

    Batches of several tasks bring labels and weights (B, T). A method that fits `of_one_label` is given those of each task
    in turn, (B,), and the importances add up.
    """

    surveys = True
    of_one_label = False

    def __init__(self, schema: Schema, embedding_dim: int):
        super().__init__(schema, embedding_dim)
        self.register_buffer("importance", torch.zeros(len(self.blocks), dtype=torch.double))
        self.register_buffer("mean", torch.zeros(len(self.owner)))  # of each column
        self.register_buffer("rows", torch.zeros((), dtype=torch.long))  # that the scores rest on
        self.register_buffer("seed", torch.randint(2**31, ()))  # fixed by the seed the model is built with

    @abstractmethod
    def measure(self, model: nn.Module, batches: Batches) -> Tensor:
        """Importance (F,) of the fields, in a unit of the method's own; `mean` and `rows` are known."""

    @abstractmethod
    def needed(self) -> Tensor:
        """Which fields (F,) stay when there is no budget."""

    def survey(self, model: nn.Module, batches: Batches) -> None:
        self._average(model, batches)
        if not (self.of_one_label and self.schema.tasks):
            self.importance.copy_(self.measure(model, batches))
            return
        rows, total = self.rows.clone(), torch.zeros_like(self.importance)
        for task in range(len(self.schema.tasks)):
            self.rows.copy_(rows)
            total += self.measure(model, lambda task=task: (batch.of_task(task) for batch in batches()))
        self.importance.copy_(total)

    @torch.no_grad()
    def _average(self, model: nn.Module, batches: Batches) -> None:
        rows, total, worth = 0, torch.zeros_like(self.mean, dtype=torch.double), 0.0
        for batch in batches():
            weight = batch.row_weight.to(total)
            total += weight @ model.arena(batch.ids.to(total.device), batch.dense.to(total.device)).double()
            rows, worth = rows + len(weight), worth + float(weight.sum())
        if rows < 2 or worth <= 0:
            where = "the training rows" if self.surveyed == "train" else "the held-out gate slice"
            raise ConfigError(
                f"method '{self.method}' scores on {where}, which has {rows} rows of weight {worth:g}: "
                f"set ingest.split.{self.surveyed}"
            )
        self.rows.fill_(rows)
        self.mean.copy_(total / worth)

    def draw(self, batches: Batches, most: int) -> tuple[Tensor, ...]:
        """At most `most` of the rows, in random order: ids, dense, label, weight."""
        generator = torch.Generator().manual_seed(int(self.seed))
        chosen = torch.zeros(int(self.rows), dtype=torch.bool)
        chosen[torch.randperm(len(chosen), generator=generator)[:most]] = True
        parts, start = [], 0
        for batch in batches():
            here = chosen[start : start + len(batch.label)]
            parts.append([part[here] for part in batch])
            start += len(batch.label)
        order = torch.randperm(int(chosen.sum()), generator=generator)
        return tuple(torch.cat(part)[order] for part in zip(*parts))

    def by_field(self, columns: Tensor) -> Tensor:
        """Sums (B, F) over the columns (B, W) of each field."""
        return columns.new_zeros(len(columns), len(self.blocks)).index_add_(1, self.owner, columns)

    def relative(self) -> Tensor:
        """Importance (F,) as a share of the largest, in 0..1."""
        positive = self.importance.clamp(min=0)
        return positive / positive.max().clamp(min=torch.finfo(positive.dtype).tiny)

    def above_mean(self, share: float) -> Tensor:
        """Fields (F,) of at least `share` of the mean importance: scikit-learn's SelectFromModel has 1 for default."""
        return self.importance >= share * self.importance.mean()

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.relative().tolist()))

    def evidence(self) -> dict[str, float]:
        named = zip(self.schema.names, self.importance.tolist())
        return {"rows": float(self.rows), **{f"importance/{name}": value for name, value in named}}

    def fill(self) -> Tensor:
        return self.mean

    def select(self, budget: Budget, seed: int) -> Selection:
        """Under a budget by score; without one, the fields needed, or the best one where none is."""
        if budget.model_dump(exclude_none=True):
            return super().select(budget, seed)
        needed = self.needed().clone()
        needed[self.importance.argmax()] |= not needed.any()
        columns = {b.name: b.columns if stays else () for b, stays in zip(self.blocks, needed.tolist())}
        return self._pack(budget, seed, columns)
