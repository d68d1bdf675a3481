"""xDeepFM: a linear head, a compressed interaction network and a tower side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, fold, initialise, narrow_linear
from slimrec.backbones.layers import Grid, Projection, Tower, holders, sizes
from slimrec.schema import Block
from slimrec.selection import Selection

_NOTHING = 1e-7  # of the largest singular value: what single precision cannot tell from zero
_PIECE = 1 << 20  # numbers in the largest tensor of one piece of a training batch on a CPU: it stays in the cache


class CIN(nn.Module):
    """Compressed interaction network: X^k_h = sum over i, j of W^k_hij (X^{k-1}_i * X^0_j), (B, W) -> logits (B,).

    Every map of every layer goes on to the next layer and, summed over its columns, to the output: maps are not
    split in halves between the two. No activation: the paper found the identity best. No bias: zeros stay zeros.
    Columns work apart from each other: those that the same fields have are one grid, and none is padded.
    Below the fields X^0 may have `constants` rows that are the same for all inputs: what a cut leaves of constants.
    """

    def __init__(self, blocks: Sequence[Block], layers: Sequence[int], constants: int = 0):
        super().__init__()
        rows = len(blocks) + constants
        self.maps = nn.ParameterList(torch.empty(size, wide, rows) for size, wide in zip(layers, [rows, *layers]))
        for weight in self.maps:
            nn.init.xavier_uniform_(weight.view(len(weight), -1))
        self.head = initialise(nn.Linear(sum(layers), 1, bias=False))
        self._lay(blocks, torch.zeros(constants, _columns(blocks)))

    def _lay(self, blocks: Sequence[Block], constants: Tensor) -> None:
        """Lay the fields out as `blocks`, with rows of `constants` (r, columns) below them."""
        self.blocks, self.grids = tuple(blocks), _grids(blocks)
        self.register_buffer("constants", constants, persistent=len(constants) > 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(self._pool(grid, x) for grid in self.grids)).squeeze(1)

    def _pool(self, grid: Grid, x: Tensor) -> Tensor:
        """All maps (B, sum of the layers) of a grid, summed over its columns."""
        rows, raw = grid.fields, grid(x)
        if len(self.constants):
            raw = torch.cat([raw, self.constants[:, grid.columns].to(raw.dtype).expand(len(raw), -1, -1)], dim=1)
            below = torch.arange(len(self.constants), device=rows.device) + len(self.blocks)
            rows = torch.cat([rows, below])
        layers = [weight if len(rows) == weight.shape[2] else weight[:, :, rows] for weight in self.maps]
        layers[0] = layers[0] if len(rows) == layers[0].shape[1] else layers[0][:, rows]
        largest = raw.shape[2] * max((w.shape[0] * w.shape[1] for w in layers[:-1]), default=1)
        pieces = raw.split(max(1, _PIECE // largest)) if self.training and raw.device.type == "cpu" else [raw]
        return torch.cat([self._interact(piece.transpose(1, 2), layers) for piece in pieces])

    def _interact(self, raw: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """The same of fields laid (B, D, F), by weights (maps, maps before, F)."""
        maps, pooled = raw, []
        for weight in layers[:-1]:
            mixed = (raw @ weight.flatten(0, 1).T).unflatten(2, weight.shape[:2])  # (B, D, maps, maps before)
            maps = (mixed * maps.unsqueeze(2)).sum(3)
            pooled.append(maps.sum(1))
        inner = torch.bmm(maps.transpose(1, 2), raw)  # of the last layer only sums over columns are needed
        return torch.cat([*pooled, inner.flatten(1) @ layers[-1].flatten(1).T], dim=1)

    @torch.no_grad()
    def narrow(self, fields: Tensor, blocks: Sequence[Block], point: Tensor) -> Tensor:
        """Keep only these fields, of which `blocks` are left; returns what is the same for all inputs now, a logit.

        `point` (W,) is what x holds where everything that stays is zero. Its grid C (F, D) adds to X^0, whose rows
        stand in every product: C is written as A R with as few rows R as can be, which become constant rows of weight
        W A. Columns that no field has any more are the constant logit. Exact.
        """
        everything = Grid(self.blocks, range(len(self.blocks)), range(_columns(self.blocks))).to(point.device)
        constant = torch.cat([everything(point[None])[0], self.constants.to(point)])
        left = sorted({column for block in blocks for column in block.columns})
        alone = [column for column in range(constant.shape[1]) if column not in left]
        logit = self.head(self._interact(constant[:, alone].T[None], self.maps)).squeeze()
        constant[:, alone] = 0
        u, sizes, rows = torch.linalg.svd(constant[:, : _columns(blocks)].double(), full_matrices=False)
        rank = int((sizes > _NOTHING * sizes[0]).sum())
        by_row = (u[:, :rank] * sizes[:rank]).to(point)
        maps = [torch.cat([weight[:, :, fields], weight @ by_row], dim=2) for weight in self.maps]
        first = torch.einsum("hij,ir->hrj", maps[0], by_row)
        maps[0] = torch.cat([maps[0][:, fields], first], dim=1)
        self.maps = nn.ParameterList(maps)
        self._lay(blocks, rows[:rank].to(point))
        self.grids.to(point.device)
        return logit


def _columns(blocks: Sequence[Block]) -> int:
    """How many native columns the widest field reaches."""
    return 1 + max(column for block in blocks for column in block.columns)


def _grids(blocks: Sequence[Block]) -> nn.ModuleList:
    """One grid for the columns that the same fields have."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for column, held in holders(blocks, range(len(blocks))).items():
        groups.setdefault(held, []).append(column)
    return nn.ModuleList(Grid(blocks, fields, columns) for fields, columns in groups.items())


class XDeepFM(Backbone):
    """linear(x) + CIN(x) + tower(x), after Lian et al. 2018 (arXiv 1803.05170).

    The cut is exact for any constants: what they add to the CIN moves into the linear head where it has one layer, and
    becomes `constants` rows of the CIN where it has more.
    Fields of unequal width meet column by column, or mapped to the width `projection` (see `Projection`).
    """

    of_constants = ("constants",)

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
        cin_layers: Sequence[int] = (16, 16),
        projection: int = 0,
        constants: int = 0,
    ):
        hidden, cin_layers = sizes("hidden", hidden), sizes("cin_layers", cin_layers)
        if not cin_layers:
            raise ValueError("`cin_layers` needs one layer at least; without any use widedeep")
        options = {"hidden": hidden, "dropout": dropout, "batch_norm": batch_norm, "cin_layers": cin_layers}
        super().__init__(blocks, **options, projection=projection, constants=constants)
        self.linear = initialise(nn.Linear(self.width, 1))
        self.projection = Projection(self.blocks, projection)
        self.cin = CIN(self.projection.blocks, cin_layers, int(constants))
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
        point = fill.to(self.linear.weight).index_fill(0, kept, 0)
        if len(self.cin.maps) == 1:
            fold(lambda x: self.cin(self.projection(x)), slim.linear, kept, fill)
            point = torch.zeros_like(point)
        left = {block.name for block in slim.blocks}
        fields = [i for i, block in enumerate(self.blocks) if block.name in left]
        slim.projection = self.projection.narrow(slim.blocks, kept)
        point = self.projection(point.detach()[None])[0]
        slim.linear.bias.data += slim.cin.narrow(kept.new_tensor(fields), slim.projection.blocks, point)
        slim.options = {**self.options, "constants": len(slim.cin.constants)}
        slim.tower = self.tower.narrow(kept, fill)
        return slim
