"""MvFS (CIKM 2023, arXiv 2309.02064): several views of a row each say which fields matter, and a field answers for itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.rows import RowGate
from slimrec.schema import Schema


class MvFSGate(RowGate):
    """x_i -> s_i x_i, s_i = (1 + tanh(tau (I_i - `bar`))) / 2, where I = sum over k of r_k softmax(A_k x + a_k).

    Each of `views` sub-networks k has a softmax over the F fields of its own, linear in all blocks; r is a softmax, over
    the views, of a linear map of all their softmaxes. Unlike weights that add up, s_i falls or rises for each field by
    itself: it passes 1/2 where I_i passes the bar. tau is max(`tau`, 1 + a thousandth a gate step).

    Blocks are normalised by their batch before the views see them, which the public benchmark code does not. There all
    parts step together on training rows: that is `stream: train`, a single pass here. The default steps the views on
    held-out rows at every tenth step, after a warm-up of the network alone. A field's score is its mean s over the gate
    slice, see `RowGate` for what that leaves out; without a budget, fields of at least 1/2 stay. As the I of a row add up
    to 1, few of many fields pass the published bar of 0.2: give a budget there.
    """

    method = "mvfs"

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        views: int = 6,
        bar: float = 0.2,
        tau: float = 5.0,
        learning_rate: float = 0.01,
        stream: Literal["gate", "train"] = "gate",
        every: int = 10,
        warmup: float = 0.2,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if views < 1 or not 0 <= bar <= 1 or tau <= 0:
            raise ValueError(f"needs views >= 1, 0 <= bar <= 1 and tau > 0, got {views=}, {bar=}, {tau=}")
        self.count, self.bar, self.tau = int(views), bar, tau
        self.views = nn.Linear(len(self.owner), self.count * len(self.blocks))
        self.referee = nn.Linear(self.count * len(self.blocks), self.count)
        self.register_buffer("gate_steps", torch.zeros(()))

    def importance(self, x: Tensor) -> Tensor:
        """I (B, F), adding up to 1 in each row."""
        views = torch.softmax(self.views(x).unflatten(1, (self.count, -1)), dim=2)
        share = torch.softmax(self.referee(views.flatten(1)), dim=1)
        return torch.einsum("bk,bkf->bf", share, views)

    def weigh(self, x: Tensor) -> Tensor:
        tau = (1 + self.gate_steps / 1000).clamp(min=self.tau)
        return torch.sigmoid(2 * tau * (self.importance(x) - self.bar))  # (1 + tanh(z)) / 2 = sigma(2 z)

    def step(self, progress: float) -> None:
        self.gate_steps += 1

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.level.clamp(max=1).tolist()))
