"""LeAP (arXiv 2606.01111): each field is mixed with a shuffled copy of itself; what the mixing costs says what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.path import ROWS, Rows, relative_distance, walk
from slimrec.gates.shuffle import ShuffleGate
from slimrec.gates.survey import Batches
from slimrec.probes import is_probe
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection

_FLOOR = 0.05  # of a field's relative distance, for constants: without it nothing would move their gates
_START = 1e-4  # of the label's entropy: the price that the path starts at, below anything worth a field
_MOST = 262_144  # rows of the gate slice that the path looks at
_HELD = 2**26  # numbers of their blocks that are held rather than looked up again at every step
# alpha, learning rate and `every` of a gate that learns within the training
_WITHIN = {None: (0.001, 0.02, 4), "paper": (0.005, 0.02, 4), "code": (0.0, 0.001, 1)}


class LeapGate(ShuffleGate):
    """g = sigmoid(theta / temperature), one a field; x_i -> g_i x_i + (1 - g_i) sg(x_i[permutation_i]).

    By default the network trains as if there were no gate. Then, the network as it came out, gates step on held-out
    rows while the price alpha of an open gate grows (see `slimrec.gates.path`): the loss has alpha * D_i * g_i added,
    where D_i is the relative distance of a row's block and its replacement, E|x - x'| / sqrt(E|x - x'|^2). A field's
    score is what shutting its gate costs where it falls for good: nats of log-loss that it is worth while all that is
    worth less is gone. One path ranks the fields for every budget; without one those stay that are worth `least` of the
    entropy of the label, or with `gap` those above the widest gap between neighbours in log-nats. What the path cannot
    settle does the cost of a constant (`overruled`): harmful fields go, and fields present on too few held-out rows stay.
    Twins known before the training share one gate and one permutation.
    Ours, in that the paper has one alpha, the distance itself, which grows with width and embeddings, and a network
    that trains on the mix. Growing alpha on a finished network lets no early stop cut the path short, and what falls
    early says nothing of the network's age.

    With `alpha` or `stream` the price is fixed and gates learn within the training, which sees the mix (score g,
    threshold 1/2); all options but `least` and `gap` are for such gates, and do nothing on the path, as a warning says.
    `reference: paper` is that with the distance as published: the penalty is sum_i alpha * max(distance_i, floor) * g_i
    with a moving average (paper, eq. "adaptive regularisation"), gates and network together on the training rows, in
    every epoch. It gives neither `temperature`, `start`, `floor`,
    `decay` nor alpha: no pair of alpha and floor serves all logs.

    `reference: code` is the released base version: one penalty for all fields, `fs_weight` times the mean of g,
    gates stepped by 0.001 on a held-out batch at every step (`learning_rate` and `every`, when given, still hold).
    Validation sees the mean of the noise and not draws of it. Its weight is .1 for MovieLens-1M, .00125 for AliCCP,
    .005 for Avazu and .02 for Criteo.

    With a `reference` the decision is the paper's too: g of at least 1/2, or under a budget the highest g, be they low.
    Both protocols of the paper are the recipe's: search and retrain is `finetune.start: fresh`, cut and fine-tune is
    `finetune.start: warm`, on few rows with `finetune.fraction`.

    `stream` is "gate" (step on the held-out slice at every `every`-th step) or "train" (single pass only): on rows that
    the network has memorised, a gate keeps memorised noise.
    """

    method = "leap"
    overruled = True
    tells_noise = True

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        reference: Literal["paper", "code"] | None = None,
        least: float = 0.0005,
        gap: bool = False,
        alpha: float | None = None,  # with no reference: the path; of the paper 0.005
        fs_weight: float = 0.02,
        floor: float = 0.05,
        decay: float = 0.99,
        temperature: float = 0.2,
        start: float = 1.0,
        learning_rate: float | None = None,  # 0.02; of the code 0.001
        stream: Literal["gate", "first", "train"] | None = None,
        every: int | None = None,  # 4; of the code 1
        warmup: float = 0.0,
        reservoir: int = 0,
    ):
        super().__init__(schema, embedding_dim, decay, reservoir)
        if reference not in (None, "paper", "code"):
            raise ValueError(f"`reference` must be 'paper' or 'code', or not be there, got '{reference}'")
        usual_alpha, usual_rate, usual_every = _WITHIN[reference]
        learning_rate = usual_rate if learning_rate is None else learning_rate
        self.published = reference is not None
        self.overruled = self.tells_noise = not self.published
        self.drive(
            stream or ("train" if reference == "paper" else "gate"),
            usual_every if every is None else every,
            learning_rate,
            warmup,
        )
        given = {"alpha": alpha or 0.0, "floor": floor, "fs_weight": fs_weight}
        for name, value in given.items():
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}")
        if temperature <= 0 or not 0 < least < 1:
            raise ValueError(f"needs temperature > 0 and 0 < least < 1, got {temperature=}, {least=}")
        self.walks = reference is None and alpha is None and stream is None
        self.reference, self.fs_weight, self.least, self.gap = reference, fs_weight, least, gap
        self.alpha, self.floor, self.temperature = usual_alpha if alpha is None else alpha, floor, temperature
        fields = len(self.blocks)
        self.real = sum(not is_probe(block.name) for block in self.blocks)  # probes take no pressure off the fields
        if not self.walks:
            self.theta = nn.Parameter(torch.full((fields,), float(start)))
        self.register_buffer("group", torch.arange(fields))  # fields of one number share a gate on the path
        self.register_buffer("first", torch.zeros(fields, dtype=torch.double))  # nats asked where a gate fell first
        self.register_buffer("last", torch.zeros(fields, dtype=torch.double))  # and where it fell for good
        self.register_buffer("error", torch.zeros(fields, dtype=torch.double))  # of its worth
        self.register_buffer("fallen", torch.zeros(fields, dtype=torch.bool))
        self.register_buffer("apart", torch.zeros(fields))  # relative distance
        self.register_buffer("entropy", torch.zeros((), dtype=torch.double))  # of the label, nats a row

    def alike(self, groups: Sequence[Sequence[str]]) -> None:
        names = list(self.schema.names)
        for group in groups:
            self.group[[names.index(name) for name in group]] = min(names.index(name) for name in group)

    def gates(self) -> Tensor:
        """g (F,), in 0..1, of a gate that learns within the training."""
        return torch.sigmoid(self.theta / self.temperature)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if self.walks:
            return x
        if not self.training:
            scale, shift = self.affine()
            return torch.addcmul(shift, x, scale)
        noise = self.shuffled(x, ids, watch=self.theta.requires_grad)
        return torch.lerp(noise, x, self.gates().to(x.dtype)[self.owner].expand_as(x))

    def divergence(self) -> Tensor:
        """What a gate's penalty is proportional to (F,): the distance, or the relative one where no paper is asked for."""
        return self.distance() if self.reference else self.relative_distance()

    def penalty(self) -> Tensor:
        if self.walks:
            return super().penalty()
        if self.reference == "code":
            return self.fs_weight * self.gates().sum() / self.real
        return (self.alpha * self.divergence().clamp(min=self.floor) * self.gates()).sum()

    def measure(self, model: nn.Module, batches: Batches) -> Tensor:
        """Nats (F,) at which each field's gate falls on the path; g where gates have learnt within the training."""
        if not self.walks:
            return self.gates().detach().double()
        ids, dense, label, weight = self.draw(batches, _MOST)
        self.entropy.fill_(_entropy(label, weight))
        generator = torch.Generator().manual_seed(int(self.seed) + 2)

        @torch.no_grad()
        def read(rows: Tensor) -> Tensor:
            return model.arena(ids[rows].to(self.owner.device), dense[rows].to(self.owner.device))

        fits = len(label) * len(self.owner) <= _HELD  # the network is finished: its blocks stay what they are
        held = torch.cat([read(rows) for rows in torch.arange(len(label)).split(ROWS)]) if fits else None

        def blocks(rows: Tensor) -> Rows:
            x = read(rows) if held is None else held[rows.to(held.device)]
            return x, label[rows].to(x.device), weight[rows].to(x.device)

        def endless() -> Iterator[Rows]:
            while True:
                order = torch.randperm(len(label), generator=generator)
                yield from (blocks(rows) for rows in order.split(ROWS) if len(rows) == min(ROWS, len(label)))

        gates, place = self.group.unique(return_inverse=True)
        owner = place[self.owner]
        whole = (blocks(rows) for rows in torch.randperm(len(label), generator=generator).split(ROWS))
        apart = relative_distance(whole, owner, len(gates), generator)
        price = max(_START * float(self.entropy), 1e-9)
        path = walk(model.backbone, endless(), owner, apart.clamp(min=_FLOOR), price, generator)
        self.apart.copy_(apart[place])
        self.fallen.copy_(path.fallen[place])
        self.first.copy_((path.first * apart)[place])
        self.last.copy_((path.last * apart)[place])
        self.error.copy_(path.error[place])
        return path.worth[place].double()

    def scores(self) -> dict[str, float]:
        """Nats, twins in the order of what their tables cost: which of them is kept is then no accident of names."""
        if not self.walks:
            return dict(zip(self.schema.names, self.gates().tolist()))
        costs, group = self.field_bytes(), self.group.tolist()
        scores = dict(zip(self.schema.names, self.importance.tolist()))
        for one in set(group):
            members = [name for name, each in zip(scores, group) if each == one]
            for place, name in enumerate(sorted(members, key=lambda name: (costs[name], name))):
                scores[name] *= 1 - 1e-6 * place
        return scores

    def bar(self) -> float | None:
        if not self.walks:
            return None
        return self._at_the_gap() if self.gap else self.least * float(self.entropy)

    def _at_the_gap(self) -> float:
        """The middle, in log-nats, of the widest gap between neighbours; of twins one counts, and noise as the start."""
        own = {int(g): s for b, g, s in zip(self.blocks, self.group, self.importance.tolist()) if not is_probe(b.name)}
        start = _START * max(float(self.entropy), 1e-9)
        nats = sorted({max(start, worth) for worth in (*own.values(), start)})
        low, high = max(pairwise(nats), key=lambda pair: pair[1] / pair[0], default=(start, start))
        return math.sqrt(low * high)

    def evidence(self) -> dict[str, float]:
        names = self.schema.names
        if not self.walks:
            divergence = dict(zip(names, self.divergence().tolist()))
            shuffle = {"effective_shuffle_rate": float(self.effective_shuffle_rates().min())}
            return shuffle | {f"divergence/{name}": value for name, value in divergence.items()}
        asked = {"rows": float(self.rows), "least_nats": self.bar()}
        fell = {f"fell_first/{name}": value for name, value in zip(names, self.first.tolist())}
        fell |= {f"fell/{name}": value for name, value in zip(names, self.last.tolist())}
        fell |= {f"error/{name}": value for name, value in zip(names, self.error.tolist())}
        beyond = {f"beyond/{name}": 1.0 for name, fallen in zip(names, self.fallen.tolist()) if not fallen}
        return asked | fell | {f"distance/{name}": value for name, value in zip(names, self.apart.tolist())} | beyond

    def affine(self) -> tuple[Tensor, Tensor]:
        """Noise replaced by its mean: x -> g x + (1 - g) E[x]; exact in expectation for a linear first layer."""
        if self.walks:
            return super().affine()
        scale = self.gates().detach()[self.owner]
        return scale, (1 - scale) * self.fill().to(scale.device)

    def needed(self) -> Tensor:
        if not self.walks:
            return self.gates().detach() >= 0.5
        return self.importance >= self.bar()

    def select(self, budget: Budget, seed: int) -> Selection:
        given = budget.model_dump(exclude_none=True)
        return super().select(budget if given or self.walks else Budget(threshold=0.5), seed)


def _entropy(label: Tensor, weight: Tensor) -> float:
    """Entropy of labels (n,) in nats; of several tasks (n, T) the mean over all labels that are observed."""
    columns = label.reshape(len(label), -1).T, weight.reshape(len(weight), -1).T
    found = 0.0
    for each, worth in zip(*columns):
        rate, share = float((worth * each).sum() / worth.sum()), float(worth.sum() / weight.sum())
        found -= share * sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)
    return found
