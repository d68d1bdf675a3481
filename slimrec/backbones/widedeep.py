"""Wide & Deep: a linear head and a tower side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from slimrec.backbones.base import Backbone, initialise, narrow_linear
from slimrec.backbones.layers import Tower, partial_sums, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class WideDeep(Backbone):
    """linear(x) + tower(x), after Cheng et al. 2016 (arXiv 1606.07792).

    The linear head reads the same embeddings as the tower and not one-hot values, so that the wide term of a field
    stands behind the gate too. The cut is exact for any constants.
    """

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
        self.linear = initialise(nn.Linear(self.width, 1))
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        return self.linear(x).squeeze(1) + self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (self.linear, self.tower.first)

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        wide, deep = partial_sums(self.linear, x), self.tower.replacing(x)
        return lambda start, columns: wide(start, columns).squeeze(1) + deep(start, columns)

    def narrow(self, selection: Selection, fill: Tensor) -> WideDeep:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        slim.linear = narrow_linear(self.linear, kept, fill)
        slim.tower = self.tower.narrow(kept, fill)
        return slim
