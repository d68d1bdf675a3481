"""Low-rank logits for pairs: a small vector for every value or field, and what two of them make together."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.gates.values import Values
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
        self.places = Values(schema)
        self.values = _table(self.places.starts[-1], width) if by_value else None
        self.fields = _table(count, width) if by_field else None
        cells = [i * count + j for i, j in combinations(range(count), 2)]
        self.register_buffer("cells", torch.tensor(cells, dtype=torch.long), persistent=False)

    def of_values(self, ids: Tensor) -> Tensor:
        """Logits (B, P) of the pairs of values that meet in each row of `ids` (B, S)."""
        vectors = F.embedding(self.places(ids), self.values, sparse=True)
        return self._meet(self.places.by_field(ids, vectors))

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
                taken = other.values[other.places.starts[theirs] : other.places.starts[theirs + 1]]
                self.values[self.places.starts[i] : self.places.starts[i + 1]].copy_(taken)
            if self.fields is not None:
                self.fields[i].copy_(other.fields[theirs])


def _table(rows: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, width)))
