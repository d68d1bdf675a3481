"""What a cut puts in the place of a field is a constant: what that costs, or brings, on rows that nobody has trained on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from slimrec.batch import Batch
from slimrec.model import Model
from slimrec.pruning.asking import ask, blocks
from slimrec.pruning.change import Change, change


def removed(
    model: Model,
    batch: Batch,
    groups: Sequence[tuple[str, ...]],
    cluster: Tensor | None,
    device: torch.device,
    whole: Collection[str],
) -> list[Change]:
    """For each group of fields, the change in log-loss when all of it stands at its mean over these rows.

    The mean is that of the blocks as the gate in eval mode leaves them. The intercept is fitted anew before and after,
    so that a field is not blamed for what a constant mends. A group that costs less than nothing does harm today:
    noise that the network has memorised. All rows are asked about fields of `whole`.
    """
    sums = [weight.double() @ x.double() for x, _, weight in blocks(model, batch, device)]
    mean = (torch.stack(sums).sum(0) / float(batch.weight.double().sum())).float()
    rises = ask(model, batch, groups, lambda x, _: mean.expand_as(x), cluster, device, whole, refit=True)
    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    return [change(rise, everywhere, batch.row_weight, cluster) for rise in rises]
