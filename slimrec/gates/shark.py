"""SHARK (arXiv 2308.09395): what a first-order expansion says the loss would change by, were a field at its mean."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.gates.survey import Batches, Survey
from slimrec.schema import Schema


class SharkGate(Survey):
    """importance_i = mean over rows b of |<dL_b / dx_bi, mean(x_i) - x_bi>|, on the trained model.

    Rows meet nowhere in eval mode, so one backward pass of a batch's summed loss down to the concatenated blocks gives
    the gradient of every row; the original goes row by row. It also prunes one field at a time with training in
    between; this is its first round. The absolute value stands inside the mean, as outside of it fields that the
    network has fitted well would cancel to 0. So it measures how much the model uses a field, memorised noise
    included.

    Without a budget, fields of at least `least` times the mean importance stay. That is a convention and no test: the
    original goes on until it has lost too much accuracy. A budget judged by probes says which fields beat noise.
    """

    method = "shark"

    def __init__(self, schema: Schema, embedding_dim: int, *, least: float = 1.0):
        super().__init__(schema, embedding_dim)
        if least < 0:
            raise ValueError(f"`least` must not be negative, got {least}")
        self.least = least

    def measure(self, model, batches: Batches) -> Tensor:
        total, worth = torch.zeros_like(self.importance), 0.0
        for batch in batches():
            ids, dense, label, weight = (part.to(total.device) for part in batch)
            x = model.arena(ids, dense).detach().requires_grad_()
            losses = F.binary_cross_entropy_with_logits(model.backbone(x), label, weight, reduction="sum")
            (gradient,) = torch.autograd.grad(losses, x)
            total += self.by_field(gradient * (self.mean - x.detach())).abs().double().sum(0)
            worth += float(weight.double().sum())
        return total / worth

    def needed(self) -> Tensor:
        return self.above_mean(self.least)
