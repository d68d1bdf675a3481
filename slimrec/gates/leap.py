"""LeAP (arXiv 2606.01111): each field is mixed with a shuffled copy of itself; the mixing weight says how much it is needed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.errors import ConfigError
from slimrec.gates.base import Gate
from slimrec.probes import is_probe
from slimrec.schema import Schema

_MEMORY_ROWS = 1024  # past rows that the effective shuffle rate is measured against
_RATE_FLOOR = 0.9
_RATE_PATIENCE = 20  # gate steps before the rate is believed
_LEARNING_RATE, _EVERY = {"paper": 0.02, "code": 0.001}, {"paper": 4, "code": 1}


class LeapGate(Gate):
    """g = sigmoid(theta / temperature), one a field; x_i -> g_i x_i + (1 - g_i) sg(x_i[permutation_i]).

    The penalty is sum_i alpha * max(divergence_i, floor) * g_i, where the divergence is the exponential moving average
    (bias-corrected) of the mean distance between a row's block and its replacement (paper, eq. "adaptive
    regularisation"). The paper gives neither `temperature`, `start`, `floor` nor `decay`; the first two follow the
    released base version, the others and `alpha` were chosen by measurement on planted logs and MovieLens-1M.

    Permutations: one random permutation of the rows, rotated by another amount for each field, the amounts distinct
    as long as there are no more fields than rows. Every field's own permutation is uniform, whole rows move, and no two
    fields share one; the paper draws them independently, at twice the cost.

    `reference: code` is the released base version instead: one penalty for all fields, `fs_weight` times the mean of g,
    whatever their divergence, gates stepped by 0.001 on a held-out batch at every step (`learning_rate` and `every`, when
    given, still hold). Validation sees the mean of the noise and not draws of it, as in the default. Its weight is .1
    for MovieLens-1M, .00125 for AliCCP, .005 for Avazu and .02 for Criteo.

    Both protocols of the paper are the recipe's: search and retrain is `finetune.start: fresh`, cut and fine-tune is
    `finetune.start: warm`, which starts from the cut model with the mean of the noise folded in, on few rows with
    `finetune.fraction`.

    `stream` is "gate" (step on the held-out slice at every `every`-th step) or "train" (single pass only): on rows
    that the network has memorised, a gate keeps memorised noise. `reservoir` rows of earlier batches join the
    shuffle, for logs whose batches hold few users.
    """

    method = "leap"
    shared = ("divergence_sum", "mean_sum", "changed", "compared")

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        reference: Literal["paper", "code"] = "paper",
        fs_weight: float = 0.02,
        alpha: float = 0.002,
        floor: float = 0.5,
        decay: float = 0.99,
        temperature: float = 0.2,
        start: float = 1.0,
        learning_rate: float | None = None,  # 0.02; of the code 0.001
        stream: Literal["gate", "train"] = "gate",
        every: int | None = None,  # 4; of the code 1
        warmup: float = 0.0,
        reservoir: int = 0,
    ):
        super().__init__(schema, embedding_dim)
        if reference not in ("paper", "code"):
            raise ValueError(f"`reference` must be 'paper' or 'code', got '{reference}'")
        learning_rate = _LEARNING_RATE[reference] if learning_rate is None else learning_rate
        self.drive(stream, _EVERY[reference] if every is None else every, learning_rate, warmup)
        for name, value in {"alpha": alpha, "floor": floor, "fs_weight": fs_weight}.items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}")
        if not 0 <= decay < 1 or temperature <= 0 or reservoir < 0:
            raise ValueError(
                f"needs 0 <= decay < 1, temperature > 0 and reservoir >= 0, got {decay=}, {temperature=}, {reservoir=}"
            )
        self.reference, self.fs_weight = reference, fs_weight
        self.alpha, self.floor, self.decay, self.temperature = alpha, floor, decay, temperature
        self.reservoir = int(reservoir)
        fields, width = len(self.blocks), len(self.owner)
        self.real = sum(not is_probe(block.name) for block in self.blocks)  # probes take no pressure off the fields
        self.theta = nn.Parameter(torch.full((fields,), float(start)))
        membership = torch.zeros(width, fields)
        membership[torch.arange(width), self.owner] = 1
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("observed", torch.zeros(()))  # gate steps so far
        self.register_buffer("divergence_sum", torch.zeros(fields))  # uncorrected moving averages
        self.register_buffer("mean_sum", torch.zeros(width))
        self.register_buffer("changed", torch.zeros(2, fields))  # rows that changed: by shuffling, against the past
        self.register_buffer("compared", torch.zeros(()))  # rows looked at for that
        self.register_buffer("past", torch.zeros(self.reservoir, width))
        self.register_buffer("past_marks", torch.zeros(max(self.reservoir, _MEMORY_ROWS), fields, dtype=torch.double))
        self.register_buffer("past_rows", torch.zeros((), dtype=torch.long))
        self._add_mark_weights()

    def _add_mark_weights(self) -> None:
        """Weights that turn a field's ids or dense columns into one number, equal where and only where they are."""
        generator = torch.Generator().manual_seed(0)
        slots = [i for i, block in enumerate(self.blocks) for _ in range(self.schema[block.name].slots)]
        marks_ids = torch.zeros(len(slots), len(self.blocks), dtype=torch.double)
        marks_ids[torch.arange(len(slots)), slots] = torch.rand(len(slots), generator=generator, dtype=torch.double) + 1
        dense = torch.tensor([not self.schema[block.name].embedded for block in self.blocks])[self.owner]
        weights = torch.rand(len(self.owner), generator=generator, dtype=torch.double) + 1
        self.register_buffer("marks_ids", marks_ids, persistent=False)
        self.register_buffer("marks_dense", self.membership.double() * (weights * dense)[:, None], persistent=False)

    def gates(self) -> Tensor:
        """g (F,), in 0..1."""
        return torch.sigmoid(self.theta / self.temperature)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if not self.training:
            scale, shift = self.affine()
            return torch.addcmul(shift, x, scale)
        pool = x.detach()
        if self.reservoir:
            pool = torch.cat([pool, self.past[: int(self.past_rows.clamp(max=self.reservoir))].to(pool.dtype)])
        rows = self.permutations(len(x), len(pool))
        noise = pool.gather(0, rows[:, self.owner])
        if self.theta.requires_grad:
            self._observe(x.detach(), noise, ids, rows)
        return torch.lerp(noise, x, self.gates().to(x.dtype)[self.owner].expand_as(x))

    def permutations(self, rows: int, pool: int) -> Tensor:
        """Which row of the pool replaces each row of the batch, by field: (rows, F), drawn anew."""
        device, fields = self.theta.device, len(self.blocks)
        base = torch.randperm(pool, device=device)
        turns = torch.randperm(pool, device=device)[torch.arange(fields, device=device) % pool]
        return base[(torch.arange(rows, device=device)[:, None] + turns) % pool]

    @torch.no_grad()
    def _observe(self, x: Tensor, noise: Tensor, ids: Tensor, rows: Tensor) -> None:
        """Update the moving averages of divergence, block means and changed rows."""
        distance = ((x - noise).to(self.membership.dtype).square() @ self.membership).sqrt().mean(0)
        self.observed += 1
        self.divergence_sum.lerp_(distance, 1 - self.decay)
        self.mean_sum.lerp_(x.to(self.mean_sum.dtype).mean(0), 1 - self.decay)
        marks = ids.double() @ self.marks_ids + x.double() @ self.marks_dense
        filled = int(self.past_rows.clamp(max=len(self.past_marks)))
        pool = torch.cat([marks, self.past_marks[: min(filled, self.reservoir)]]) if self.reservoir else marks
        if filled:
            against = self.past_marks[torch.randint(filled, (len(marks),), device=marks.device)]
            self.changed += torch.stack([(marks != pool.gather(0, rows)).sum(0), (marks != against).sum(0)])
            self.compared += len(marks)
        self._remember(x, marks)

    def _remember(self, x: Tensor, marks: Tensor) -> None:
        """Overwrite the oldest remembered rows with a share of this batch, so that the past spans many batches."""
        share = max(1, min(len(x), len(self.past_marks) // 16))
        chosen = torch.randperm(len(x), device=x.device)[:share]
        places = (self.past_rows + torch.arange(share, device=x.device)) % len(self.past_marks)
        self.past_marks[places] = marks[chosen]
        if self.reservoir:
            fit = places < self.reservoir
            self.past[places[fit]] = x[chosen][fit].to(self.past.dtype)
        self.past_rows += share

    def _corrected(self, average: Tensor) -> Tensor:
        return average / (1 - self.decay**self.observed).clamp(min=1e-12)

    def divergence(self) -> Tensor:
        """Bias-corrected moving average (F,) of the mean distance between a block and its replacement."""
        return self._corrected(self.divergence_sum)

    def penalty(self) -> Tensor:
        if self.reference == "code":
            return self.fs_weight * self.gates().sum() / self.real
        return (self.alpha * self.divergence().clamp(min=self.floor) * self.gates()).sum()

    def step(self, progress: float) -> None:
        rates = self.effective_shuffle_rates()
        # three standard deviations of a ratio of counts; the past that a rate rests on is no larger than what was
        # remembered, however often it is compared with
        seen = self.changed[1] / self.compared.clamp(min=1) * self.past_rows
        doubt = 3 * (2 / seen.clamp(min=1)).sqrt()
        if self.observed >= _RATE_PATIENCE and (rates + doubt).min() < _RATE_FLOOR:
            worst = int((rates + doubt).argmin())
            raise ConfigError(
                f"shuffling within a batch changes field '{self.blocks[worst].name}' in only {rates[worst]:.0%} of the "
                f"rows it should (batches hold few groups): use shuffle: window, a larger batch, or "
                f"reservoir: {16 * _MEMORY_ROWS} in the method's options"
            )

    def effective_shuffle_rates(self) -> Tensor:
        """By field, rows that a shuffle changes over those that rows from other batches would change; at most 1."""
        within, against = self.changed
        return torch.where(against > 0, within / against.clamp(min=1), torch.ones_like(within)).clamp(max=1)

    def scores(self) -> dict[str, float]:
        return dict(zip(self.schema.names, self.gates().tolist()))

    def evidence(self) -> dict[str, float]:
        divergence = self.divergence().tolist()
        return {
            "effective_shuffle_rate": float(self.effective_shuffle_rates().min()),
            **{f"divergence/{block.name}": value for block, value in zip(self.blocks, divergence)},
        }

    def affine(self) -> tuple[Tensor, Tensor]:
        """Noise replaced by its mean: x -> g x + (1 - g) E[x]; exact in expectation for a linear first layer."""
        scale = self.gates().detach()[self.owner]
        return scale, (1 - scale) * self.fill().to(scale.device)

    def fill(self) -> Tensor:
        return self._corrected(self.mean_sum)
