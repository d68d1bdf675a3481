"""AutoFIS (arXiv 2003.11235): a weight for every meeting of two fields, stepped by GRDA until some are exactly 0."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.gates.meetings import MeetingGate
from slimrec.probes import is_probe
from slimrec.schema import Schema
from slimrec.selection import Selection


class AutoFISGate(MeetingGate):
    """The inner product of fields i and j counts alpha_ij times, divided by its deviation; the blocks pass untouched.

    The paper normalises each product by its batch before weighing it, so that alpha alone says how much it matters;
    here it is divided by a running deviation of its own, and what is left of its mean goes into biases. All alpha begin
    at `start` and step by GRDA (`Grda`), which presses them to exact zeros: a pair stays whose alpha is off 0. Fields go
    only where a budget asks, and the method knows nothing of what a field says alone: it ranks them by what shuffling
    each costs (`decide`); without a budget of places their score is the mean size of their alphas over the largest mean.

    As published, alphas that stay are weights of the network that follows; they are frozen here, while its other
    weights learn around them (`finetune.start: fresh`, as in the paper). The paper steps alpha and network together on
    the same rows: that is `stream: train`, in a single pass here. The default steps alpha on held-out rows. The
    published `learning_rate`, c and mu are 0.005, 0.005 and 0.7 for some hundred thousand steps; these are for some
    hundred, chosen on planted interactions: with nothing to hold it, alpha is 0 after
    (start / c / learning_rate^(1/2 + mu))^(1 / mu) steps, some 315.
    """

    method = "autofis"
    weighs_pairs = True
    shared = ("square",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        start: float = 0.6,
        c: float = 0.12,
        mu: float = 0.8,
        decay: float = 0.99,
        learning_rate: float = 0.1,
        stream: Literal["gate", "train"] = "gate",
        every: int = 1,
        warmup: float = 0.2,
    ):
        super().__init__(schema, embedding_dim)
        self.drive(stream, every, learning_rate, warmup)
        if start <= 0 or c < 0 or not 0.5 <= mu < 1 or not 0 <= decay < 1:
            raise ValueError(
                f"needs start > 0, c >= 0, 0.5 <= mu < 1 and 0 <= decay < 1, got {start=}, {c=}, {mu=}, {decay=}"
            )
        self.c, self.mu, self.decay, self.settled = c, mu, decay, 0.7
        self.names = list(combinations(schema.names, 2))
        self.alpha = nn.Parameter(torch.full((len(self.names),), float(start)))
        self.register_buffer("square", torch.zeros(3, len(self.names)))  # averages of 1, <e_i, e_j> and its square
        self.meet = lambda x: x.new_zeros(len(x), len(self.names))  # the network's products, once there is one

    def attach(self, backbone: nn.Module) -> None:
        super().attach(backbone)
        if not (hasattr(backbone, "meetings") and backbone.meetings.all):
            return  # of a network that was cut: its pairs have their deviations by then
        self.meet = lambda x: backbone.meetings(backbone.projection(x))

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"gate": Grda([self.alpha], self.learning_rate, self.c, self.mu)}

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                products = self.meet(x.detach()).to(self.square.dtype)
                seen = torch.stack([torch.ones_like(self.square[0]), products.mean(0), products.square().mean(0)])
                self.square.lerp_(seen, 1 - self.decay)
        return x

    def deviation(self) -> Tensor:
        """Of each product (P,), over the rows seen; 1 where it is always the same."""
        count, mean, square = self.square
        variance = (square - mean.square() / count.clamp(min=1e-12)) / count.clamp(min=1e-12)
        return torch.where(variance > 1e-12, variance.clamp(min=1e-12).sqrt(), 1.0)

    def pairs(self, ids: Tensor) -> Tensor:
        return self.alpha / self.deviation()

    def scores(self) -> dict[str, float]:
        total = dict.fromkeys(self.schema.names, 0.0)
        for pair, size in zip(self.names, self.alpha.abs().tolist()):
            for name in pair:
                total[name] += size
        most = max(total.values()) or 1.0
        return {name: value / most for name, value in total.items()}

    def evidence(self) -> dict[str, float]:
        real = [(pair, value) for pair, value in zip(self.names, self.alpha.tolist()) if not any(map(is_probe, pair))]
        strongest = sorted(real, key=lambda each: (-abs(each[1]), each[0]))
        return {
            "pairs": float(len(real)),
            "pairs_kept": float(sum(value != 0 for _, value in real)),
            **{f"alpha/{' x '.join(pair)}": value for pair, value in strongest[:50]},
        }

    def meets(self) -> list[bool]:
        return (self.alpha != 0).tolist()

    @torch.no_grad()
    def narrow(self, selection: Selection) -> Gate | None:
        """The weights of the pairs of fields that stay, frozen; nothing where none meet."""
        if len(selection.kept) < 2 or selection.pairs == ():
            return None
        gate = type(self)(self.schema.narrow(selection.kept), self.embedding_dim, **self.options)
        gate.options = self.options
        place = {pair: i for i, pair in enumerate(self.names)}
        places = [place[pair] for pair in gate.names]
        gate.alpha.copy_(self.alpha[places])
        gate.square.copy_(self.square[:, places])
        return gate.freeze()


class Grda(torch.optim.Optimizer):
    """Generalised regularised dual averaging (Chao et al. 2020, arXiv 2006.09358): w_n = soft(w_0 - rate * sum of the
    gradients, c rate^(1/2 + mu) n^mu), where soft(v, t) = sign(v) max(|v| - t, 0)."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, c: float, mu: float):
        super().__init__(list(parameters), {"lr": learning_rate, "c": c, "mu": mu})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"], state["dual"] = torch.zeros(()), parameter.detach().clone()
                state["step"] += 1
                state["dual"].sub_(parameter.grad, alpha=group["lr"])
                tuning = group["c"] * group["lr"] ** (0.5 + group["mu"]) * float(state["step"]) ** group["mu"]
                parameter.copy_(nn.functional.softshrink(state["dual"], tuning))
