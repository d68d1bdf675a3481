"""What pairs that go save a network, and what a selector that goes on weighing the others costs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from slimrec.selection import Selection

_ROWS = 8  # of a batch whose multiply-adds are counted


class Cost(NamedTuple):
    """Bytes of weights in float32, and multiply-adds a row (matrix products only)."""

    bytes: float
    multiply_adds: float


@torch.no_grad()
def saved(backbone: nn.Module, whole: Selection, decided: Selection) -> tuple[Cost, nn.Module]:
    """What the network needs for `whole` and not for `decided`, the same columns with fewer pairs; and that network."""
    nothing = next(backbone.parameters()).new_zeros(backbone.width)
    every, cut = (backbone.narrow(selection, nothing) for selection in (whole, decided))
    x = nothing.new_zeros(2 * _ROWS, every.width)
    less = _multiply_adds(lambda rows: every(x[:rows])) - _multiply_adds(lambda rows: cut(x[:rows]))
    return Cost(4 * (_size(every) - _size(cut)), less), cut


@torch.no_grad()
def spent(network: nn.Module, selector: nn.Module, ids: Tensor) -> Cost:
    """What `selector` needs to weigh the pairs of `network`: its weights, and its work for the row `ids` (1, S)."""
    ids = ids.expand(2 * _ROWS, -1)
    x = next(network.parameters()).new_zeros(2 * _ROWS, network.width)
    more = _multiply_adds(lambda rows: network(x[:rows], selector.pairs(ids[:rows])))
    return Cost(4 * _size(selector), more - _multiply_adds(lambda rows: network(x[:rows])))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _multiply_adds(network: Callable[[int], Tensor]) -> float:
    """What one row more asks of `network`, a function of the number of rows: work done once a batch does not count."""
    counts = []
    for rows in (_ROWS, 2 * _ROWS):
        with FlopCounterMode(display=False) as counter:
            network(rows)
        counts.append(counter.get_total_flops() / 2)
    return (counts[1] - counts[0]) / _ROWS
