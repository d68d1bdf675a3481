"""A user's own network as a backbone: any module from concatenated blocks (B, W) to logits, with an exact cut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone, narrow_linear
from slimrec.schema import Block
from slimrec.selection import Selection


class Adapter(Backbone):
    """`network(W, **options)` behind a gate; it maps (B, W) to (B,) or (B, 1), each row by itself.

    A network may name in its class attribute `reads` the linear layers that alone read x, and nothing but x: they are
    cut, and constants move into their biases. Another network stays whole: kept columns are scattered back to their
    places and the dropped ones hold their constants, which saves tables but no multiplications. Both are exact for any
    constants. `whole` (the width it had, and the places of what is left) is set by the cut and by nobody else.
    """

    network: type[nn.Module]

    def __init__(self, blocks: Sequence[Block], *, whole: dict | None = None, **options):
        super().__init__(blocks, **options, **({"whole": whole} if whole else {}))
        width, places = (whole["width"], whole["places"]) if whole else (self.width, [])
        if whole and not (len(places) == self.width and sorted(set(places)) == places and 0 <= places[-1] < width):
            raise ValueError(f"`whole` must place {self.width} columns in ascending order, it is set by a cut only")
        self.module = self.network(width, **options)
        self.register_buffer("constants", torch.zeros(width if whole else 0))
        self.register_buffer("places", torch.tensor(places, dtype=torch.long), persistent=False)

    def first_layers(self) -> tuple[nn.Linear, ...]:
        """The layers that alone read x; none where they are not known."""
        named = tuple(self.module.get_submodule(name) for name in getattr(self.network, "reads", ()))
        for layer in named:
            if not isinstance(layer, nn.Linear):
                raise TypeError(f"`reads` of {self.network.__name__} must name linear layers, got {layer!r}")
        return () if len(self.places) else named

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        self.refuse_pairs(pairs)
        if len(self.places):
            x = self.constants.to(x.dtype).expand(len(x), -1).index_copy(1, self.places, x)
        logits = self.module(x)
        return logits.squeeze(1) if logits.dim() == 2 else logits

    def narrow(self, selection: Selection, fill: Tensor) -> Adapter:
        self.refuse_pairs(selection.pairs)
        slim, kept = self.start_cut(selection)
        layers = self.first_layers()
        if layers and all(layer.bias is not None for layer in layers):
            for name in self.network.reads:
                owner, _, last = name.rpartition(".")
                setattr(
                    slim.module.get_submodule(owner), last, narrow_linear(self.module.get_submodule(name), kept, fill)
                )
            return slim
        width = len(self.constants) if len(self.places) else self.width
        places = self.places if len(self.places) else torch.arange(width, device=kept.device)
        constants = self.constants.clone() if len(self.places) else fill.new_zeros(width)
        constants[places] = fill.to(constants)
        slim.places = places[kept]
        slim.constants = constants.index_fill(0, slim.places, 0)
        slim.options = {**self.options, "whole": {"width": width, "places": slim.places.tolist()}}
        return slim


def adapted(found: type) -> type:
    """The class itself if it is a backbone, else an adapter around it."""
    return found if issubclass(found, Backbone) else type(found.__name__, (Adapter,), {"network": found})
