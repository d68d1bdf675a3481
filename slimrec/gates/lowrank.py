"""Low-rank logits for pairs: a small vector for every value or field, and what two of them make together."""

from __future__ import annotations

from itertools import accumulate, combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.schema import Schema


class PairLogits(nn.Module):
    """raw_ij = sum over k of sigma_k u_ik u_jk for fields i < j, where u = Linear(row of an auxiliary table).

    `by_value` gives every value a row of `values` (a number or a vector has one row for all its values, a bag the mean
    of its values' rows), `by_field` every field a row of `fields`; both go through the same Linear and sigma. The
    Linear's bias matters: at the start all rows are near zero and raw_ij near the sum of its squares, so that every
    pair begins well above 0.
    """

    def __init__(self, schema: Schema, by_value: bool, by_field: bool, width: int, rank: int):
        super().__init__()
        self.schema, count = schema, len(schema.fields)
        self.project = nn.Linear(width, rank)
        self.sigma = nn.Parameter(torch.ones(rank))
        rows = [field.rows if field.embedded else 1 for field in schema.fields]
        self.starts = list(accumulate(rows, initial=0))
        self.values = _table(sum(rows), width) if by_value else None
        self.fields = _table(count, width) if by_field else None
        embedded = [(i, field) for i, field in enumerate(schema.fields) for _ in range(field.slots)]
        dense = [i for i, field in enumerate(schema.fields) if not field.embedded]
        self._index("offsets", [self.starts[i] for i, _ in embedded])
        self._index("dense_rows", [self.starts[i] for i in dense])
        self._index("owners", [i for i, _ in embedded] + dense)
        self._index("bags", [int(field.kind == "bag") for _, field in embedded])
        self._index("cells", [i * count + j for i, j in combinations(range(count), 2)])

    def _index(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def of_values(self, ids: Tensor) -> Tensor:
        """Logits (B, P) of the pairs of values that meet in each row of `ids` (B, S)."""
        rows = torch.cat([ids + self.offsets, self.dense_rows.expand(len(ids), -1)], dim=1)
        vectors = F.embedding(rows, self.values, sparse=True)
        present = ((ids != 0) | (self.bags == 0)).to(vectors.dtype)
        present = F.pad(present, (0, len(self.dense_rows)), value=1.0)
        shape = (len(ids), len(self.schema.fields))
        total = vectors.new_zeros(*shape, vectors.shape[2]).index_add(1, self.owners, vectors * present.unsqueeze(2))
        count = vectors.new_zeros(shape).index_add(1, self.owners, present)
        return self._meet(total / count.clamp(min=1).unsqueeze(2))

    def of_fields(self) -> Tensor:
        """Logits (P,) of the pairs of fields."""
        return self._meet(self.fields)

    def _meet(self, vectors: Tensor) -> Tensor:
        """(..., F, width) -> (..., P).

        As u is affine in its row e, sum_k sigma_k u_ik u_jk is [e_i, 1] core [e_j, 1]' with a core of width + 1: the same
        numbers without a vector of the full rank for each field of each row.
        """
        affine = torch.cat([self.project.weight, self.project.bias.unsqueeze(1)], dim=1)  # (rank, width + 1)
        core = affine.T @ (self.sigma.unsqueeze(1) * affine)
        extended = F.pad(vectors, (0, 1), value=1.0)
        return (extended @ core @ extended.transpose(-1, -2)).flatten(-2).index_select(-1, self.cells)

    @torch.no_grad()
    def copy_from(self, other: PairLogits) -> None:
        """Take over all weights of `other`, and of its tables the rows of the fields that are here."""
        self.project.load_state_dict(other.project.state_dict())
        self.sigma.copy_(other.sigma)
        for i, name in enumerate(self.schema.names):
            theirs = other.schema.names.index(name)
            if self.values is not None:
                taken = other.values[other.starts[theirs] : other.starts[theirs + 1]]
                self.values[self.starts[i] : self.starts[i + 1]].copy_(taken)
            if self.fields is not None:
                self.fields[i].copy_(other.fields[theirs])


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))
