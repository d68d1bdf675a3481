"""The processes of one training run: who I am, and how gradients meet (torchrun; gloo on CPU, nccl on CUDA)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.optimizers import sum_rows

_PATIENCE = timedelta(hours=2)  # while the first rank writes or surveys; torchrun and Kubernetes notice dead ranks
_LARGE = 1 << 20  # values; from this size on a tensor travels by itself, smaller ones share a message


@dataclass(frozen=True)
class Ranks:
    """Rank of this process, number of processes, device; with one process every method is free.

    All ranks have to call the same methods in the same order: each is one exchange between them.
    """

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
        chosen = torch.device("cpu")
        if cuda:
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            if chosen.index >= torch.cuda.device_count():
                raise ConfigError(
                    f"process {chosen.index + 1} of this node has no GPU of its own: {torch.cuda.device_count()} are "
                    f"visible; lower train.processes"
                )
            torch.cuda.set_device(chosen)
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
        return cls(rank, world, chosen)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a detached tensor over all ranks."""
        value = value.detach()
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on some rank; nobody goes on before everybody has come here."""
        if self.world == 1:
            return flag
        told = torch.tensor([int(flag)])
        dist.all_reduce(told)
        return bool(told)

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank what the first one holds."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def average(self, buffers: Iterable[Tensor]) -> None:
        """Make running statistics the same on all ranks."""
        if self.world > 1:
            buffers = list(buffers)
            _sum_in_place(buffers)
            for buffer in buffers:
                buffer /= self.world

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum dense gradients in place; gather the row gradients of sparse ones.

        A parameter has a gradient on all ranks or on none, as in the networks and gates of the project.
        """
        if self.world == 1:
            return
        learning = [parameter for parameter in parameters if parameter.grad is not None]
        for parameter in learning:
            if parameter.grad.is_sparse:
                parameter.grad = self._gather(parameter.grad)
        _sum_in_place([parameter.grad for parameter in learning if not parameter.grad.is_sparse])

    def _gather(self, gradient: Tensor) -> Tensor:
        """All ranks' (rows, values), each row once a rank; ranks may hold different numbers of rows."""
        rows, values = sum_rows(gradient._indices()[0], gradient._values())
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


def _sum_in_place(tensors: list[Tensor]) -> None:
    """Sum over all ranks; small tensors of one type go together in one message."""
    for tensor in tensors:
        if tensor.numel() >= _LARGE:
            dist.all_reduce(tensor)
    small = [tensor for tensor in tensors if tensor.numel() < _LARGE]
    for dtype in sorted({tensor.dtype for tensor in small}, key=str):
        alike = [tensor for tensor in small if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(flat)
        for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike])):
            tensor.copy_(part.view_as(tensor))
