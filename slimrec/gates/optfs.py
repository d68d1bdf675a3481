"""OptFS (arXiv 2301.10909): a mask for every value of every field, driven to 0 or 1 by learning-by-continuation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.gates.values import Values
from slimrec.schema import Schema

if TYPE_CHECKING:
    from slimrec.batch import Batch


class OptFSGate(Gate):
    """x_i -> m(v) x_i where v is the value of field i in the row, m(v) = sigma(tau c_v) / sigma(`start`).

    tau grows from 1 to `hottest` over the search, as hottest^(share of training done), so that m ends as a step of c_v,
    which stays where c_v > 0. Each c_v begins at `start`, and `strength` * sum over all values of sigma(tau c_v) presses
    it down. Masks and network step together on training rows, as published: in a single pass here, so that no mask
    sees a row that the network knows. A number or a vector has one mask, a bag the mean of its values' masks.

    The paper takes values out of the embedding table. A cut here takes whole fields: one stays whole where the mean of
    sigma(c_v) over the rows of the gate slice, its score, reaches 1/2, the bar of a value, or by a budget. That mean also
    ranks fields whose values are all on. In eval mode, and frozen, every value has the mean mask of its field. The
    paper retrains the network from the weights of an early epoch: `finetune.start: initial`, the weights before the first.
    The published `hottest` is 200 to 10,000 and `strength` 1e-9 to 1e-8 with some ten thousand steps at 1e-4; these are
    for some hundred steps, chosen on planted logs. What steps seldom is pressed as much as what steps often, so rare
    values, and fields of which all are rare, need a log on which they come often enough to hold themselves.
    """

    method = "optfs"
    surveys = True
    shared = ("level",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        start: float = 0.5,
        hottest: float = 200.0,
        strength: float = 3e-4,
        learning_rate: float = 0.03,
        warmup: float = 0.1,
    ):
        super().__init__(schema, embedding_dim)
        self.drive("train", 1, learning_rate, warmup)
        if start <= 0 or hottest < 1 or strength < 0:
            raise ValueError(f"needs start > 0, hottest >= 1 and strength >= 0, got {start=}, {hottest=}, {strength=}")
        self.hottest, self.strength, self.full = hottest, strength, float(torch.sigmoid(torch.tensor(float(start))))
        self.places = Values(schema)
        self.values = nn.Parameter(torch.full((self.places.starts[-1], 1), float(start)))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("level", torch.ones(len(self.blocks)))  # mean mask of each field over rows
        self.register_buffer("worth", torch.full((len(self.blocks),), self.full))  # mean of sigma(c)
        self.register_buffer("on", torch.ones(len(self.blocks)))  # share of rows whose value stays

    def by_field(self, ids: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """`of` the c of the values in each row of `ids` (B, S), by field: (B, F); of a bag their mean, 0 if it is empty."""
        return self.places.by_field(ids, of(F.embedding(self.places(ids), self.values))).squeeze(2)

    def mask(self, c: Tensor) -> Tensor:
        return torch.sigmoid(self.temperature * c) / self.full

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            return x * self.level.to(x.dtype)[self.owner]
        masks = self.by_field(ids, self.mask)
        self.level.lerp_(masks.detach().mean(0), 0.01)
        return x * masks.to(x.dtype)[:, self.owner]

    def penalty(self) -> Tensor:
        return self.strength * torch.sigmoid(self.temperature * self.values).sum()

    def step(self, progress: float) -> None:
        self.temperature.fill_(self.hottest**progress)

    @torch.no_grad()
    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Average masks over the gate slice."""
        looks = {"level": self.mask, "worth": torch.sigmoid, "on": lambda c: (c > 0).to(c.dtype)}
        sums, total = {name: torch.zeros_like(self.level, dtype=torch.double) for name in looks}, 0.0
        for batch in batches():
            ids, weight = (part.to(self.owner.device) for part in (batch.ids, batch.row_weight.double()))
            for name, look in looks.items():
                sums[name] += weight @ self.by_field(ids, look).double()
            total += float(weight.sum())
        for name in looks:
            getattr(self, name).copy_(sums[name] / total)

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.worth.tolist()))

    def evidence(self) -> dict[str, float]:
        stays = float((self.values > 0).float().mean())
        return {
            "temperature": float(self.temperature),
            "values_on": stays,
            **{f"on/{name}": share for name, share in zip(self.schema.names, self.on.tolist())},
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.level[self.owner]
        return scale, torch.zeros_like(scale)
