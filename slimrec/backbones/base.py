"""What a network behind the gate has to write: `forward` over concatenated blocks, and the exact cut `narrow`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.schema import Block
from slimrec.selection import Selection


class Backbone(nn.Module, ABC):
    """A network from the concatenated blocks to one logit a row.

    Subclasses take `blocks` first and their options as keyword-only arguments with defaults; `options` keeps them,
    so that a model rebuilds itself from JSON.
    """

    def __init__(self, blocks: Sequence[Block], **options):
        super().__init__()
        self.blocks = tuple(blocks)
        self.options = options

    @property
    def width(self) -> int:
        """W, the columns of the concatenated input."""
        return sum(block.width for block in self.blocks)

    @abstractmethod
    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        """Logits (B,) from blocks `x` (B, W); `pairs` (B, P) or (P,) weighs the meetings of fields, where there are any.

        Pairs are the upper triangle of the fields in block order: (0,1), (0,2), ... P = F(F-1)/2.
        """

    @abstractmethod
    def narrow(self, selection: Selection, fill: Tensor) -> Backbone:
        """The same network over the surviving columns and pairs, weights copied.

        `fill` (W,) holds the constant that stands in each dropped column; with zeros the cut is exact for every
        network (logits equal those with the columns set to zero), otherwise as far as a constant can be folded
        into biases, which each network states.
        """


def initialise(module: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases for every linear layer within."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def narrow_linear(layer: nn.Linear, kept: Tensor, fill: Tensor) -> nn.Linear:
    """A linear layer over the input columns `kept`; what the others held (`fill`) moves into the bias. Exact."""
    narrow = nn.Linear(len(kept), layer.out_features, bias=True, dtype=layer.weight.dtype, device=layer.weight.device)
    gone = torch.ones(layer.in_features, dtype=torch.bool, device=layer.weight.device)
    gone[kept] = False
    with torch.no_grad():
        narrow.weight.copy_(layer.weight[:, kept])
        narrow.bias.copy_(layer.weight[:, gone] @ fill[gone])
        if layer.bias is not None:
            narrow.bias.add_(layer.bias)
    return narrow
