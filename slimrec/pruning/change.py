"""A mean change in log-loss and its standard error, over rows that may come in groups."""

from __future__ import annotations

import torch
from torch import Tensor

from slimrec.schema import Frozen

_SURE, _LIKELY = 3.0, 1.645  # standard errors; the second leaves 5 % on one side


class Change(Frozen):
    """A mean change in log-loss (nats a row, positive: worse) with its standard error, over so many rows."""

    mean: float
    error: float
    rows: int

    @property
    def certain(self) -> bool:
        """Whether it is above zero by three standard errors."""
        return self.mean > _SURE * self.error

    @property
    def doubt(self) -> float:
        """How far from its mean the bound of 95 % on one side lies."""
        return _LIKELY * self.error

    @property
    def gain(self) -> bool:
        """Whether its upper bound of 95 % is below zero."""
        return self.mean < -self.doubt


NOTHING = Change(mean=0, error=0, rows=0)


def change(difference: Tensor, where: Tensor, weight: Tensor, cluster: Tensor | None = None) -> Change:
    """The mean over the rows `where` of weighted differences (n,); `cluster` (n,) numbers rows that belong together.

    Rows of a cluster may move together, so the error is that of a ratio of sums over clusters.
    """
    total = float(weight[where].double().sum())
    if total <= 0:
        return NOTHING
    mean = float(difference[where].sum()) / total
    spread = difference[where] - mean * weight[where].double()
    if cluster is not None:
        spread = torch.bincount(cluster[where], spread)
    return Change(mean=mean, error=float(spread.square().sum().sqrt()) / total, rows=int(where.sum()))
