"""Row-sparse optimizers: they read and write only the table rows of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class RowOptimizer(torch.optim.Optimizer, ABC):
    """Base: sums a table's sparse gradient over repeated rows once, then updates those rows."""

    def __init__(self, tables: Iterable[nn.Parameter], learning_rate: float, l2: float = 0.0):
        super().__init__(list(tables), {"lr": learning_rate, "l2": l2})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                rows, gradient = sum_rows(table.grad._indices()[0], table.grad._values())
                if group["l2"]:
                    gradient.add_(table[rows], alpha=group["l2"])
                self._update(table, rows, gradient, group["lr"], self.state[table])

    @abstractmethod
    def _update(self, table: Tensor, rows: Tensor, gradient: Tensor, learning_rate: float, state: dict) -> None:
        """Move `rows` (n,) of the table by their summed `gradient` (n, D); may overwrite `gradient`."""


class LazyAdam(RowOptimizer):
    """Adam (betas .9, .999) whose moments move only for the rows of a batch, bias-corrected by the global step.

    Dense Adam also moves rows that are absent from the batch by their old momentum; this does not.
    """

    def _update(self, table: Tensor, rows: Tensor, gradient: Tensor, learning_rate: float, state: dict) -> None:
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        step = float(state["step"])
        mean = state["mean"][rows].lerp_(gradient, 0.1)
        square = state["square"][rows].lerp_(gradient.square(), 0.001)
        state["mean"].index_copy_(0, rows, mean)
        state["square"].index_copy_(0, rows, square)
        scale = (square / (1 - 0.999**step)).sqrt_().add_(1e-8)
        table.index_add_(0, rows, mean.div_(scale), alpha=-learning_rate / (1 - 0.9**step))


class RowwiseAdagrad(RowOptimizer):
    """Adagrad with one accumulator a row: the mean square of the row's gradient."""

    def _update(self, table: Tensor, rows: Tensor, gradient: Tensor, learning_rate: float, state: dict) -> None:
        if not state:
            state["sum"] = torch.zeros(len(table), device=table.device)
        total = state["sum"][rows].add_(gradient.square().mean(1))
        state["sum"].index_copy_(0, rows, total)
        table.index_add_(0, rows, gradient.div_(total.sqrt_().add_(1e-10)[:, None]), alpha=-learning_rate)


def sum_rows(rows: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, ascending, and the sum of the gradients of each."""
    distinct, place = torch.unique(rows, return_inverse=True)
    summed = gradient.new_zeros(len(distinct), gradient.shape[1]).index_add_(0, place, gradient)
    return distinct, summed
