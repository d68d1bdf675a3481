"""A path over the price of a field: gates in a trained network, which stays as it is, on held-out rows, until all have fallen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.batch import total
from slimrec.gates.shuffle import Run, permutations, runs_of, taken

OPEN, SHUT = 1.0, -0.6  # theta is held between: beyond, a sigmoid answers no more
TEMPERATURE = 0.2
RATE = 0.04  # of Adam: a gate crosses in 1 / RATE steps
DOUBLING = 25  # gate steps in which the price doubles: as many as a gate needs to cross
ROWS = 1024  # of a gate step
SETTLED = 25  # steps that a gate stays down before it counts as fallen for good
_MOST = 40  # doublings; no worth of a field is a million million times the price to begin with

Rows = tuple[Tensor, Tensor, Tensor]  # blocks (B, W), label and weight (B,) or (B, T)


class Path(NamedTuple):
    """Where each of G gates fell, and what its field was worth there."""

    worth: Tensor  # (G,) nats of log-loss that shutting the gate costs, measured where it fell for good
    error: Tensor  # (G,) standard error of that over the steps looked at
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

    The price of a fall says what a field is worth with a lag: a gate whose slope is mostly noise creeps while the price
    doubles, so that wide fields without meaning seem worth several times what they are. What a field is worth is
    therefore measured: what its gate's way from open to shut costs, by the slopes seen before and after its fall.
    """
    growth = math.log(2) / DOUBLING
    theta = torch.full_like(distance, OPEN).requires_grad_()
    adam = torch.optim.Adam([theta], RATE)
    level, steps = math.log(price), 0
    first, last = torch.full_like(distance, math.nan), torch.full_like(distance, math.nan)
    down = torch.zeros_like(distance, dtype=torch.long)  # steps that each gate has been shut for
    runs = runs_of(owner)
    slopes, places = [], []  # dL/dg, and the g that it was seen at
    fell = torch.zeros_like(down)  # the step of the last fall
    while down.min() < SETTLED and steps < _MOST * DOUBLING:
        before = theta.detach().clone()
        slopes.append(_slope(network, next(rows), owner, runs, before, generator))
        places.append(torch.sigmoid(before / TEMPERATURE))
        theta.grad = (slopes[-1] + math.exp(level) * distance) * _steepness(before)
        adam.step()
        with torch.no_grad():
            theta.clamp_(SHUT, OPEN)
        crossing = (before > 0) & (theta.detach() <= 0)
        here = level + growth * before / (before - theta.detach()).clamp(min=1e-12)
        last = torch.where(crossing, here, last)
        first = torch.where(crossing & first.isnan(), here, first)
        fell = torch.where(crossing, steps, fell)
        down = torch.where(theta.detach() <= 0, down + 1, 0)
        level, steps = level + growth, steps + 1
    fallen = down >= SETTLED
    last = torch.where(fallen, last, level)
    worth, error = _cost(torch.stack(slopes), torch.stack(places), torch.where(fallen, fell, steps))
    return Path(worth, error, last.exp(), torch.where(first.isnan(), last, first).exp(), fallen, steps)


def _cost(slopes: Tensor, gates: Tensor, fell: Tensor) -> tuple[Tensor, Tensor]:
    """What shutting each gate costs (G,), and its standard error, from dL/dg at g (S, G), `SETTLED` steps about `fell` (G,).

    Along g in 0..1 the slope is a line, as the loss of a mixture is of second order to begin with, so that its integral
    is the line's value at 1/2; the line is fitted by least squares.
    """
    step = torch.arange(len(slopes), device=slopes.device)[:, None]
    near = ((step >= fell - SETTLED) & (step < fell + SETTLED)).to(slopes)
    count = near.sum(0)
    middle, mean = (gates * near).sum(0) / count, (slopes * near).sum(0) / count
    off, rest = (gates - middle) * near, (slopes - mean) * near
    spread = off.square().sum(0).clamp(min=1e-12)
    bend = (off * rest).sum(0) / spread
    left = ((rest - bend * off).square().sum(0) / (count - 2).clamp(min=1)).sqrt()
    return -(mean + bend * (0.5 - middle)), left * (1 / count + (0.5 - middle).square() / spread).sqrt()


def _steepness(theta: Tensor) -> Tensor:
    """dg / dtheta."""
    g = torch.sigmoid(theta / TEMPERATURE)
    return g * (1 - g) / TEMPERATURE


def _slope(network, rows: Rows, owner: Tensor, runs: list[Run], theta: Tensor, generator: torch.Generator) -> Tensor:
    """dL/dg (G,) of the mean log-loss of a batch at g = sigmoid(theta / temperature)."""
    x, label, weight = rows
    sources = permutations(len(x), len(x), len(theta), generator).to(x.device)
    noise = taken(x, sources, runs)
    g = torch.sigmoid(theta / TEMPERATURE).to(x.dtype)
    mixed = torch.lerp(noise, x, g[owner].expand_as(x)).requires_grad_()
    loss = F.binary_cross_entropy_with_logits(network(mixed).float(), label, weight, reduction="sum") / weight.sum()
    (gradient,) = torch.autograd.grad(loss, mixed)
    columns = (gradient * (x - noise)).sum(0).to(theta)
    return torch.zeros_like(theta).index_add_(0, owner, columns)


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
