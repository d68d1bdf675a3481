"""xDeepFM: a linear head, a compressed interaction network and a tower side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, fold, initialise, narrow_linear
from slimrec.backbones.layers import Grid, Projection, Tower, holders, sizes
from slimrec.schema import Block
from slimrec.selection import Selection

_PIECE = 1 << 20  # numbers in the largest tensor of one piece of a training batch on a CPU: it stays in the cache


class CIN(nn.Module):
    """Compressed interaction network: X^k_h = sum over i, j of W^k_hij (X^{k-1}_i * X^0_j), (B, W) -> logits (B,).

    Every map of every layer goes on to the next layer and, summed over its columns, to the output: maps are not
    split in halves between the two. No activation: the paper found the identity best. No bias: zeros stay zeros.
    Columns work apart from each other: those that the same fields have are one grid, and none is padded.
    """

    def __init__(self, blocks: Sequence[Block], layers: Sequence[int]):
        super().__init__()
        before = [len(blocks), *layers[:-1]]
        self.maps = nn.ParameterList(torch.empty(size, wide, len(blocks)) for size, wide in zip(layers, before))
        for weight in self.maps:
            nn.init.xavier_uniform_(weight.view(len(weight), -1))
        self.head = initialise(nn.Linear(sum(layers), 1, bias=False))
        self.grids = _grids(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(self._pool(grid(x), grid.fields) for grid in self.grids)).squeeze(1)

    def _pool(self, grid: Tensor, fields: Tensor) -> Tensor:
        """All maps (B, sum of the layers) of a grid (B, F, D), summed over its columns."""
        layers = [weight if len(fields) == weight.shape[2] else weight[:, :, fields] for weight in self.maps]
        layers[0] = layers[0] if len(fields) == layers[0].shape[1] else layers[0][:, fields]
        largest = grid.shape[2] * max((w.shape[0] * w.shape[1] for w in layers[:-1]), default=1)
        pieces = grid.split(max(1, _PIECE // largest)) if self.training and grid.device.type == "cpu" else [grid]
        return torch.cat([self._interact(piece.transpose(1, 2), layers) for piece in pieces])

    def _interact(self, raw: Tensor, layers: list[Tensor]) -> Tensor:
        """The same of fields laid (B, D, F), by weights (maps, maps before, F)."""
        maps, pooled = raw, []
        for weight in layers[:-1]:
            mixed = (raw @ weight.flatten(0, 1).T).unflatten(2, weight.shape[:2])  # (B, D, maps, maps before)
            maps = (mixed * maps.unsqueeze(2)).sum(3)
            pooled.append(maps.sum(1))
        inner = torch.bmm(maps.transpose(1, 2), raw)  # of the last layer only sums over columns are needed
        return torch.cat([*pooled, inner.flatten(1) @ layers[-1].flatten(1).T], dim=1)

    def narrow(self, fields: Tensor, blocks: Sequence[Block]) -> None:
        """Keep only these fields, of which `blocks` are left."""
        maps = [weight.detach().index_select(2, fields) for weight in self.maps]
        self.maps = nn.ParameterList([maps[0].index_select(1, fields), *maps[1:]])
        self.grids = _grids(blocks).to(fields.device)


def _grids(blocks: Sequence[Block]) -> nn.ModuleList:
    """One grid for the columns that the same fields have."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for column, held in holders(blocks, range(len(blocks))).items():
        groups.setdefault(held, []).append(column)
    return nn.ModuleList(Grid(blocks, fields, columns) for fields, columns in groups.items())


class XDeepFM(Backbone):
    """linear(x) + CIN(x) + tower(x), after Lian et al. 2018 (arXiv 1803.05170).

    The cut is exact for zeros. Of constants, what they add to the value and the slope of the CIN at zero moves into
    the linear head: exact with one CIN layer, with more not, for their products with two kept columns are lost.
    Fields of unequal width meet column by column, or mapped to the width `projection` (see `Projection`).
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
        cin_layers: Sequence[int] = (16, 16),
        projection: int = 0,
    ):
        hidden, cin_layers = sizes("hidden", hidden), sizes("cin_layers", cin_layers)
        if not cin_layers:
            raise ValueError("`cin_layers` needs one layer at least; without any use widedeep")
        options = {"hidden": hidden, "dropout": dropout, "batch_norm": batch_norm, "cin_layers": cin_layers}
        super().__init__(blocks, **options, projection=projection)
        self.linear = initialise(nn.Linear(self.width, 1))
        self.projection = Projection(self.blocks, projection)
        self.cin = CIN(self.projection.blocks, cin_layers)
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        return self.linear(x).squeeze(1) + self.cin(self.projection(x)) + self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (self.linear, self.tower.first)

    def narrow(self, selection: Selection, fill: Tensor) -> XDeepFM:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        slim.linear = narrow_linear(self.linear, kept, fill)
        fold(lambda x: self.cin(self.projection(x)), slim.linear, kept, fill)
        left = {block.name for block in slim.blocks}
        fields = [i for i, block in enumerate(self.blocks) if block.name in left]
        slim.projection = self.projection.narrow(slim.blocks, kept)
        slim.cin.narrow(kept.new_tensor(fields), slim.projection.blocks)
        slim.tower = self.tower.narrow(kept, fill)
        return slim
