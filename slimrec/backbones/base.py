"""What a network behind the gate has to write: `forward` over concatenated blocks, and the exact cut `narrow`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from slimrec.schema import Block
from slimrec.selection import Selection


class Backbone(nn.Module, ABC):
    """A network from the concatenated blocks to one logit a row.

    Subclasses take `blocks` first and their options as keyword-only arguments with defaults. `blocks` and `options`
    (plain JSON values) decide every shape, also after a cut, so that a model rebuilds itself from JSON.
    `meets_pairs` says whether the network has meetings of fields that can be weighed and cut one by one.
    `of_constants` names the options that a cut sets to hold on to constants: a network with new weights needs none.
    """

    meets_pairs = False
    of_constants: tuple[str, ...] = ()

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
        """Logits (B,) from blocks `x` (B, W); `pairs` (B, P) or (P,) weighs the meetings of fields.

        Pairs are the upper triangle of the fields in block order: (0,1), (0,2), ... P = F(F-1)/2. A network without
        meetings raises ValueError when it is given any.
        """

    @abstractmethod
    def narrow(self, selection: Selection, fill: Tensor) -> Self:
        """The same network over the surviving columns and pairs, weights copied.

        `fill` (W,) holds the constant that stands in each dropped column (kept columns are not read). The cut is exact:
        logits equal those with these constants in the columns. `slimrec.stages.prune` refuses one that is not.
        """

    def first_layers(self) -> tuple[nn.Linear, ...]:
        """The layers whose first W inputs are the columns of x, or what became of each column; none if not known."""
        return ()

    def replacing(self, x: Tensor) -> Callable[[int, Tensor], Tensor]:
        """A function (start, columns (B, w)) -> logits (B,) of `x` (B, W) with its columns from `start` on replaced.

        For callers that ask for many such changes of one x. Here each is a whole forward pass; networks that begin
        with sums over columns need only renew the changed part of them.
        """

        def logits(start: int, columns: Tensor) -> Tensor:
            changed = x.clone()
            changed[:, start : start + columns.shape[1]] = columns
            return self(changed)

        return logits

    def refuse_pairs(self, pairs: object) -> None:
        """Raise ValueError on pair weights, or on a selection's list of pairs, where no fields meet."""
        if pairs is not None:
            raise ValueError(f"{type(self).__name__} has no meetings of fields to weigh or cut; use deepfm or pnn")

    def start_cut(self, selection: Selection) -> tuple[Self, Tensor]:
        """How every `narrow` begins: a copy with the surviving blocks, and the positions (W',) of its columns in x.

        What reads x in the copy is still as wide as before and has to be replaced.
        """
        blocks = selection.blocks(self.blocks)
        if not blocks:
            raise ValueError(f"the selection keeps none of the fields {[block.name for block in self.blocks]}")
        slim = copy.deepcopy(self)
        slim.blocks = blocks
        device = next(self.parameters()).device
        return slim, torch.tensor(selection.indices(self.blocks), device=device)


def constants_in(fill: Tensor, kept: Tensor) -> Tensor:
    """Positions of the columns that are gone and held another constant than zero."""
    gone = fill != 0
    gone[kept] = False
    return gone.nonzero().squeeze(1)


def initialise(module: nn.Module) -> nn.Module:
    """Xavier-uniform weights and zero biases for every linear layer within."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


@torch.no_grad()
def narrow_linear(layer: nn.Linear, kept: Tensor, fill: Tensor, outputs: Tensor | slice = slice(None)) -> nn.Linear:
    """A linear layer over the input columns `kept`; what the others held (`fill`) moves into the bias. Exact.

    `outputs` chooses among the output columns as well.
    """
    weight = layer.weight[outputs]
    gone = torch.ones(layer.in_features, dtype=torch.bool, device=weight.device)
    gone[kept] = False
    bias = weight[:, gone] @ fill.to(weight)[gone]
    if layer.bias is not None:
        bias = bias + layer.bias[outputs]
    return linear_of(weight[:, kept], bias).train(layer.training)


@torch.no_grad()
def linear_of(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The linear layer of this weight (K, W) and bias (K,); draws no random numbers."""
    made = nn.utils.skip_init(nn.Linear, weight.shape[1], len(weight), dtype=weight.dtype, device=weight.device)
    made.weight.copy_(weight)
    made.bias.copy_(bias)
    return made


@torch.no_grad()
def fold(function: Callable[[Tensor], Tensor], layer: nn.Linear, kept: Tensor, fill: Tensor) -> None:
    """Add to `layer` (K outputs, first inputs the columns `kept`) the affine part of `function`, (1, W) -> (1, K).

    That is its value and its slope along `kept` where kept columns are zero and the others hold `fill`: what becomes
    of products of columns when constants stand in some. Exact where `function` is of second order in x, for then only
    products of two kept columns are left over, which the narrowed network goes on computing.
    """
    point = fill.to(layer.weight, copy=True)
    point[kept] = 0
    if not point.any():
        return

    def at(x: Tensor) -> Tensor:
        return function(x.unsqueeze(0)).reshape(-1)

    layer.weight[:, : len(kept)] += torch.func.jacrev(at)(point)[:, kept]
    layer.bias += at(point)
