"""DCN v2: cross layers and a tower side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, constants_in, initialise, linear_of, narrow_linear
from slimrec.backbones.layers import Tower, sizes
from slimrec.schema import Block
from slimrec.selection import Selection


class DCN(Backbone):
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l beside a tower, after Wang et al. 2021 (arXiv 2008.13535).

    The paper's parallel form: the logit is one linear layer on [cross, deep], written here as the sum of its two
    halves, `linear` on the cross layers' output and the tower's last layer. The cut is exact for any constants. A
    constant does not stay one in the cross layers: in its column x_1, x_2, ... are affine in the kept columns of the
    levels before. So after a cut with constants every cross layer, and `linear`, is `carried`: it reads
    [x_0, ..., x_l], and not x_l alone. Where all constants are zero nothing has to be carried.
    """

    of_constants = ("carried",)

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        batch_norm: bool = False,
        cross_layers: int = 2,
        carried: bool = False,
    ):
        hidden, (cross_layers,) = sizes("hidden", hidden), sizes("cross_layers", [cross_layers])
        options = {"hidden": hidden, "dropout": dropout, "batch_norm": batch_norm, "cross_layers": cross_layers}
        super().__init__(blocks, **options, carried=carried)
        self.carried = carried
        read = [self.width * (level + 1 if carried else 1) for level in range(cross_layers + 1)]
        self.cross = initialise(nn.ModuleList(nn.Linear(width, self.width) for width in read[:-1]))
        self.linear = initialise(nn.Linear(read[-1], 1))
        self.tower = Tower(self.width, hidden, dropout, batch_norm)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        read = crossed = x
        for layer in self.cross:
            crossed = x * layer(read) + crossed
            read = torch.cat([read, crossed], dim=1) if self.carried else crossed
        return self.linear(read).squeeze(1) + self.tower(x)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        return (*self.cross, self.linear, self.tower.first)

    def narrow(self, selection: Selection, fill: Tensor) -> DCN:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        constant = constants_in(fill, kept)
        slim.carried = self.carried or len(constant) > 0
        slim.options = {**self.options, "carried": slim.carried}
        if slim.carried:
            slim.cross, slim.linear = self._carry(kept, constant, fill.to(self.linear.weight))
        else:
            slim.cross = nn.ModuleList(narrow_linear(layer, kept, fill, outputs=kept) for layer in self.cross)
            slim.linear = narrow_linear(self.linear, kept, fill)
        slim.tower = self.tower.narrow(kept, fill)
        return slim

    @torch.no_grad()
    def _carry(self, kept: Tensor, constant: Tensor, fill: Tensor) -> tuple[nn.ModuleList, nn.Linear]:
        """The cross layers and `linear` over the kept columns of all levels, which also say what the constant ones hold.

        An affine function of those, [x_0, x_1, ...] and 1, is a row of coefficients, that of 1 the last.
        """
        size, layers = len(kept), [*self.cross, self.linear]
        held = fill.new_zeros(len(constant), size * len(layers) + 1)  # of the constant columns, at a level
        held[:, -1] = fill[constant]
        levels, made = [held], []
        for level, layer in enumerate(layers):
            outputs = torch.cat([kept, constant]) if level < len(self.cross) else slice(None)
            weight, function = layer.weight[outputs], fill.new_zeros(layer.bias[outputs].shape[0], held.shape[1])
            function[:, -1] = layer.bias[outputs]
            read = range(level + 1) if self.carried else [level]
            for each, part in zip(read, weight.split(self.width, dim=1)):
                function[:, size * each : size * (each + 1)] += part[:, kept]
                function += part[:, constant] @ levels[each]
            mine = function[:size] if level < len(self.cross) else function
            made.append(linear_of(mine[:, : size * (level + 1)], mine[:, -1]).train(layer.training))
            levels.append(fill[constant, None] * function[size:] + levels[-1] if level < len(self.cross) else held)
        return nn.ModuleList(made[:-1]), made[-1]
