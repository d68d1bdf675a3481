"""OptEmbed (CIKM 2022, arXiv 2208.04482): values whose embeddings are too small go, and evolution chooses widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.gates.base import Gate
from slimrec.metrics import auc
from slimrec.schema import Block, Schema
from slimrec.selection import Budget, Selection

if TYPE_CHECKING:
    from slimrec.batch import Batch

_PARENTS = 2  # a candidate of evolution has: those before the point of the first, those behind of the second


class OptEmbedGate(Gate):
    """x_i -> 1[||x_i||_1 > t_i] x_i with its first w columns alone, w drawn anew for every row and field while training.

    `strength` * sum of exp(-t) presses the thresholds up; gradients pass the step by its long-tail estimator (`Step`).
    After the training, evolution looks for widths with the best AUC on the gate slice, in the one network that has
    learnt to do with any: `population` candidates, first at random and the native widths among them, for `generations`;
    the better half stays, and its members, each width drawn anew with probability `mutation`, or two of them joined at a
    point, fill up the other. Widths and thresholds concern embedded fields; numbers and vectors pass as they are.

    The decision: the first columns, as many as evolution found, of the fields of which any row passes the threshold.
    A field's score, by which budgets rank, is the share of the rows that pass times the share of its native width. The
    paper takes single values out of the tables, this cut does not, and it never ranks fields. Thresholds step on
    held-out rows here, with the network on training rows as published: `stream: train`, a single pass. In eval mode,
    and frozen, every value counts as much as passes of its field. Train the network anew: `finetune.start: fresh`.
    """

    method = "optembed"
    surveys = True
    shared = ("passing",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        strength: float = 1e-4,
        population: int = 20,
        generations: int = 10,
        mutation: float = 0.1,
        rows: int = 4096,
        learning_rate: float = 0.003,
        stream: Literal["gate", "train"] = "gate",
        every: int = 1,
        warmup: float = 0.1,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if strength < 0 or population < 4 or generations < 1 or not 0 <= mutation <= 1 or rows < 2:
            raise ValueError(
                f"needs strength >= 0, population >= 4, generations >= 1, mutation in 0..1 and rows >= 2, got "
                f"{strength=}, {population=}, {generations=}, {mutation=}, {rows=}"
            )
        self.strength, self.mutation, self.most, self.settled = strength, mutation, int(rows), 0.5
        self.population, self.generations = int(population), int(generations)
        self.searched = [i for i, field in enumerate(schema.fields) if field.embedded]
        native = torch.tensor([block.width for block in self.blocks])
        self.thresholds = nn.Parameter(torch.zeros(len(self.searched)))
        columns = torch.cat([torch.arange(block.width) for block in self.blocks])
        self.register_buffer("column", columns, persistent=False)  # (W,) its number within the block
        self.register_buffer("native", native, persistent=False)
        self.register_buffer("widths", native.clone())  # that evolution found
        self.register_buffer("passing", torch.ones(len(self.blocks)))  # share of rows that pass the threshold
        self.register_buffer("seed", torch.randint(2**31, ()))  # fixed by the seed the model is built with

    def passes(self, x: Tensor) -> Tensor:
        """1 (B, F) where a field of a row passes its threshold, else 0."""
        norms = x.new_zeros(len(x), len(self.blocks)).index_add_(1, self.owner, x.abs())[:, self.searched]
        on = Step.apply(norms - self.thresholds.to(x.dtype))
        return torch.ones(len(x), len(self.blocks), dtype=x.dtype, device=x.device).index_copy(
            1, torch.tensor(self.searched, dtype=torch.long, device=x.device), on
        )

    def drawn(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Widths (..., F), uniform in 1..native for the fields that are searched."""
        uniform = torch.rand(*shape, len(self.blocks), generator=generator).to(self.native.device)
        widths = (uniform * self.native).long().clamp(max=self.native - 1) + 1
        free = torch.zeros_like(self.native, dtype=torch.bool)
        free[self.searched] = True
        return torch.where(free, widths, self.native)

    def within(self, widths: Tensor) -> Tensor:
        """1 (..., W) for the columns that widths (..., F) reach."""
        return self.column < widths[..., self.owner]

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            return x * self.passing.to(x.dtype)[self.owner]
        passes = self.passes(x)
        self.passing.lerp_(passes.detach().to(self.passing.dtype).mean(0), 0.05)
        return x * passes[:, self.owner] * self.within(self.drawn((len(x),)))

    def penalty(self) -> Tensor:
        return self.strength * torch.exp(-self.thresholds).sum()

    @torch.no_grad()
    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Count what passes on the gate slice, and let widths evolve on its first `rows` rows."""
        total, worth, parts, rows = torch.zeros_like(self.passing, dtype=torch.double), 0.0, [], 0
        for batch in batches():
            ids, dense, weight = (part.to(self.owner.device) for part in (batch.ids, batch.dense, batch.row_weight))
            x = model.arena(ids, dense)
            passes = self.passes(x)
            total, worth = total + weight.double() @ passes.double(), worth + float(weight.double().sum())
            if rows < self.most:
                parts.append((x * passes[:, self.owner], batch.label, batch.weight))
                rows += len(x)
        self.passing.copy_(total / worth)
        x, label, weight = (torch.cat(part)[: self.most] for part in zip(*parts))
        self.widths.copy_(self.evolve(lambda widths: self._auc(model.backbone(x * self.within(widths)), label, weight)))

    def _auc(self, logits: Tensor, label: Tensor, weight: Tensor) -> float:
        """Mean over tasks, where there are several."""
        columns = (part.float().cpu().reshape(len(label), -1).T.numpy() for part in (label, logits, weight))
        found = [auc(*task) for task in zip(*columns)]
        if None in found:
            raise ConfigError(
                f"method '{self.method}' needs both classes on the gate slice, {len(label)} rows hold one: enlarge "
                f"ingest.split.gate"
            )
        return sum(found) / len(found)

    def evolve(self, fitness: Callable[[Tensor], float]) -> Tensor:
        """The fittest widths (F,) of all generations."""
        generator = torch.Generator().manual_seed(int(self.seed))
        children = [self.native.clone(), *self.drawn((self.population - 1,), generator)]
        ranked: list[tuple[float, Tensor]] = []
        for _ in range(self.generations):
            ranked += [(fitness(child), child) for child in children]
            ranked = sorted(ranked, key=lambda one: -one[0])[: self.population // 2]
            parents = [widths for _, widths in ranked]
            changed = [self._mutated(parent, generator) for parent in parents]
            joined = (self._joined(parents, generator) for _ in range(self.population))
            children = [*changed, *islice(joined, self.population - len(parents) - len(changed))]
        return ranked[0][1]

    def _mutated(self, widths: Tensor, generator: torch.Generator) -> Tensor:
        new = torch.rand(len(widths), generator=generator).to(widths.device) < self.mutation
        return torch.where(new, self.drawn((), generator), widths)

    def _joined(self, parents: list[Tensor], generator: torch.Generator) -> Tensor:
        first, second = torch.randint(len(parents), (_PARENTS,), generator=generator).tolist()
        point = int(torch.randint(len(self.blocks) + 1, (), generator=generator))
        return torch.cat([parents[first][:point], parents[second][point:]])

    def scores(self) -> dict[str, float]:
        score = self.passing.double() * self.widths / self.native
        return dict(zip(self.schema.names, score.clamp(0, 1).tolist()))

    def evidence(self) -> dict[str, float]:
        names, found = self.schema.names, {}
        for name, width, share in zip(names, self.widths.tolist(), self.passing.tolist()):
            found |= {f"width/{name}": float(width), f"passing/{name}": share}
        return found

    def affine(self) -> tuple[Tensor, Tensor]:
        scale = self.passing[self.owner]
        return scale, torch.zeros_like(scale)

    def returning(self, block: Block) -> tuple[int, ...]:
        return block.columns[: int(self.widths[self.blocks.index(block)])]

    def select(self, budget: Budget, seed: int) -> Selection:
        """Fields by score, or without a budget those of which anything passes, at the widths found; keep: 1 keeps all."""
        if budget.keep == 1:
            return self._pack(budget, seed, {block.name: block.columns for block in self.blocks})
        chosen = budget.choose(self.scores(), self.takes(budget), threshold=torch.finfo(torch.double).tiny)
        columns = {block.name: self.returning(block) if block.name in chosen else () for block in self.blocks}
        return self._pack(budget, seed, columns)


class Step(torch.autograd.Function):
    """1[v > 0], whose gradient is the long-tail estimator of Liu et al. 2020 (arXiv 2005.06870): 2 - 4 |v| up to
    |v| = 0.4, then 0.4 up to 1, then 0."""

    @staticmethod
    def forward(ctx, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        size = ctx.saved_tensors[0].abs()
        slope = torch.where(size <= 0.4, 2 - 4 * size, torch.where(size <= 1, 0.4, 0.0))
        return gradient * slope.to(gradient.dtype)
