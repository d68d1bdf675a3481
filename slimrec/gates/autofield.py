"""AutoField (arXiv 2204.09078): two logits a field, keep or drop, searched by Gumbel-softmax."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.schema import Schema


class AutoFieldGate(Gate):
    """x_i -> p_i x_i, p_i the keep share of a Gumbel-softmax over (drop, keep), drawn once a field and batch.

    The temperature falls from 1 to 0.01 as the search goes on, from the end of its warm-up to its own. With `cooling` it
    is max(0.01, 1 - cooling * t) after t training steps: published is 0.00005, by which it reaches 0.9 in 2,000 steps
    and a short search never leaves the noise. There is no penalty: fields are ranked by the
    keep probability softmax(logits)[keep], which is also the frozen gate, and a budget says how many stay (without
    one, those at least as likely kept as dropped). The logits step on held-out rows, at every tenth training step as
    published. `learning_rate` is not the published 0.001: it was chosen so that some tens of gate steps tell planted
    noise from use. The paper retrains the kept fields: `finetune.start: fresh`.
    """

    method = "autofield"
    tells_noise = True
    settled = 0.5

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        start: float = 0.5,
        cooling: float | None = None,  # a training step; None: by the share of the search
        learning_rate: float = 0.05,
        stream: Literal["gate", "first", "train"] = "gate",
        every: int = 10,
        warmup: float = 0.1,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if cooling is not None and cooling < 0:
            raise ValueError(f"`cooling` must not be negative, got {cooling}")
        self.cooling = cooling
        self.logits = nn.Parameter(torch.full((len(self.blocks), 2), float(start)))  # drop, keep
        self.register_buffer("steps", torch.zeros(()))  # of training since the first of the gate, or their share

    def temperature(self) -> Tensor:
        """Of the Gumbel-softmax, from 1 down to 0.01."""
        return (1 - (1.0 if self.cooling is None else self.cooling) * self.steps).clamp(min=0.01)

    def keep_probability(self) -> Tensor:
        """(F,), in 0..1."""
        return torch.softmax(self.logits, dim=1)[:, 1]

    def draw(self) -> Tensor:
        """The keep share (F,) of one Gumbel-softmax draw."""
        uniform = torch.rand_like(self.logits).clamp(1e-6, 1 - 1e-6)
        gumbel = -torch.log(-torch.log(uniform))
        return torch.softmax((torch.log_softmax(self.logits, dim=1) + gumbel) / self.temperature(), dim=1)[:, 1]

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        p = self.draw() if self.training else self.keep_probability()
        return x * p.to(x.dtype)[self.owner]

    def step(self, progress: float) -> None:
        share = (progress - self.warmup) / (1 - self.warmup)
        self.steps.copy_(self.steps + self.every if self.cooling is not None else max(0.0, share))

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.keep_probability().tolist()))

    def evidence(self) -> dict[str, float]:
        return {"temperature": float(self.temperature())}

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.keep_probability().detach()[self.owner]
        return scale, torch.zeros_like(scale)
