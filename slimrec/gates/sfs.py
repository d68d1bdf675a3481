"""SFS (Wang et al. 2023, doi 10.1145/3539618.3591767): how steep the loss is along a mask of ones over the fields."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.gates.survey import Batches, Survey
from slimrec.schema import Schema


class SfsGate(Survey):
    """importance_i = mean over batches of |dL/dm_i| at m = 1, where m_i scales the block of field i; of sum 1.

    The original asks a network after a few batches of training, and the public benchmarks the trained one, as here:
    at most `most` batches of `batch_size` rows, drawn from the gate slice, in which rows of one user may stand together.
    On a trained network the derivative is near 0 in the mean, so what a batch shows is its spread; it shrinks for all
    fields alike as batches grow, and the more batches, the steadier the mean. A batch counts by its rows' weight.
    Memorised noise has steep slopes too.

    Without a budget, fields of at least `least` times the mean importance stay: a convention, the original keeps a
    given number.
    """

    method = "sfs"

    def __init__(
        self, schema: Schema, embedding_dim: int, *, batch_size: int = 256, most: int = 100, least: float = 1.0
    ):
        super().__init__(schema, embedding_dim)
        if batch_size < 1 or most < 1 or least < 0:
            raise ValueError(f"needs batch_size >= 1, most >= 1 and least >= 0, got {batch_size=}, {most=}, {least=}")
        self.batch_size, self.most, self.least = int(batch_size), int(most), least

    def measure(self, model, batches: Batches) -> Tensor:
        slopes = torch.zeros_like(self.importance)
        drawn = (part.to(self.owner.device) for part in self.draw(batches, self.most * self.batch_size))
        for ids, dense, label, weight in zip(*(part.split(self.batch_size) for part in drawn)):
            x = model.arena(ids, dense).detach()
            mask = x.new_ones(len(slopes)).requires_grad_()
            logits = model.backbone(x * mask[self.owner])
            loss = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
            slopes += torch.autograd.grad(loss, mask)[0].abs().double()
        return slopes / slopes.sum().clamp(min=math.ulp(0.0))

    def needed(self) -> Tensor:
        return self.above_mean(self.least)
