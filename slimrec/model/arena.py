"""The embedding arena: all tables of one width in one matrix, beside them the dense columns; inputs -> blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimrec.schema import PAD, Block, Schema
from slimrec.selection import Selection


class Arena(nn.Module):
    """All embedding tables, those of one width in ONE matrix, and the dense columns: inputs -> blocks (B, W).

    `ids` (B, S) holds the slots of the embedded fields in schema order (bags take several, padded with 0), counted
    from 0 within each field; `dense` (B, N) the columns of numbers and vectors in schema order. Bags are averaged
    over their values; an empty bag has the row of the padding, zeros at first. (Ingest leaves none empty: a bag
    without values holds the missing value.) Look-ups give sparse gradients while `sparse` is set. While a training
    shares the tables out among ranks they are in `shards` (see `slimrec.training.sharded`), and `tables` is empty.
    """

    def __init__(self, schema: Schema, blocks: Sequence[Block], std: float = 0.01):
        super().__init__()
        self.schema, self.blocks, self.sparse = schema, tuple(blocks), True
        self.shards: nn.Module | None = None
        if tuple(block.name for block in blocks) != schema.names:
            raise ValueError(f"blocks {[b.name for b in blocks]} do not follow the schema {list(schema.names)}")
        width = {block.name: block.width for block in blocks}
        slot = dict(zip(schema.names, _starts([field.slots for field in schema.fields])))
        self.groups = {w: [f for f in schema.embedded if width[f.name] == w] for w in _distinct(schema, width)}
        self.tables = nn.ParameterDict()
        for group_width, fields in self.groups.items():
            offsets = _starts([field.rows for field in fields])
            self._index(f"offsets_{group_width}", [o for f, o in zip(fields, offsets) for _ in range(f.slots)])
            self._index(f"slots_{group_width}", [slot[f.name] + i for f in fields for i in range(f.slots)])
            table = torch.empty(sum(field.rows for field in fields), group_width).normal_(0, std)
            table[[offset + PAD for field, offset in zip(fields, offsets) if field.kind == "bag"]] = 0
            self.tables[str(group_width)] = nn.Parameter(table)
        dense_start = dict(zip(schema.names, _starts([field.dense_width for field in schema.fields])))
        dense = [b for b in blocks if not schema[b.name].embedded]
        self._index("dense_columns", [dense_start[b.name] + c for b in dense for c in b.columns])
        self.register_buffer("dense_scale", torch.ones(len(self.dense_columns)))
        self.register_buffer("dense_shift", torch.zeros(len(self.dense_columns)))
        self._index("order", self._concatenation_order(dense))

    def _index(self, name: str, values: list[int]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)

    def _concatenation_order(self, dense: list[Block]) -> list[int]:
        """Where each column of the layout lies in [group, group, ..., dense]; empty when already in place."""
        laid = [f.name for fields in self.groups.values() for f in fields] + [b.name for b in dense]
        width = {block.name: block.width for block in self.blocks}
        start = dict(zip(laid, _starts([width[name] for name in laid])))
        order = [start[b.name] + i for b in self.blocks for i in range(b.width)]
        return [] if order == list(range(len(order))) else order

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        parts = [self._look_up(ids, width, fields) for width, fields in self.groups.items()]
        if len(self.dense_columns):
            parts.append(dense.index_select(1, self.dense_columns) * self.dense_scale + self.dense_shift)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return x.index_select(1, self.order) if len(self.order) else x

    def _look_up(self, ids: Tensor, width: int, fields: list) -> Tensor:
        slots, offsets = getattr(self, f"slots_{width}"), getattr(self, f"offsets_{width}")
        local = ids if len(slots) == ids.shape[1] else ids.index_select(1, slots)
        rows = local + offsets
        if self.shards is not None:
            values = self.shards(rows, width)
        else:
            values = F.embedding(rows, self.tables[str(width)], sparse=self.sparse)  # (B, S, width)
        if all(field.kind != "bag" for field in fields):
            return values.flatten(1)
        blocks, start = [], 0
        for run in _runs(fields):
            size = sum(field.slots for field in run)
            part = values[:, start : start + size]
            if run[0].kind == "bag":
                present = (local[:, start : start + size] != PAD).to(values.dtype)
                count = present.sum(1, keepdim=True)
                present[:, :1] += count == 0
                part = torch.einsum("bld,bl->bd", part, present) / count.clamp(min=1)
            blocks.append(part.flatten(1))
            start += size
        return torch.cat(blocks, dim=1)

    def rows_of(self, name: str) -> Tensor:
        """A view of one field's table (rows, width)."""
        for width, fields in self.groups.items():
            for field, start in zip(fields, _starts([f.rows for f in fields])):
                if field.name == name:
                    return self.tables[str(width)][start : start + field.rows]
        raise KeyError(f"field '{name}' has no embedding table")

    @torch.no_grad()
    def narrow(self, selection: Selection) -> Arena:
        """The arena without dropped rows and columns, the frozen gate folded into tables and dense columns. Exact."""
        blocks = selection.blocks(self.blocks)
        with torch.random.fork_rng(devices=[]):  # a cut draws nothing from the caller's stream
            arena = Arena(self.schema.narrow(b.name for b in blocks), blocks).to(self.dense_scale.dtype)
        arena.sparse = self.sparse
        scale, shift = (torch.tensor(v) for v in selection.affine(self.blocks))
        start = dict(zip((b.name for b in self.blocks), _starts([b.width for b in self.blocks])))
        dense = {
            name: i
            for i, name in enumerate(
                (b.name, c) for b in self.blocks for c in b.columns if not self.schema[b.name].embedded
            )
        }
        slim_dense = 0
        for old in self.blocks:
            kept = [i for i, c in enumerate(old.columns) if c in selection.fields[old.name].columns]
            if not kept:
                continue
            s, t = scale[start[old.name] :][kept], shift[start[old.name] :][kept]
            if self.schema[old.name].embedded:
                arena.rows_of(old.name).copy_(self.rows_of(old.name)[:, kept].cpu() * s + t)
                continue
            for i, (a, b) in zip(kept, zip(s, t)):
                source = dense[old.name, old.columns[i]]
                arena.dense_scale[slim_dense] = self.dense_scale[source].cpu() * a
                arena.dense_shift[slim_dense] = self.dense_shift[source].cpu() * a + b
                slim_dense += 1
        return arena


def _starts(sizes: Sequence[int]) -> list[int]:
    """Exclusive running sums."""
    starts, total = [], 0
    for size in sizes:
        starts.append(total)
        total += size
    return starts


def _distinct(schema: Schema, width: dict[str, int]) -> list[int]:
    return sorted({width[field.name] for field in schema.embedded})


def _runs(fields: list) -> list[list]:
    """Neighbouring one-slot fields together, every bag by itself."""
    runs: list[list] = []
    for field in fields:
        if field.kind == "bag" or not runs or runs[-1][0].kind == "bag":
            runs.append([field])
        else:
            runs[-1].append(field)
    return runs
