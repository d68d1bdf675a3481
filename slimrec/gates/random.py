"""Random selection: a method that does not beat it is no evidence."""

from __future__ import annotations

import torch

from slimrec.gates.base import Gate
from slimrec.schema import Schema


class RandomGate(Gate):
    """Passes everything while training; scores are uniform draws, fixed by the seed the model is built with."""

    method = "random"

    def __init__(self, schema: Schema, embedding_dim: int):
        super().__init__(schema, embedding_dim)
        self.register_buffer("draws", torch.rand(len(self.blocks)))

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.draws.tolist()))
