"""A path over the price of a field: gates in a trained network, which stays as it is, on held-out rows, until all have fallen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.batch import total
from slimrec.gates.shuffle import permutations

OPEN, SHUT = 1.0, -0.6  # theta is held between: beyond, a sigmoid answers no more
TEMPERATURE = 0.2
RATE = 0.04  # of Adam: a gate crosses in 1 / RATE steps
DOUBLING = 25  # gate steps in which the price doubles: as many as a gate needs to cross
ROWS = 1024  # of a gate step
SETTLED = 25  # steps that a gate stays down before it counts as fallen for good
_MOST = 40  # doublings; no worth of a field is a million million times the price to begin with

Rows = tuple[Tensor, Tensor, Tensor]  # blocks (B, W), label and weight (B,) or (B, T)


class Path(NamedTuple):
    """Where each of G gates fell: prices in nats per unit of relative distance."""

    last: Tensor  # (G,) price at which it fell for good; where `fallen` is False, the highest price of all
    first: Tensor  # (G,) price at which it fell for the first time
    fallen: Tensor  # (G,) bool
    steps: int


def walk(
    network: Callable[[Tensor], Tensor],
    rows: Iterator[Rows],
    owner: Tensor,
    distance: Tensor,
    price: float,
    generator: torch.Generator,
) -> Path:
    """Raise the price of all gates at once, from `price` on, and see at which each of them falls.

    Column w belongs to gate owner[w] of G, and all columns of a gate move together: x -> g x + (1 - g) x[permutation].
    The penalty is price * sum_i distance_i g_i, and the price doubles every `DOUBLING` steps. `network` maps blocks to
    logits, each row by itself, and does not change; all random numbers come from `generator`. Where a gate falls
    within a step is told by how far it went, so that only gates with nothing to tell them apart fall together.
    """
    growth = math.log(2) / DOUBLING
    theta = torch.full_like(distance, OPEN).requires_grad_()
    adam = torch.optim.Adam([theta], RATE)
    level, steps = math.log(price), 0
    first, last = torch.full_like(distance, math.nan), torch.full_like(distance, math.nan)
    down = torch.zeros_like(distance, dtype=torch.long)  # steps that each gate has been shut for
    while down.min() < SETTLED and steps < _MOST * DOUBLING:
        before = theta.detach().clone()
        theta.grad = _slope(network, next(rows), owner, theta.detach(), generator) + (
            math.exp(level) * distance * _steepness(before)
        )
        adam.step()
        with torch.no_grad():
            theta.clamp_(SHUT, OPEN)
        crossing = (before > 0) & (theta.detach() <= 0)
        here = level + growth * before / (before - theta.detach()).clamp(min=1e-12)
        last = torch.where(crossing, here, last)
        first = torch.where(crossing & first.isnan(), here, first)
        down = torch.where(theta.detach() <= 0, down + 1, 0)
        level, steps = level + growth, steps + 1
    fallen = down >= SETTLED
    last = torch.where(fallen, last, level)
    return Path(last.exp(), torch.where(first.isnan(), last, first).exp(), fallen, steps)


def _steepness(theta: Tensor) -> Tensor:
    """dg / dtheta."""
    g = torch.sigmoid(theta / TEMPERATURE)
    return g * (1 - g) / TEMPERATURE


def _slope(network, rows: Rows, owner: Tensor, theta: Tensor, generator: torch.Generator) -> Tensor:
    """What the mean log-loss of a batch rises by along each theta (G,)."""
    x, label, weight = rows
    sources = permutations(len(x), len(x), len(theta), generator).to(x.device)
    noise = x.gather(0, sources[:, owner])
    g = torch.sigmoid(theta / TEMPERATURE).to(x.dtype)
    mixed = torch.lerp(noise, x, g[owner].expand_as(x)).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(network(mixed).float(), label, weight, reduction="sum") / weight.sum()
    (gradient,) = torch.autograd.grad(loss, mixed)
    columns = (gradient * (x - noise)).sum(0).to(theta)
    return torch.zeros_like(theta).index_add_(0, owner, columns) * _steepness(theta)


@torch.no_grad()
def relative_distance(rows: Iterator[Rows], owner: Tensor, gates: int, generator: torch.Generator) -> Tensor:
    """E|x_i - x'_i| / sqrt(E|x_i - x'_i|^2) (G,) for two rows drawn at random, weighted: 0..1, whatever width and scale.

    Near 1 for dense fields, about twice the root of the presence for a field that is seldom there, 0 for a constant.
    """
    sums, worth = torch.zeros(2, gates, dtype=torch.double, device=owner.device), 0.0
    for x, _, weight in rows:
        other = x[torch.randperm(len(x), generator=generator).to(x.device)]
        squares = torch.zeros(len(x), gates, dtype=torch.double, device=x.device)
        squares.index_add_(1, owner, (x - other).double().square())
        weight = total(weight)
        sums += torch.stack([weight.double() @ squares.sqrt(), weight.double() @ squares])
        worth += float(weight.double().sum())
    mean, square = sums / worth
    return (mean / square.sqrt().clamp(min=1e-30)).float()
