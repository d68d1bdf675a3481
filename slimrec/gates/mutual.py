"""Each field against the label by itself, without a model: mutual information and chi-squared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import chi2_contingency
from torch import Tensor

from slimrec.gates.survey import Batches, Survey
from slimrec.schema import Field, Schema


class MutualInformationGate(Survey):
    """importance_i = mutual information of field and label in nats, from weighted counts over the gate slice.

    Categories count as they are encoded, a dense column by its `bins` quantiles, a vector as its best column, a bag
    as one of its values drawn at random (an empty one as a value of its own). A raw mutual information flatters
    fields of many values: one that is unique a row tells all labels of the rows it is counted on, and ranks first.

    The decision without a budget allows for that: a field stays if a field without meaning had as large a Pearson
    statistic with a probability below `level`. (That one holds for rare values, the likelihood ratio 2 N I does not.)
    Under weights N is the effective number of rows, (sum w)^2 / sum w^2. Fields that matter only together with others
    are not seen. Of several tasks the importances add up, and a field stays that any of them needs.
    """

    method = "mutual_information"

    def __init__(self, schema: Schema, embedding_dim: int, *, bins: int = 32, level: float = 0.01):
        super().__init__(schema, embedding_dim)
        if bins < 2 or not 0 < level < 1:
            raise ValueError(f"needs bins >= 2 and 0 < level < 1, got {bins=}, {level=}")
        self.bins, self.level = int(bins), level
        self.register_buffer("chance", torch.ones_like(self.importance))  # that a field without meaning does as well

    def measure(self, model, batches: Batches) -> Tensor:
        tasks = self.schema.tasks
        if not tasks:
            importance, chance = self._judge(batches)
        else:
            each = [self._judge(lambda t=t: (batch.of_task(t) for batch in batches())) for t in range(len(tasks))]
            importance = sum(found for found, _ in each)
            chance = (len(tasks) * torch.stack([found for _, found in each]).amin(0)).clamp(max=1)  # Bonferroni
        self.chance.copy_(chance)
        return importance

    def _judge(self, batches: Batches) -> tuple[Tensor, Tensor]:
        """Importance (F,) for one label, and the chance (F,) that a field without meaning has as much."""
        tables, effective = self._count(batches)
        tests = [[self._test(table, effective) for table in tables[field.name]] for field in self.schema.fields]
        best = [max(columns, key=lambda test: test[0]) for columns in tests]
        chance = [min(1.0, p * len(columns)) for (_, p), columns in zip(best, tests)]  # Bonferroni
        return torch.tensor([importance for importance, _ in best]), torch.tensor(chance)

    def _test(self, table: np.ndarray, effective: float) -> tuple[float, float]:
        """Importance and probability of counts (values, 2)."""
        table = table[table.any(axis=1)] * (effective / table.sum())
        if len(table) < 2 or not table.any(axis=0).all():
            return 0.0, 1.0
        pearson, probability, *_ = chi2_contingency(table, correction=False)
        return self.strength(table, float(pearson)) / effective, float(probability)

    def strength(self, table: np.ndarray, pearson: float) -> float:
        """N times the importance that counts (values, 2) show; `pearson` is their chi-squared statistic."""
        return float(chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic) / 2

    def _count(self, batches: Batches) -> tuple[dict[str, list[np.ndarray]], float]:
        """Weight by value and label, (values, 2) for each column of each field, and the effective number of rows."""
        edges = self._edges(batches)
        tables = {
            f.name: [np.zeros((f.rows if f.embedded else self.bins, 2)) for _ in range(f.dense_width or 1)]
            for f in self.schema.fields
        }
        worth, squares = 0.0, 0.0
        for batch in batches():
            label, weight = batch.label.numpy().astype(np.int64), batch.weight.double().numpy()
            for field, values in parts(self.schema.embedded, batch.ids.numpy()):
                tables[field.name][0] += _tally(values, label, _spread(field, values, weight), field.rows)
            for (field, values), inner in zip(parts(self.schema.dense, batch.dense.numpy()), edges):
                for table, column, edge in zip(tables[field.name], values.T, inner):
                    bins = np.searchsorted(edge, column, side="right")
                    table += _tally(bins[:, None], label, weight[:, None], self.bins)
            worth, squares = worth + weight.sum(), squares + np.square(weight).sum()
        return tables, worth**2 / squares

    def _edges(self, batches: Batches) -> list[np.ndarray]:
        """Inner bin edges (width, bins - 1) of every dense field."""
        if not self.schema.dense:
            return []
        dense = np.concatenate([batch.dense.numpy() for batch in batches()])
        inner = np.quantile(dense, np.arange(1, self.bins) / self.bins, axis=0).T
        return [part.T for _, part in parts(self.schema.dense, inner.T)]

    def needed(self) -> Tensor:
        return self.chance < self.level

    def evidence(self) -> dict[str, float]:
        chances = zip(self.schema.names, self.chance.tolist())
        return super().evidence() | {f"chance/{name}": value for name, value in chances}


class Chi2Gate(MutualInformationGate):
    """importance_i = Pearson's chi-squared of field and label over N (phi^2), from the same counts by the same rules."""

    method = "chi2"

    def __init__(self, schema: Schema, embedding_dim: int, *, bins: int = 32, level: float = 0.01):
        super().__init__(schema, embedding_dim, bins=bins, level=level)

    def strength(self, table: np.ndarray, pearson: float) -> float:
        return pearson


def parts(fields: tuple[Field, ...], matrix: np.ndarray) -> Iterator[tuple[Field, np.ndarray]]:
    """The columns of a batch's matrix (n, sum) that belong to each of its fields."""
    start = 0
    for field in fields:
        size = field.slots or field.dense_width
        yield field, matrix[:, start : start + size]
        start += size


def _spread(field: Field, ids: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weight (n, slots) of each slot: of a bag, the row's in equal parts; of an empty one, all on its padding."""
    if field.kind != "bag":
        return weight[:, None]
    present = (ids != 0).astype(np.float64)
    present[~present.any(axis=1), 0] = 1
    return present * (weight / present.sum(axis=1))[:, None]


def _tally(values: np.ndarray, label: np.ndarray, weight: np.ndarray, rows: int) -> np.ndarray:
    """Sums of the weights (n, slots) by value and label: (rows, 2)."""
    cells = values.astype(np.int64) * 2 + label[:, None]
    return np.bincount(cells.ravel(), weights=weight.ravel(), minlength=2 * rows).reshape(rows, 2)
