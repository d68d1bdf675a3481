"""The model: embedding arena -> gate -> backbone; `narrow` cuts it down to a selection, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slimrec.backbones.base import Backbone
from slimrec.backbones.hidden import narrow_hidden, silence
from slimrec.backbones.layers import pair_mask
from slimrec.backbones.towers import Towers, before
from slimrec.config import ModelConfig
from slimrec.gates.base import Gate
from slimrec.model.arena import Arena
from slimrec.plugins import BACKBONES, GATES
from slimrec.schema import Block, Schema, blocks_of
from slimrec.selection import Selection


class Model(nn.Module):
    """A CTR model over a schema: logits from ids and dense columns."""

    def __init__(self, arena: Arena, gate: Gate | None, backbone: Backbone, config: ModelConfig):
        super().__init__()
        self.arena, self.gate, self.backbone, self.config = arena, gate, backbone, config

    @property
    def schema(self) -> Schema:
        return self.arena.schema

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.arena.blocks

    def forward(self, ids: Tensor, dense: Tensor) -> Tensor:
        """Logits (B,); of T tasks (B, T)."""
        return self.backbone(*self.gated(ids, dense))

    def gated(self, ids: Tensor, dense: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the network reads: blocks (B, W) behind the gate, and the weights of pairs where a gate has such."""
        x = self.arena(ids, dense)
        return (x, None) if self.gate is None else (self.gate(x, ids), self.gate.pairs(ids))

    def masked_logits(self, ids: Tensor, dense: Tensor, selection: Selection) -> Tensor:
        """Logits of the uncut model with the frozen gate of `selection` in place: what a cut has to reproduce."""
        x = self.arena(ids, dense)
        scale, shift = (x.new_tensor(values) for values in selection.affine(self.blocks))
        pairs = pair_mask(self.schema.names, selection, like=x)
        if self.gate is not None and self.gate.narrow(selection) is not None:  # it goes on weighing what is left
            weights = self.gate.pairs(ids)
            pairs = weights if pairs is None else pairs if weights is None else pairs * weights
        backbone = self.backbone if selection.hidden is None else silence(self.backbone, selection.hidden)
        return backbone(torch.addcmul(shift, x, scale), pairs)

    @torch.no_grad()
    def narrow(self, selection: Selection) -> Model:
        """The slim model on the CPU: the same logits as this one with the frozen gate in place."""
        shift = next(self.backbone.parameters()).new_tensor(selection.affine(self.blocks)[1])
        backbone = self.backbone.narrow(selection, shift).cpu()
        if selection.hidden is not None:
            backbone = narrow_hidden(backbone, selection.hidden)
        gate = None if self.gate is None else self.gate.narrow(selection)
        return Model(self.arena.narrow(selection), gate, backbone, self.config).train(self.training)


def network(schema: Schema, config: ModelConfig, blocks: tuple[Block, ...], options: dict[str, Any]) -> Backbone:
    """The network behind the gate, with fresh weights: the recipe's, or one for each task."""
    if not schema.tasks:
        return BACKBONES.create(config.backbone, blocks, **options)
    return Towers([BACKBONES.create(config.backbone, blocks, **options) for _ in schema.tasks], before(schema.tasks))


def build(schema: Schema, config: ModelConfig, seed: int, blocks: Sequence[Block] | None = None) -> Model:
    """A fresh model without gate; same seed, same weights, bit by bit. `blocks` gives unequal widths."""
    blocks = tuple(blocks or blocks_of(schema, config.embedding_dim))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = network(schema, config, blocks, config.options)
        arena = Arena(schema, blocks, config.embedding_std)
    return Model(arena, None, backbone, config)


def with_gate(model: Model, method: str, options: dict, seed: int) -> Model:
    """The same model with a method's gate in front of its backbone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.gate = GATES.create(method, model.schema, model.config.embedding_dim, **options)
    model.gate.method, model.gate.options = method, dict(options)  # as named by the recipe: so an artifact rebuilds it
    model.gate.attach(model.backbone)
    return model
