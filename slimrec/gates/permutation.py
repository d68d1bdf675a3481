"""Permutation importance (Breiman 2001) of the trained network: what held-out rows lose when one field is shuffled."""

from __future__ import annotations

from typing import Literal

import torch
from scipy.stats import t as student
from torch import Tensor

from slimrec.errors import ConfigError
from slimrec.gates.survey import Batches, Survey
from slimrec.metrics import auc, log_loss
from slimrec.schema import Schema

_TOGETHER = 8192  # rows shuffled among each other: in random order, so that this is as good as over all


class PermutationGate(Survey):
    """importance_i = the fall of AUC (or the rise of log-loss) when field i alone is shuffled, mean of `repeats`.

    Blocks are shuffled, that is whole bags and vectors. At most `rows` rows of the gate slice are looked at, drawn at
    random. Networks that can (`Backbone.replacing`) renew only what the field adds to their first layer.

    Without a budget a field stays if its importance reaches `least` and beats chance: were the field meaningless, the
    unshuffled metric would be one more draw of the shuffled ones, and by Student's t it lies that far above their mean
    with a probability below `level`. On few rows that asks for a large effect. Sparse fields rank low, as they matter
    on few rows; of twins, each stands in for the other, and both rank low.
    """

    method = "permutation"

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        metric: Literal["auc", "log_loss"] = "auc",
        repeats: int = 5,
        rows: int = 32_768,
        least: float = 1e-4,
        level: float = 0.01,
    ):
        super().__init__(schema, embedding_dim)
        if metric not in ("auc", "log_loss"):
            raise ValueError(f"`metric` must be 'auc' or 'log_loss', got '{metric}'")
        if repeats < 2 or rows < 2 or not 0 < level < 1:
            raise ValueError(f"needs repeats >= 2, rows >= 2 and 0 < level < 1, got {repeats=}, {rows=}, {level=}")
        self.metric, self.repeats, self.most, self.least = metric, int(repeats), int(rows), least
        self.level = level
        self.register_buffer("spread", torch.zeros_like(self.importance))  # deviation over the repeats

    @torch.no_grad()
    def measure(self, model, batches: Batches) -> Tensor:
        ids, dense, label, weight = self.draw(batches, self.most)
        generator = torch.Generator().manual_seed(int(self.seed) + 1)
        before, after = [], []
        for part in torch.arange(len(label)).split(_TOGETHER):
            x = model.arena(*(inputs[part].to(self.owner.device) for inputs in (ids, dense)))
            orders = [torch.randperm(len(x), generator=generator).to(x.device) for _ in range(self.repeats)]
            before.append(model.backbone(x).cpu())
            after.append(shuffled_logits(model.backbone, x, orders).cpu())
        after = torch.cat(after, dim=2)  # (F, repeats, rows), of several tasks with one more
        self.rows.fill_(len(label))

        def worth(logits: Tensor) -> float | None:
            """Of several tasks the mean."""
            columns = (part.reshape(len(label), -1).numpy().T for part in (label, logits, weight))
            found = [-log_loss(*each) if self.metric == "log_loss" else auc(*each) for each in zip(*columns)]
            return None if None in found else sum(found) / len(found)

        unshuffled = worth(torch.cat(before))
        if unshuffled is None:
            raise ConfigError(
                f"method '{self.method}' needs both classes on the gate slice, {len(label)} rows hold one: enlarge "
                f"ingest.split.gate or set metric: log_loss"
            )
        falls = torch.tensor([[unshuffled - worth(logits) for logits in repeats] for repeats in after])
        self.spread.copy_(falls.std(dim=1))
        return falls.mean(dim=1)

    def margin(self) -> Tensor:
        """Importance (F,) that a meaningless field exceeds with probability `level`."""
        factor = student.isf(self.level, self.repeats - 1) * (1 + 1 / self.repeats) ** 0.5
        return factor * self.spread

    def needed(self) -> Tensor:
        return (self.importance >= self.least) & (self.importance > self.margin())

    def evidence(self) -> dict[str, float]:
        margins = zip(self.schema.names, self.margin().tolist())
        return super().evidence() | {f"margin/{name}": value for name, value in margins}


def shuffled_logits(backbone, x: Tensor, orders: list[Tensor]) -> Tensor:
    """Logits (F, R, B), or (F, R, B, T), of the blocks `x` (B, W), each field in turn taken from the rows that each of R `orders` names."""
    replaced, start, logits = backbone.replacing(x), 0, []
    for block in backbone.blocks:
        columns = x[:, start : start + block.width]
        logits.append(torch.stack([replaced(start, columns[order]) for order in orders]))
        start += block.width
    return torch.stack(logits)
