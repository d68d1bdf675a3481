"""One table over the values of all fields: which of its rows a row of the log reads, and what they say of each field."""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.schema import Schema


class Values(nn.Module):
    """Places in a table with a row for every value; a number or a vector has one row for all its values.

    `starts` (F + 1,) says where the rows of each field begin, the last one how many there are.
    """

    def __init__(self, schema: Schema):
        super().__init__()
        self.fields = len(schema.fields)
        self.starts = list(accumulate((field.rows if field.embedded else 1 for field in schema.fields), initial=0))
        embedded = [(i, field) for i, field in enumerate(schema.fields) for _ in range(field.slots)]
        dense = [i for i, field in enumerate(schema.fields) if not field.embedded]
        self._index("offsets", [self.starts[i] for i, _ in embedded])
        self._index("dense_rows", [self.starts[i] for i in dense])
        self._index("owners", [i for i, _ in embedded] + dense)
        self._index("bags", [int(field.kind == "bag") for _, field in embedded])

    def _index(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table (B, V) for the slots `ids` (B, S) and the dense fields."""
        return torch.cat([ids + self.offsets, self.dense_rows.expand(len(ids), -1)], dim=1)

    def by_field(self, ids: Tensor, said: Tensor) -> Tensor:
        """What the rows read say (B, V, K), by field (B, F, K): of a bag the mean, 0 where it is empty."""
        present = ((ids != 0) | (self.bags == 0)).to(said.dtype)
        present = F.pad(present, (0, len(self.dense_rows)), value=1.0).unsqueeze(2)
        total = said.new_zeros(len(ids), self.fields, said.shape[2]).index_add(1, self.owners, said * present)
        count = said.new_zeros(len(ids), self.fields, 1).index_add(1, self.owners, present)
        return total / count.clamp(min=1)
