"""Several tasks on the same gated blocks: one network a task, and the product of chances where a task comes after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone
from slimrec.schema import Task
from slimrec.selection import Selection


class Towers(Backbone):
    """Logits (B, T) of T networks of one kind and shape, which share embeddings and gate, as in ESMM and shared-bottom models.

    `after` says for each task the number of an earlier one, or None. The network of a task with one gives the chance that
    its event follows the other's, and the logit is that of both: p_t = p_after(t) * sigmoid(network_t(x)), the pCTCVR =
    pCTR * pCVR of Ma et al. 2018 (arXiv 1804.07931). Cuts are as exact as those of the networks.
    """

    def __init__(self, networks: Sequence[Backbone], after: Sequence[int | None]):
        super().__init__(networks[0].blocks, **networks[0].options)
        self.networks, self.after = nn.ModuleList(networks), tuple(after)

    @property
    def meets_pairs(self) -> bool:  # type: ignore[override]
        """Whether its networks do."""
        return self.networks[0].meets_pairs

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        return self._joined([network(x, pairs) for network in self.networks])

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return tuple(layer for network in self.networks for layer in network.first_layers())

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        each = [network.replacing(x) for network in self.networks]
        return lambda start, columns: self._joined([replaced(start, columns) for replaced in each])

    def narrow(self, selection: Selection, fill: Tensor) -> Towers:
        return Towers([network.narrow(selection, fill) for network in self.networks], self.after).train(self.training)

    def _joined(self, logits: list[Tensor]) -> Tensor:
        """Logits (B, T) from those of the networks, each (B,)."""
        for task, first in enumerate(self.after):
            if first is not None:
                logits[task] = both(logits[first], logits[task])
        return torch.stack(logits, 1)


def both(first: Tensor, second: Tensor) -> Tensor:
    """The logit of sigmoid(first) * sigmoid(second): 1/p - 1 is e^-a + e^-b + e^-(a+b), so that nothing overflows."""
    return -torch.logsumexp(torch.stack([-first, -second, -first - second]), 0)


def before(tasks: Sequence[Task]) -> list[int | None]:
    """The number of the task that each comes after."""
    names = [task.name for task in tasks]
    return [None if task.after is None else names.index(task.after) for task in tasks]
