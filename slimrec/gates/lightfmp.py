"""Light-FMP (arXiv 2605.06441): a hard-concrete mask over the fields, held to a share of kept fields by Lagrange multipliers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.probes import is_probe
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection

_BETA, _ZETA, _GAMMA = 0.83, 1.1, -0.1  # temperature and stretch of the hard concrete, as in the paper


def hard_concrete(location: Tensor) -> Tensor:
    """One draw of z in 0..1 for each L = log alpha; exactly 0 and exactly 1 with positive probability."""
    noise = torch.logit(torch.rand_like(location), eps=1e-6)
    return _stretch(torch.sigmoid((noise + location) / _BETA))


def expected_l0(location: Tensor) -> Tensor:
    """P(z > 0) = sigmoid(L - beta log(-gamma / zeta)): smooth where the draws themselves are clipped."""
    return torch.sigmoid(location - _BETA * math.log(-_GAMMA / _ZETA))


def _stretch(s: Tensor) -> Tensor:
    return (s * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


class LightFmpGate(Gate):
    """x_i -> z_i x_i with one hard-concrete z_i a field and batch; frozen, z_i is clip(1.2 sigmoid(L_i) - 0.1, 0, 1).

    The penalty is lambda (k - target) + phi (k - target)^2, k the mean of P(z_i > 0). The paper's constraint reads the
    pruned share where the kept one is meant, and its Algorithm 1 never moves the multipliers; here the target is the
    KEPT share 1 - prune_ratio, approached from 1 over the first `ramp` of the gate's training, and both multipliers
    ascend (`multiplier_rate` times the gap and its square), lambda from 0, phi from `damping`. L = log alpha is drawn
    from Normal(start, deviation) itself: alpha drawn so, as printed, may be negative and have no logarithm.

    The decision is the `prune_ratio` when there is no budget: the round((1 - prune_ratio) F) fields highest in L. The
    score is sigmoid(L), which orders as the frozen z does without its ties at 0 and 1. First-order terms read the gated
    blocks too, so the whole field is behind its mask. A field kept by a wider budget though its frozen z is 0 starts
    from zeros: retrain it (`finetune.start: fresh`).

    The paper trains mask and weights together, at one learning rate of at most 3e-4, on the same 2,000 rows for many
    epochs: that is `reference: paper` (there is no published code to differ from it). It needs some thousand steps: in
    a few hundred such a mask stays about where it was drawn. By default the mask steps on the held-out gate slice
    (`stream`), as on rows that the weights have memorised it keeps memorised noise; rates, `damping`, `ramp` and
    `warmup` were chosen by the fewest noise fields above useful ones on 2,000 rows of the planted log, mean of 8 seeds,
    after 320 steps (3.0 of 64 pairs; 4.4 at a multiplier rate of .1, 13.9 at .5).
    """

    method = "lightfmp"

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        prune_ratio: float = 0.5,
        reference: Literal["paper"] | None = None,
        start: float = 0.5,
        deviation: float = 0.25,
        ramp: float = 0.5,
        damping: float = 1.0,
        learning_rate: float | None = None,  # 0.05; of the paper 0.0003
        multiplier_rate: float = 0.03,
        stream: Literal["gate", "first", "train"] | None = None,  # gate; of the paper train
        every: int = 1,
        warmup: float | None = None,  # 0.1; of the paper 0
    ):
        super().__init__(schema, embedding_dim)
        if reference not in (None, "paper"):
            raise ValueError(f"`reference` must be 'paper', or not be there, got {reference!r}")
        self.published = reference is not None
        usual = ("train", 3e-4, 0.0) if self.published else ("gate", 0.05, 0.1)
        given = (stream, learning_rate, warmup)
        stream, learning_rate, warmup = (ours if asked is None else asked for asked, ours in zip(given, usual))
        self.drive(stream, every, learning_rate, warmup)
        if not 0 <= prune_ratio < 1 or not 0 <= ramp <= 1:
            raise ValueError(f"needs 0 <= prune_ratio < 1 and 0 <= ramp <= 1, got {prune_ratio=}, {ramp=}")
        if min(deviation, damping, multiplier_rate) < 0:
            raise ValueError(
                f"`deviation`, `damping` and `multiplier_rate` must not be negative, got {deviation=}, {damping=}, "
                f"{multiplier_rate=}"
            )
        self.prune_ratio, self.ramp, self.multiplier_rate = prune_ratio, ramp, multiplier_rate
        self.settled = warmup + ramp * (1 - warmup)
        self.real = sum(not is_probe(block.name) for block in self.blocks)
        self.location = nn.Parameter(start + deviation * torch.randn(len(self.blocks)))
        self.register_buffer("multipliers", torch.tensor([0.0, damping]))  # lambda and phi
        self.register_buffer("target", torch.ones(()))  # the share to keep, as the ramp has it now

    @property
    def kept_fields(self) -> int:
        """How many fields the prune ratio leaves: its share, rounded half up, at least one; probes do not count."""
        return max(1, math.floor((1 - self.prune_ratio) * self.real + 0.5 + 1e-9))

    def mask(self) -> Tensor:
        """The frozen z (F,), in 0..1."""
        return _stretch(torch.sigmoid(self.location))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        z = hard_concrete(self.location) if self.training else self.mask()
        return x * z.to(x.dtype)[self.owner]

    def gap(self) -> Tensor:
        """Expected share of fields with z > 0, less the target."""
        return expected_l0(self.location).mean() - self.target

    def penalty(self) -> Tensor:
        gap = self.gap()
        return self.multipliers[0] * gap + self.multipliers[1] * gap.square()

    @torch.no_grad()
    def step(self, progress: float) -> None:
        gap = self.gap()
        self.multipliers += self.multiplier_rate * torch.stack([gap, gap.square()])
        done = (progress - self.warmup) / (1 - self.warmup)
        down = min(1.0, max(0.0, done / self.ramp)) if self.ramp else 1.0
        last = (1 - self.prune_ratio) * self.real / len(self.blocks)  # as many as stay without probes in the search
        self.target.fill_(1 - (1 - last) * down)

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, torch.sigmoid(self.location).tolist()))

    def evidence(self) -> dict[str, float]:
        alive = expected_l0(self.location)
        return {
            "expected_share": alive.mean().item(),
            "target_share": self.target.item(),
            "lambda": self.multipliers[0].item(),
            "phi": self.multipliers[1].item(),
            **{f"mask/{block.name}": value for block, value in zip(self.blocks, self.mask().tolist())},
            **{f"alive/{block.name}": value for block, value in zip(self.blocks, alive.tolist())},
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.mask().detach()[self.owner]
        return scale, torch.zeros_like(scale)

    def select(self, budget: Budget, seed: int) -> Selection:
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given else Budget(fields=self.kept_fields), seed)
