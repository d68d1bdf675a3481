"""The processes of one training run: who I am, and how gradients meet (torchrun; gloo on CPU, nccl on CUDA)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimrec.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, number of processes, device; with one process every method is free."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Ranks:
        """Read torchrun's environment and open the process group where there is more than one process."""
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device: cuda was asked for, no GPU is visible here; use device: auto or cpu")
        cuda = device != "cpu" and torch.cuda.is_available()
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if cuda else "gloo")
        return cls(rank, world, chosen)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a detached tensor over all ranks."""
        value = value.detach()
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def average(self, buffers: Iterable[Tensor]) -> None:
        """Make running statistics the same on all ranks."""
        if self.world > 1:
            for buffer in buffers:
                dist.all_reduce(buffer)
                buffer /= self.world

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum dense gradients in place; gather the row gradients of sparse ones."""
        if self.world == 1:
            return
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                parameter.grad = self._gather(gradient)
            else:
                dist.all_reduce(gradient)

    def _gather(self, gradient: Tensor) -> Tensor:
        """All ranks' (rows, values); ranks may hold different numbers of rows."""
        rows, values = gradient._indices()[0], gradient._values()
        counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        longest = int(max(counts))
        padded_rows, padded_values = rows.new_zeros(longest), values.new_zeros(longest, values.shape[1])
        padded_rows[: len(rows)], padded_values[: len(rows)] = rows, values
        all_rows = [torch.empty_like(padded_rows) for _ in range(self.world)]
        all_values = [torch.empty_like(padded_values) for _ in range(self.world)]
        dist.all_gather(all_rows, padded_rows)
        dist.all_gather(all_values, padded_values)
        rows = torch.cat([part[:count] for part, count in zip(all_rows, counts)])
        values = torch.cat([part[:count] for part, count in zip(all_values, counts)])
        return torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False)
