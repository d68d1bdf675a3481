"""PNN: a tower on the embeddings and their inner products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, fold
from slimrec.backbones.layers import Meetings, Projection, Tower, pair_mask, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class PNN(Backbone):
    """tower([x, <e_i, e_j> of the pairs i < j that meet]): the inner-product network of Qu 2016 (arXiv 1611.00144).

    `pairs` lists the pairs of field names that meet (None: all). The cut is exact for any constants: products with a
    constant are linear in x and move into the first layer.
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
        self.projection = Projection(self.blocks, projection)
        self.meetings = Meetings(self.projection.blocks, pairs)
        self.tower = Tower(self.width + len(self.meetings.names), hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        return self.tower(torch.cat([x, self.meetings(self.projection(x), pairs)], dim=1))

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (self.tower.first,)

    def narrow(self, selection: Selection, fill: Tensor) -> PNN:
        slim, kept = self.start_cut(selection)
        pairs, stays = self.meetings.narrow(selection, slim.blocks)
        of_products = self.tower.first.weight[:, self.width :]
        mask = pair_mask([block.name for block in self.blocks], selection, like=of_products)
        no_product = fill.new_zeros(of_products.shape[1])
        slim.tower = self.tower.narrow(torch.cat([kept, self.width + stays]), torch.cat([fill, no_product]))
        fold(lambda x: self.meetings(self.projection(x), mask) @ of_products.T, slim.tower.first, kept, fill)
        slim.options = {**self.options, "pairs": pairs}
        slim.projection = self.projection.narrow(slim.blocks, kept)
        slim.meetings = Meetings(slim.projection.blocks, pairs).to(kept.device)
        return slim
