"""Gates that weigh the fields of every row anew: what of them a cut can hold is their mean over held-out rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.schema import Schema

if TYPE_CHECKING:
    from slimrec.batch import Batch


class RowGate(Gate, ABC):
    """x_i -> w_i(row) x_i while training; in eval mode, and frozen, x_i -> mean(w_i) x_i, over the rows of the gate slice.

    The papers go on weighing row by row when they serve, for which every field has to be there: nothing is saved. The
    mean is what ranks fields here, so a field that says much on few rows ranks low.
    """

    surveys = True
    shared = ("level",)

    def __init__(self, schema: Schema, embedding_dim: int):
        super().__init__(schema, embedding_dim)
        self.settled = 0.5
        self.register_buffer("level", torch.ones(len(self.blocks)))  # mean weight of each field

    @abstractmethod
    def weigh(self, x: Tensor) -> Tensor:
        """Weights (B, F) of the fields in the rows `x` (B, W), whose columns are normalised."""

    def weights(self, x: Tensor) -> Tensor:
        """Weights (B, F) of the fields in the rows `x` (B, W), which are normalised among each other."""
        x = x.to(self.level.dtype)
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        return self.weigh((x - mean) / (variance + 1e-5).sqrt())

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            return x * self.level.to(x.dtype)[self.owner]
        weights = self.weights(x)
        self.level.lerp_(weights.detach().mean(0), 0.05)
        return x * weights.to(x.dtype)[:, self.owner]

    @torch.no_grad()
    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Average the weights over the gate slice."""
        total, worth = torch.zeros_like(self.level, dtype=torch.double), 0.0
        for batch in batches():
            ids, dense, weight = (part.to(self.owner.device) for part in (batch.ids, batch.dense, batch.row_weight))
            total += weight.double() @ self.weights(model.arena(ids, dense)).double()
            worth += float(weight.double().sum())
        self.level.copy_(total / worth)

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.level[self.owner]
        return scale, torch.zeros_like(scale)
