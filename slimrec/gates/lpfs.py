"""LPFS (arXiv 2206.00267): a polarising gate x^2 / (x^2 + epsilon) a field, driven to exact zeros by a proximal L1 step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection


class LpfsGate(Gate):
    """Field i is scaled by g(x_i): x^2 / (x^2 + epsilon), and with `variant: lpfs++` by
    sign(x) x^2 / (x^2 + epsilon) + alpha epsilon^(1/tau) atan(x), whose slope at 0 lets a dropped field come back.

    Epsilon shrinks by `decay` after every gate step, so that g polarises; the papers' .9978 for each 100 steps is
    .9978^(1/100) a step, too slow for a few hundred. After every step each x shrinks by learning_rate * `strength`
    towards 0, where it stops: exact 0 is the decision to drop. The score is x^2 / (x^2 + epsilon). `alpha`, `tau` and
    the starts are those of the public benchmark code; rates, `strength` and `decay` were chosen where planted noise
    falls to 0 in some hundred gate steps and useful fields do not.
    """

    method = "lpfs"

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        variant: Literal["lpfs", "lpfs++"] = "lpfs++",
        alpha: float = 10.0,
        tau: float = 2.0,
        epsilon: float = 0.1,
        decay: float = 0.999,
        start: float = 1.0,
        strength: float = 0.3,
        learning_rate: float = 0.01,
        stream: Literal["gate", "train"] = "gate",
        every: int = 1,
        warmup: float = 0.1,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if variant not in ("lpfs", "lpfs++"):
            raise ValueError(f"`variant` must be 'lpfs' or 'lpfs++', got {variant!r}")
        if epsilon <= 0 or tau <= 0 or not 0 < decay <= 1 or min(alpha, strength) < 0:
            raise ValueError(
                f"needs epsilon > 0, tau > 0, 0 < decay <= 1, alpha >= 0 and strength >= 0, got {epsilon=}, {tau=}, "
                f"{decay=}, {alpha=}, {strength=}"
            )
        self.variant, self.alpha, self.tau, self.decay, self.strength = variant, alpha, tau, decay, strength
        self.settled = 0.7
        self.x = nn.Parameter(torch.full((len(self.blocks),), float(start)))
        self.register_buffer("epsilon", torch.tensor(float(epsilon)))

    def polarised(self) -> Tensor:
        """x^2 / (x^2 + epsilon) (F,), in 0..1; 0 only where x is 0."""
        square = self.x.square()
        return square / (square + self.epsilon)

    def gates(self) -> Tensor:
        """g (F,), what the blocks are scaled by."""
        if self.variant == "lpfs":
            return self.polarised()
        slope = self.alpha * self.epsilon ** (1 / self.tau)
        return torch.where(self.x < 0, -1.0, 1.0) * self.polarised() + slope * torch.atan(self.x)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return x * self.gates().to(x.dtype)[self.owner]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        shrunk = (self.x.abs() - self.strength * self.learning_rate).clamp(min=0)
        self.x.copy_(self.x.sign() * shrunk)
        self.epsilon *= self.decay

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.polarised().tolist()))

    def evidence(self) -> dict[str, float]:
        return {
            "epsilon": float(self.epsilon),
            **{f"x/{block.name}": value for block, value in zip(self.blocks, self.x.tolist())},
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.gates().detach()[self.owner]
        return scale, torch.zeros_like(scale)

    def select(self, budget: Budget, seed: int) -> Selection:
        """Without a budget, all fields whose x is not exactly 0."""
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given else Budget(threshold=math.ulp(0.0)), seed)
