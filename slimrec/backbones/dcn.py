"""DCN v2: cross layers and a tower side by side."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from slimrec.backbones.base import Backbone, initialise, narrow_linear
from slimrec.backbones.layers import Tower, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class DCN(Backbone):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l beside a tower, after Wang et al. 2021 (arXiv 2008.13535).

    The paper's parallel form: the logit is one linear layer on [cross, deep], written here as the sum of its two
    halves, `linear` on the cross layers' output and the tower's last layer. The cut is exact for zeros. Constants
    are folded into biases as if they passed the cross layers unchanged, so with them it is not exact.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
        cross_layers: int = 2,
    ):
        hidden, (cross_layers,) = sizes("hidden", hidden), sizes("cross_layers", [cross_layers])
        super().__init__(blocks, hidden=hidden, dropout=dropout, batch_norm=batch_norm, cross_layers=cross_layers)
        self.cross = initialise(nn.ModuleList(nn.Linear(self.width, self.width) for _ in range(cross_layers)))
        self.linear = initialise(nn.Linear(self.width, 1))
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        crossed = x
        for layer in self.cross:
            crossed = x * layer(crossed) + crossed
        return self.linear(crossed).squeeze(1) + self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (*self.cross, self.linear, self.tower.first)

    def narrow(self, selection: Selection, fill: Tensor) -> DCN:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        slim.cross = nn.ModuleList(narrow_linear(layer, kept, fill, outputs=kept) for layer in self.cross)
        slim.linear = narrow_linear(self.linear, kept, fill)
        slim.tower = self.tower.narrow(kept, fill)
        return slim
