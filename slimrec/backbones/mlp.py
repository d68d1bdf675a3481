"""The plain network: a tower of hidden layers on the concatenated blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from slimrec.backbones.base import Backbone
from slimrec.backbones.layers import Tower, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class MLP(Backbone):
    """tower(x). The cut is exact for any constants."""

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ):
        hidden = sizes("hidden", hidden)
        super().__init__(blocks, hidden=hidden, dropout=dropout, batch_norm=batch_norm)
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        return self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (self.tower.first,)

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        return self.tower.replacing(x)

    def narrow(self, selection: Selection, fill: Tensor) -> MLP:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        slim.tower = self.tower.narrow(kept, fill)
        return slim
