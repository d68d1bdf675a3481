"""AdaFS (KDD 2022, doi 10.1145/3534678.3539204): a controller weighs the fields of every row by a softmax."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.rows import RowGate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection


class AdaFSGate(RowGate):
    """x_i -> F w_i(row) x_i, w = softmax(controller(x after batch normalisation)) over the F fields of the row.

    The controller is an MLP of one hidden layer on all blocks. `variant: soft` weighs all fields; `hard` keeps the
    `share` of them with the largest weights in each row, whose weights it divides by their sum, and sets the others to 0.
    F keeps blocks at the scale that they have without a gate. The controller steps on held-out rows at every tenth step,
    after a warm-up of the network alone, as published.

    A field's score is its mean weight over the gate slice, see `RowGate` for what that leaves out. Without a budget,
    fields stay whose mean weight is at least `least` of 1 / F: a convention.
    """

    method = "adafs"

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
        self.variant, self.least = variant, least
        self.places = max(1, round(share * len(self.blocks)))
        hidden = int(hidden)
        self.controller = nn.Sequential(
            nn.Linear(len(self.owner), hidden), nn.ReLU(), nn.Linear(hidden, len(self.blocks))
        )

    def weigh(self, x: Tensor) -> Tensor:
        logits = self.controller(x)
        if self.variant == "hard":
            out = logits.topk(self.places, dim=1).values[:, -1:] > logits
            logits = logits.masked_fill(out, -torch.inf)
        return len(self.blocks) * torch.softmax(logits, dim=1)

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, (self.level.double() / len(self.blocks)).tolist()))

    def select(self, budget: Budget, seed: int) -> Selection:
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given else Budget(threshold=min(1.0, self.least / len(self.blocks))), seed)
