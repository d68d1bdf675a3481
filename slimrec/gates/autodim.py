"""AutoDim (WWW 2021): widths, each a prefix of a field's columns, compete by Gumbel-softmax; the likeliest stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from slimrec.gates.regions import Columns, RegionGate, candidate_widths
from slimrec.schema import Schema, blocks_of

_COOLING = 5e-5  # of the temperature, a training step
_COLDEST = 0.01
_CODE_WARMEST = 0.2


class AutoDimGate(RegionGate):
    """Columns, batch-normalised, times the probability that the width reaches them; widths are drawn once a batch.

    Candidate j keeps the first d_j columns, so the weight of a column is the sum over the candidates that hold it.
    While training, those weights are a draw of softmax((logits + Gumbel noise) / temperature), whose temperature falls
    from 1 to 0.01 as the search goes on; frozen, they are softmax(logits), the mean of the draws at low
    temperature. Decision: the likeliest width of each field; no field is dropped. A field's score, by which budgets
    rank, is its expected share of its native width.

    The paper aligns widths by a learned linear map before normalising, here zeros stand in for missing columns (as in
    the comparison of arXiv 2204.00281), for a frozen gate has to be a map column by column. As in the paper, the
    logits step on held-out rows at every tenth step, and the network is trained anew (`finetune.start: fresh`).
    `reference: paper` has the published temperature, max(0.01, 1 - 5e-5 t) after t training steps. `reference: code` caps
    that at 0.2 and steps logits and network together on training rows, as the released code of that comparison does.
    """

    method = "autodim"

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        candidates: str | Sequence[int] | Mapping[str, str | Sequence[int]] = "exponential",
        reference: Literal["paper", "code"] | None = None,
        learning_rate: float = 0.01,
        stream: Literal["gate", "first", "train"] | None = None,  # gate; of the code train
        every: int = 10,
        warmup: float = 0.0,
    ):
        if reference not in (None, "paper", "code"):
            raise ValueError(f"`reference` must be 'paper' or 'code', or not be there, got {reference!r}")
        widths = candidate_widths(candidates, blocks_of(schema, embedding_dim), zero=False)
        super().__init__(schema, embedding_dim, widths, temperature=1.0, normalise=True)
        self.reference = reference
        self.warmest = _CODE_WARMEST if reference == "code" else 1.0
        self.published = reference == "code"
        self.drive(stream or ("train" if reference == "code" else "gate"), every, learning_rate, warmup)
        self.register_buffer("gate_steps", torch.zeros(()))  # without a reference the share of all of them

    def annealed(self) -> Tensor:
        """The temperature of the draws."""
        rate = 1.0 if self.reference is None else _COOLING * self.every
        return (1 - rate * self.gate_steps).clamp(_COLDEST, self.warmest)

    def draw(self) -> Tensor:
        noise = -torch.empty_like(self.logits).exponential_().log()
        return self.softmax((self.logits + noise) / self.annealed())

    def column_weights(self, alpha: Tensor) -> Tensor:
        reaching = alpha.flip(1).cumsum(1).flip(1)  # (F, K): candidates that hold region m are m and those beyond
        return super().column_weights(reaching)

    def step(self, progress: float) -> None:
        share = max(0.0, (progress - self.warmup) / (1 - self.warmup))
        self.gate_steps.copy_(share if self.reference is None else self.gate_steps + 1)

    def scores(self) -> dict[str, float]:
        return {
            block.name: min(1.0, sum(mass * width for mass, width in zip(masses, widths)) / block.width)
            for block, masses, widths in zip(self.blocks, self.masses(), self.widths)
        }

    def decide(self) -> Columns:
        likeliest = (widths[masses.index(max(masses))] for masses, widths in zip(self.masses(), self.widths))
        decided = {block: block.columns[:width] for block, width in zip(self.blocks, likeliest)}
        return {block.name: decided[block] for block in self.real}
