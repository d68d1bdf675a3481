"""DeepFM: a factorisation machine and a tower on the same embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from slimrec.backbones.base import Backbone, fold, initialise, narrow_linear
from slimrec.backbones.layers import Meetings, Projection, Tower, pair_mask, partial_sums, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class DeepFM(Backbone):
    """linear(x) + sum of <e_i, e_j> over the pairs i < j that meet + tower(x): Guo et al. 2017 (arXiv 1703.04247).

    First-order weights stand on embedding columns, behind the gate. `pairs` lists the pairs of field names that meet
    (None: all). The cut is exact for any constants: products with a constant move into the linear head.
    Fields of unequal width meet column by column, or mapped to the width `projection` (see `Projection`).
    """

    meets_pairs = True

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
        pairs: Sequence[Sequence[str]] | None = None,
        projection: int = 0,
    ):
        hidden = sizes("hidden", hidden)
        super().__init__(
            blocks, hidden=hidden, dropout=dropout, batch_norm=batch_norm, pairs=pairs, projection=projection
        )
        self.linear = initialise(nn.Linear(self.width, 1))
        self.projection = Projection(self.blocks, projection)
        self.meetings = Meetings(self.projection.blocks, pairs)
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        return self.linear(x).squeeze(1) + self.meetings.sum(self.projection(x), pairs) + self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (self.linear, self.tower.first)

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        if not self.meetings.all or self.projection.width:
            return super().replacing(x)
        wide, met, deep = partial_sums(self.linear, x), self.meetings.replacing(x), self.tower.replacing(x)
        return lambda start, columns: wide(start, columns).squeeze(1) + met(start, columns) + deep(start, columns)

    def narrow(self, selection: Selection, fill: Tensor) -> DeepFM:
        slim, kept = self.start_cut(selection)
        mask = pair_mask([block.name for block in self.blocks], selection, like=self.linear.weight)
        slim.linear = narrow_linear(self.linear, kept, fill)
        fold(lambda x: self.meetings.sum(self.projection(x), mask), slim.linear, kept, fill)
        pairs, _ = self.meetings.narrow(selection, slim.blocks)
        slim.options = {**self.options, "pairs": pairs}
        slim.projection = self.projection.narrow(slim.blocks, kept)
        slim.meetings = Meetings(slim.projection.blocks, pairs).to(kept.device)
        slim.tower = self.tower.narrow(kept, fill)
        return slim
