"""AdaFS (KDD 2022, doi 10.1145/3534678.3539204): a controller weighs the fields of every row anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection

if TYPE_CHECKING:
    from slimrec.batch import Batch


class AdaFSGate(Gate):
    """x_i -> F w_i(row) x_i, w = softmax(controller(x after batch normalisation)) over the F fields of the row.

    The controller is an MLP of one hidden layer on all blocks. `variant: soft` weighs all fields; `hard` keeps the
    `share` of them with the largest weights in each row, whose weights it divides by their sum, and sets the others to 0.
    F keeps blocks at the scale that they have without a gate. The controller steps on held-out rows at every tenth step,
    after a warm-up of the network alone, as published.

    The paper goes on weighing row by row when it serves, for which every field has to be there: nothing is saved. Here
    a field's score is its mean weight over the gate slice, by which budgets rank; in eval mode, and frozen, each field
    has that weight in every row. Without a budget, fields stay whose mean weight is at least `least` of 1 / F: a
    convention. A field that says much on few rows ranks low.
    """

    method = "adafs"
    surveys = True
    shared = ("level",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        variant: Literal["soft", "hard"] = "soft",
        share: float = 0.5,
        hidden: int = 16,
        least: float = 0.8,
        learning_rate: float = 0.01,
        stream: Literal["gate", "train"] = "gate",
        every: int = 10,
        warmup: float = 0.2,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if variant not in ("soft", "hard"):
            raise ValueError(f"`variant` must be 'soft' or 'hard', got {variant!r}")
        if not 0 < share <= 1 or hidden < 1 or least < 0:
            raise ValueError(f"needs 0 < share <= 1, hidden >= 1 and least >= 0, got {share=}, {hidden=}, {least=}")
        self.variant, self.least, self.settled = variant, least, 0.5
        self.places = max(1, round(share * len(self.blocks)))
        hidden = int(hidden)
        self.controller = nn.Sequential(
            nn.Linear(len(self.owner), hidden), nn.ReLU(), nn.Linear(hidden, len(self.blocks))
        )
        self.register_buffer("level", torch.ones(len(self.blocks)))  # F times the mean weight

    def weights(self, x: Tensor) -> Tensor:
        """F w (B, F) of the rows `x` (B, W), which are normalised among each other."""
        x = x.to(self.level.dtype)
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        logits = self.controller((x - mean) / (variance + 1e-5).sqrt())
        if self.variant == "hard":
            out = logits.topk(self.places, dim=1).values[:, -1:] > logits
            logits = logits.masked_fill(out, -torch.inf)
        return len(self.blocks) * torch.softmax(logits, dim=1)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            return x * self.level.to(x.dtype)[self.owner]
        weights = self.weights(x)
        self.level.lerp_(weights.detach().mean(0), 0.05)
        return x * weights.to(x.dtype)[:, self.owner]

    @torch.no_grad()
    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Average weights over the gate slice."""
        total, worth = torch.zeros_like(self.level, dtype=torch.double), 0.0
        for batch in batches():
            ids, dense, weight = (part.to(self.owner.device) for part in (batch.ids, batch.dense, batch.row_weight))
            total += weight.double() @ self.weights(model.arena(ids, dense)).double()
            worth += float(weight.double().sum())
        self.level.copy_(total / worth)

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, (self.level.double() / len(self.blocks)).tolist()))

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.level[self.owner]
        return scale, torch.zeros_like(scale)

    def select(self, budget: Budget, seed: int) -> Selection:
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given else Budget(threshold=min(1.0, self.least / len(self.blocks))), seed)
