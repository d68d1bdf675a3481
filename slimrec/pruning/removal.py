"""What a cut puts in the place of a field is a constant: what that costs, or brings, on rows that nobody has trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from slimrec.batch import Batch, total
from slimrec.model import Model
from slimrec.pruning.change import Change, change

PIECE = 2**14  # rows through the network at once
_STEPS = 8  # of Newton; five reach the precision of a float


@torch.no_grad()
def removed(
    model: Model, batch: Batch, groups: Sequence[tuple[str, ...]], cluster: Tensor | None, device: torch.device
) -> list[Change]:
    """For each group of fields, the change in log-loss when all of it stands at its mean over these rows.

    The mean is that of the blocks as the gate in eval mode leaves them. The intercept is fitted anew before and after,
    so that a field is not blamed for what a constant mends. A group that costs less than nothing does harm today:
    noise that the network has memorised.
    """
    place, start = {}, 0
    for block in model.blocks:
        place[block.name], start = slice(start, start + block.width), start + block.width
    sums = (weight.double() @ x.double() for x, _, weight in _pieces(model, batch, device))
    mean = (reduce(torch.add, sums) / float(batch.weight.double().sum())).float()
    logits: list[list[Tensor]] = [[] for _ in range(1 + len(groups))]
    for x, pairs, _ in _pieces(model, batch, device):
        replaced = model.backbone.replacing(x) if pairs is None else None
        logits[0].append(model.backbone(x, pairs).double().cpu())
        for found, group in zip(logits[1:], groups):
            if replaced is not None and len(group) == 1:
                part = place[group[0]]
                found.append(replaced(part.start, mean[part].expand(len(x), -1)).double().cpu())
                continue
            flat = x.clone()
            for name in group:
                flat[:, place[name]] = mean[place[name]]
            found.append(model.backbone(flat, pairs).double().cpu())
    before, *after = (_refitted(torch.cat(parts), batch) for parts in logits)
    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    return [change(losses - before, everywhere, batch.row_weight, cluster) for losses in after]


def _pieces(model: Model, batch: Batch, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
    """Gated blocks, weights of pairs where a gate has such, and weights of rows, piece by piece."""
    for piece in zip(*(part.split(PIECE) for part in (batch.ids, batch.dense, batch.row_weight))):
        ids, dense, weight = (part.to(device) for part in piece)
        yield *model.gated(ids, dense), weight


def _refitted(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted log-loss (n,) with the best constant added to the logits, of each task if there are several.

    A step goes no further than 2, where labels of one class alone know no bound; and nowhere where nothing weighs.
    """
    label, weight = batch.label.double(), batch.weight.double()
    shift = torch.zeros(label.shape[1:], dtype=torch.double)
    for _ in range(_STEPS):
        chance = torch.sigmoid(logits + shift)
        room = (weight * chance * (1 - chance)).sum(0)
        shift += ((weight * (label - chance)).sum(0) / room).nan_to_num().clamp(-2, 2)
    return total(weight * F.binary_cross_entropy_with_logits(logits + shift, label, reduction="none"))
