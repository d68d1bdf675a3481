"""Group lasso on the first layer, in the form of the non-negative garrote (Breiman 1995): its block norms shrink to exact zeros."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.gates.base import Gate
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection


class GroupLassoGate(Gate):
    """Minimises loss + strength * sum_i c_i n_i over lengths c_i >= 0 that scale the fields' blocks, where
    n_i = ||W_i diag(deviation of the columns)|| over the layers that read the blocks: the group lasso norm of the
    first-layer block c_i W_i, in the unit of what the field adds to the first sums, so that neither small embeddings
    nor unscaled numbers rank wrongly.

    The lengths step on the held-out gate slice and the directions W_i with the network: group lasso on the
    training rows keeps blocks of noise that the network memorises. As the penalty counts the product c_i n_i,
    the network gains nothing by growing W_i. As it is linear where c_i >= 0, cutting each step at 0 is its proximal
    step, and a useless field comes to exactly 0, until the noise of a batch throws it off for a while.

    The score is c_i n_i over the largest; without a budget, fields of at least `least` of the largest stay, as exact 0
    is too much to ask of noisy steps. Inner products and other meetings of fields have no first-layer weights and are
    not in the norm, though behind the same c_i. Rates and `strength` were chosen on planted logs.
    """

    method = "group_lasso"
    stream = "gate"
    shared = ("moments",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        strength: float = 0.005,
        least: float = 0.1,
        decay: float = 0.99,
        learning_rate: float = 0.02,
        every: int = 1,
        warmup: float = 0.2,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(self.stream, every, learning_rate, warmup)
        if strength < 0 or not 0 <= decay < 1 or not 0 <= least < 1:
            raise ValueError(
                f"needs strength >= 0, 0 <= decay < 1 and 0 <= least < 1, got {strength=}, {decay=}, {least=}"
            )
        self.strength, self.least, self.decay, self.settled = strength, least, decay, 0.7
        self.length = nn.Parameter(torch.ones(len(self.blocks)))
        self.register_buffer("moments", torch.zeros(3, len(self.owner)))  # averages of 1, x and x^2, uncorrected
        self.layers: tuple[nn.Linear, ...] = ()

    def attach(self, backbone: nn.Module) -> None:
        super().attach(backbone)
        self.layers = tuple(backbone.first_layers())
        if not self.layers:
            raise ConfigError(
                f"method '{self.method}' needs a network that names its first layers, '{type(backbone).__name__}' does "
                f"not: give it a method `first_layers`, or choose another one"
            )

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if self.training and self.length.requires_grad:
            self._observe(x.detach().to(self.moments.dtype))
        return x * self.length.to(x.dtype)[self.owner]

    @torch.no_grad()
    def _observe(self, x: Tensor) -> None:
        seen = torch.stack([torch.ones_like(self.moments[0]), x.mean(0), x.square().mean(0)])
        self.moments.lerp_(seen, 1 - self.decay)

    def norms(self) -> Tensor:
        """n (F,): the block norms of the first layers for columns of deviation 1."""
        count, mean, square = self.moments
        variance = (square - mean.square() / count.clamp(min=1e-12)).clamp(min=0) / count.clamp(min=1e-12)
        weights = sum(layer.weight.detach()[:, : len(self.owner)].square().sum(0) for layer in self.layers)
        columns = weights * variance
        return columns.new_zeros(len(self.blocks)).index_add_(0, self.owner, columns).sqrt()

    def penalty(self) -> Tensor:
        return self.strength * (self.length * self.norms()).sum()

    @torch.no_grad()
    def step(self, progress: float) -> None:
        self.length.clamp_(min=0)

    def sizes(self) -> Tensor:
        """||c_i W_i|| (F,) in the unit of the first layer's sums."""
        return (self.length.abs() * self.norms()).detach()

    def scores(self) -> dict[str, float]:
        sizes = self.sizes().double()
        return dict(zip(self.schema.names, (sizes / sizes.max().clamp(min=math.ulp(0.0))).tolist()))

    def evidence(self) -> dict[str, float]:
        named = zip(self.schema.names, self.length.tolist(), self.sizes().tolist())
        return {f"{what}/{name}": v for name, c, n in named for what, v in (("length", c), ("norm", n))}

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.length.detach()[self.owner]
        return scale, torch.zeros_like(scale)

    def select(self, budget: Budget, seed: int) -> Selection:
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given else Budget(threshold=self.least), seed)
