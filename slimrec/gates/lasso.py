"""The lasso (Tibshirani 1996): logistic regression on the values themselves, with an L1 penalty that leaves few of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from slimrec.gates.mutual import parts
from slimrec.gates.survey import Batches, Survey
from slimrec.schema import Schema

_INTERCEPT = 100.0  # liblinear presses the intercept too, the less the larger this is


class LassoGate(Survey):
    """importance_i = deviation of sum_v b_v x_v over the values v of field i, on rows that the b were not fitted on.

    The b minimise, by scikit-learn's liblinear, the log-loss of the training rows plus a penalty on the sum of |b|.
    Categories are one-hot, a bag shares 1 out among its values, dense columns count as they are. Every column is divided
    by its deviation, so that rare values are pressed as hard as frequent ones. The penalty is `strength` times the level
    that Donoho & Johnstone (1994) call universal: that which no column without meaning is likely to pass, of as many as
    there are. At most `rows` rows are read, drawn at random; every other one is kept from the fit.

    Public benchmarks fit scikit-learn's Lasso to label-encoded ids as if they were numbers, which says little of ids.
    Without a budget, fields of which any value has a b stay. Meetings of fields are not seen.
    """

    method = "lasso"
    surveyed = "train"
    of_one_label = True

    def __init__(self, schema: Schema, embedding_dim: int, *, strength: float = 1.0, rows: int = 200_000):
        super().__init__(schema, embedding_dim)
        if strength <= 0 or rows < 4:
            raise ValueError(f"needs strength > 0 and rows >= 4, got {strength=}, {rows=}")
        self.strength, self.most = strength, int(rows)

    def measure(self, model, batches: Batches) -> Tensor:
        ids, dense, label, weight = (part.numpy() for part in self.draw(batches, self.most))
        self.rows.fill_(len(label))
        fitted, other = np.arange(len(label)) % 2 == 0, np.arange(len(label)) % 2 == 1
        tables = self._tables(ids, dense)
        table = sparse.hstack([tables[name] for name in self.schema.names], format="csr")
        coefficients = self._fit(table[fitted], label[fitted], weight[fitted].astype(np.float64))
        importance, start, held = [], 0, weight[other].astype(np.float64)
        for name in self.schema.names:
            width = tables[name].shape[1]
            sums = tables[name][other] @ coefficients[start : start + width]
            mean = np.average(sums, weights=held)
            importance.append(math.sqrt(np.average((sums - mean) ** 2, weights=held)))
            start += width
        return torch.tensor(importance, dtype=torch.double)

    def _tables(self, ids: np.ndarray, dense: np.ndarray) -> dict[str, sparse.csr_matrix]:
        """By field, its columns (rows, width)."""
        tables = {field.name: sparse.csr_matrix(values) for field, values in parts(self.schema.dense, dense)}
        for field, values in parts(self.schema.embedded, ids):
            share = np.ones(values.shape) if field.kind != "bag" else (values != 0).astype(np.float64)
            share /= np.maximum(share.sum(axis=1, keepdims=True), 1)
            row = np.repeat(np.arange(len(values)), values.shape[1])
            shape = (len(values), field.rows)
            tables[field.name] = sparse.csr_matrix((share.ravel(), (row, values.ravel())), shape=shape)
        return tables

    def _fit(self, table: sparse.csr_matrix, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Coefficients of the columns of `table`, 0 for those that are always the same."""
        share = weight / weight.sum()
        mean = share @ table
        deviation = np.sqrt(np.maximum(share @ table.multiply(table) - mean**2, 0))
        scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-9)
        rate = float(share @ label)
        if not 0 < rate < 1:
            return np.zeros(table.shape[1])
        noise = math.sqrt(rate * (1 - rate) * float(np.square(weight).sum()))  # deviation of a slope that means nothing
        penalty = self.strength * noise * math.sqrt(2 * math.log(max(2, np.count_nonzero(scale))))
        options = {"intercept_scaling": _INTERCEPT, "max_iter": 1000, "random_state": 0}
        regression = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=1 / penalty, **options)
        regression.fit(table.multiply(scale).tocsr(), label, sample_weight=weight)
        return regression.coef_[0] * scale

    def needed(self) -> Tensor:
        return self.importance > 0
