"""LPFS (arXiv 2206.00267): a polarising gate x^2 / (x^2 + epsilon) a field, driven to zero by a proximal L1 step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection


class LpfsGate(Gate):
    """Field i is scaled by g(x_i): x^2 / (x^2 + epsilon), and with `variant: lpfs++` by
    sign(x) x^2 / (x^2 + epsilon) + alpha epsilon^(1/tau) atan(x), whose slope at 0 lets a dropped field come back.

    Epsilon shrinks by the published `decay` for each 100 gate steps, so that g polarises in long searches. After every
    step each x shrinks by learning_rate * `strength` towards 0, where it stops. `alpha`, `tau` and the starts are those
    of the public benchmark code. Public codes have Adam at 0.001 with a strength of 0.01, which leaves the fields of
    some thousand steps near 1 and only ranks them, or plain gradient steps with 0.2 to 0.6 over many thousand;
    `learning_rate` and `strength` here tell fields apart in some hundred steps, whatever their number beyond that: what
    x settles at depends on how steadily the gradient holds it against the pull, not on the length of the log.

    Without a budget a field is dropped whose x ends within one learning rate of 0. What nothing holds needs
    start / (learning_rate * strength) steps to get there, a thousand by default: shorter searches want a budget. The
    paper drops exact zeros, which Adam, whose steps are of about that length, keeps leaving and finding again. The
    score is 1/2 + g/2 for fields that stay, g without the arc tangent; for the others half of the share of training
    until which they held out, so that they still have an order.

    The paper steps x with the network on the same rows: that is `stream: train`, a single pass here. The default steps
    it on held-out rows. Search for one pass either way: in later epochs held-out rows ask for less of a useful field
    that the network overfits, the network makes up for it, and x goes on to 0 (users of MovieLens-1M, in four epochs).
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
        decay: float = 0.9978,
        start: float = 1.0,
        strength: float = 0.1,
        learning_rate: float = 0.01,
        stream: Literal["gate", "first", "train"] = "gate",
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
        self.register_buffer("held", torch.zeros(len(self.blocks)))  # share of training at which x was last off 0

    def polarised(self) -> Tensor:
        """x^2 / (x^2 + epsilon) (F,), in 0..1; 0 only where x is 0."""
        square = self.x.square()
        return square / (square + self.epsilon)

    def stays(self) -> Tensor:
        """Which fields (F,) are further from 0 than one step of Adam."""
        return self.x.abs() > self.learning_rate

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
        self.held.masked_fill_(self.stays(), progress)
        self.epsilon *= self.decay**0.01

    def scores(self) -> dict[str, float]:
        score = torch.where(self.stays(), 1 + self.polarised(), self.held) / 2
        return dict(zip(self.schema.names, score.tolist()))

    def evidence(self) -> dict[str, float]:
        return {
            "epsilon": float(self.epsilon),
            **{f"x/{block.name}": value for block, value in zip(self.blocks, self.x.tolist())},
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.gates().detach()[self.owner]
        return scale, torch.zeros_like(scale)

    def select(self, budget: Budget, seed: int) -> Selection:
        """Without a budget, all fields whose x is off 0, or the best one where none is."""
        if budget.model_dump(exclude_none=True):
            return super().select(budget, seed)
        scores, stays = self.scores(), self.stays().tolist()
        best = max(scores, key=scores.__getitem__)
        columns = {b.name: b.columns if off or b.name == best else () for b, off in zip(self.blocks, stays)}
        return self._pack(budget, seed, columns)
