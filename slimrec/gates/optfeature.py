"""OptFeature (arXiv 2310.15342): which pairs of fields, or of their values, may meet; a step function of low-rank logits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from slimrec.gates.base import Gate
from slimrec.gates.lowrank import PairLogits
from slimrec.gates.meetings import MeetingGate
from slimrec.gates.saving import Cost, saved, spent
from slimrec.optimizers import LazyAdam
from slimrec.probes import is_probe
from slimrec.schema import Schema
from slimrec.selection import Budget, Selection

if TYPE_CHECKING:
    from slimrec.batch import Batch

_GRAINS = ("value", "field", "hybrid")
_COSTS = ("selector_bytes", "selector_multiply_adds", "saved_bytes", "saved_multiply_adds")
_SHOWN = 50  # pairs in the evidence
_DRIVEN = {
    None: {"stream": "first", "learning_rate": 3e-3, "warmup": 0.3},
    "paper": {"stream": "train", "learning_rate": 1e-3, "warmup": 0.0},
    "code": {"stream": "train", "learning_rate": 3e-5, "warmup": 0.0},
}
_ALPHA_RATE = 1e-3  # the learning rate of alpha, whatever that of the rest


def straight_through(logits: Tensor) -> Tensor:
    """1 where a logit is above 0, else 0; the gradient passes unchanged, to the pairs that are off as well."""
    return (logits > 0).to(logits.dtype) + (logits - logits.detach())


class OptFeatureGate(MeetingGate):
    """The meeting of fields i and j is weighed by a_ij = 1[raw_ij > 0], see `PairLogits`; the blocks pass untouched.

    `grain` says what raw_ij belongs to: the values that meet in a row, the fields, or (hybrid) a mix with a weight
    sigma(alpha_ij) for the values, of the raw logits as in the released code; in eval mode and for good, the values
    decide where alpha_ij > 0 and the fields elsewhere. Nothing presses pairs off but the loss.

    A pair stays when it is on for more than `min_share` of the rows of the gate slice; of those, with `max_pairs`, the
    ones highest in mean raw logit (both options are ours). Fields go only where a budget asks, and the method knows
    nothing of what a field says alone: it ranks them by what shuffling each costs (`decide`). Without a budget of
    places their score is the mean share of rows on which their pairs are on. With grain field the decision is a static
    list of pairs. Else the selector has to stay in the slim model, with `dim` numbers a value: unless the pairs that go
    save more bytes and more multiply-adds than it costs, the decision falls back to field grain, a static list too, of
    the pairs that stay and are on for most rows (`fall_back`).

    Fields step on the held-out gate slice (`stream`): on rows that the network has memorised noise looks useful. Values
    cannot, for most of them are not there, and their rows would stay as they were drawn; they step on training rows in
    the first epoch, in which every row is new, and the network goes on with the selection as it stands then.
    `reference: paper` trains everything on the same rows in every epoch, without a warm-up, and `reference: code` so at
    the code's learning rate, 3e-5, which moves no pair in a few hundred steps; ours was chosen on planted interactions.
    Of the table of values only the rows of a batch are stepped and decayed. The paper retrains from the initial weights
    with the selection frozen: `finetune.start: initial`.
    """

    method = "optfeature"
    weighs_pairs = True
    shared = ("share",)

    def __init__(
        self,
        schema: Schema,
        embedding_dim: int,
        *,
        grain: Literal["value", "field", "hybrid"] = "value",
        dim: int = 16,
        rank: int = 128,
        min_share: float = 0.0,
        max_pairs: int | None = None,
        fall_back: bool = True,
        reference: Literal["paper", "code"] | None = None,
        learning_rate: float | None = None,  # 0.003; of fields and of the paper 0.001, of the code 0.00003
        l2: float = 1e-5,
        stream: Literal["gate", "first", "train"]
        | None = None,  # of fields gate, of values first; of paper, code train
        every: int = 1,
        warmup: float | None = None,  # 0.3; of paper and code 0
    ):
        super().__init__(schema, embedding_dim)
        if grain not in _GRAINS or reference not in _DRIVEN:
            raise ValueError(
                f"`grain` must be one of {_GRAINS} and `reference` one of {(*_DRIVEN,)}, got {grain=}, {reference=}"
            )
        if min(dim, rank) < 1 or (max_pairs is not None and max_pairs < 0) or not 0 <= min_share < 1 or l2 < 0:
            raise ValueError(
                f"needs `dim` and `rank` of at least 1, `max_pairs` and `l2` of at least 0 and `min_share` in 0..1, got "
                f"{dim=}, {rank=}, {max_pairs=}, {l2=}, {min_share=}"
            )
        asked = {"stream": stream, "learning_rate": learning_rate, "warmup": warmup}
        given = {name: value for name, value in asked.items() if value is not None}
        usual = {"stream": "gate", "learning_rate": 1e-3} if grain == "field" and reference is None else {}
        self.published = reference is not None
        self.drive(**{**_DRIVEN[reference], "every": every, **usual, **given})
        self.grain, self.min_share, self.max_pairs, self.fall_back = grain, min_share, max_pairs, fall_back
        self.l2, self.surveys = l2, grain != "field"
        self.names = list(combinations(schema.names, 2))
        real = [not any(map(is_probe, pair)) for pair in self.names]
        self.register_buffer("real", torch.tensor(real), persistent=False)  # pairs there is to decide about
        self.raw = PairLogits(schema, grain != "field", grain != "value", int(dim), int(rank))
        self.alpha = nn.Parameter(torch.zeros(len(self.names))) if grain == "hybrid" else None
        self.register_buffer("share", torch.ones(len(self.names)))  # of the rows on which each pair is on
        self.register_buffer("mean", torch.zeros(len(self.names)))  # raw logit, over the gate slice
        self.register_buffer("met", torch.ones(len(self.names)))  # 1 for the pairs that stay, else 0
        self.register_buffer("static", torch.tensor(False))  # whether they are always on
        self.register_buffer("costs", torch.zeros(len(_COSTS), dtype=torch.double))

    def logits(self, ids: Tensor) -> Tensor:
        """Raw logits, (P,) with grain field, else (B, P): mixed while training, the hard choice after."""
        if self.grain == "field":
            return self.raw.of_fields()
        if self.grain == "value":
            return self.raw.of_values(ids)
        by_value, by_field = self.raw.of_values(ids), self.raw.of_fields()
        if not self.training:
            return torch.where(self.alpha > 0, by_value, by_field)
        weight = torch.sigmoid(self.alpha)
        return weight * by_value + (1 - weight) * by_field

    def pairs(self, ids: Tensor) -> Tensor:
        if self.training:
            on = straight_through(self.logits(ids))
            self.share.lerp_(on.detach().reshape(-1, len(self.names)).mean(0), 0.01)
            return on
        return self.met if self.static else (self.logits(ids) > 0) * self.met

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Adam with weight decay for all but alpha, of the table of values only the rows of the batch."""
        values = self.raw.values
        groups = [{"params": [p for p in self.raw.parameters() if p is not values], "weight_decay": self.l2}]
        groups += [] if self.alpha is None else [{"params": [self.alpha], "lr": _ALPHA_RATE}]
        made = {"gate": torch.optim.Adam(groups, self.learning_rate)}
        return made if values is None else made | {"gate_tables": LazyAdam([values], self.learning_rate, self.l2)}

    @torch.no_grad()
    def survey(self, model: nn.Module, batches: Callable[[], Iterable[Batch]]) -> None:
        """Count on the gate slice how often each pair is on, decide which stay, and weigh what that saves and costs."""
        on, total, rows, ids = self.share.double() * 0, self.mean.double() * 0, 0, None
        for batch in batches():
            ids = batch[0].to(on.device)
            logits = self.logits(ids).expand(len(ids), -1)
            on, total, rows = on + (logits > 0).sum(0), total + logits.sum(0, dtype=torch.double), rows + len(ids)
        if not rows:  # then with grain field, where no rows are needed
            on, total, rows = self.logits(None) > 0, self.logits(None), 1
        self.share.copy_(on / rows)
        self.mean.copy_(total / rows)
        self.met.copy_(self._decide())
        self.costs.copy_(self._weigh(model.backbone, ids))
        self.static.fill_(self.grain == "field" or (self.fall_back and min(self._net()) < 0))
        if self.static and self.grain != "field":
            self.met.mul_(self.share > 0.5)

    def _decide(self) -> Tensor:
        """1 for the pairs (P,) that stay, by share and by `max_pairs`."""
        met = (self.share > self.min_share) & self.real
        if self.max_pairs is not None:
            order = self.mean.masked_fill(~met, -torch.inf).argsort(descending=True, stable=True)
            met[order[int(self.max_pairs) :]] = False
        return met

    def _weigh(self, backbone: nn.Module, ids: Tensor | None) -> Tensor:
        """`_COSTS`, of real fields alone: probes are gone before anything is served."""
        real = {field.name for field in self.schema.fields if not is_probe(field.name)}
        whole = self._pack(Budget(), 0, {b.name: b.columns if b.name in real else () for b in self.blocks})
        gain, cut = saved(backbone, whole, self._with_pairs(whole))
        cost = Cost(0, 0)
        if self.grain != "field":
            slots = [field.name in real for field in self.schema.embedded for _ in range(field.slots)]
            cost = spent(cut, self._over(real).to(ids.device), ids[:1, slots])
        return self.costs.new_tensor([*cost, *gain])

    def _net(self) -> tuple[float, float]:
        """Bytes and multiply-adds a row that a decision with its selector saves."""
        costs = dict(zip(_COSTS, self.costs.tolist()))
        return tuple(costs[f"saved_{what}"] - costs[f"selector_{what}"] for what in ("bytes", "multiply_adds"))

    def scores(self) -> dict[str, float]:
        total = dict.fromkeys(self.schema.names, 0.0)
        for pair, share in zip(self.names, self.share.tolist()):
            for name in pair:
                total[name] += share
        return {name: value / max(1, len(total) - 1) for name, value in total.items()}

    def evidence(self) -> dict[str, float]:
        """Among others the net saving of a decision that needs its selector, and whether it fell back to a static list."""
        net_bytes, net_multiply_adds = self._net()
        strongest = self.mean.masked_fill(~self.real, -torch.inf).argsort(descending=True, stable=True)
        share = self.share.tolist()
        return {
            "pairs": float(self.real.sum()),
            "pairs_kept": float(self.met.sum()),
            "pairs_on_per_row": float((self.share * self.met).sum()),
            **dict(zip(_COSTS, self.costs.tolist())),
            "net_saved_bytes": net_bytes,
            "net_saved_multiply_adds": net_multiply_adds,
            "fell_back_to_field_grain": float(bool(self.static) and self.grain != "field"),
            **{f"on/{' x '.join(self.names[i])}": share[i] for i in strongest[: min(_SHOWN, self.real.sum())].tolist()},
        }

    @property
    def stays(self) -> bool:
        """Whether the decision needs its selector in the slim model."""
        return self.grain != "field" and not self.static

    def field_bytes(self) -> dict[str, int]:
        """With the selector, its table counts too."""
        costs, width = super().field_bytes(), self.raw.project.in_features if self.stays else 0
        return {f.name: costs[f.name] + 4 * width * (f.rows if f.embedded else 1) for f in self.schema.fields}

    def meets(self) -> list[bool]:
        return (self.met > 0).tolist()

    def narrow(self, selection: Selection) -> Gate | None:
        """The selector over the fields that stay, frozen, unless none meet or the pairs that stay are always on."""
        return self._over(selection.kept) if self.stays and len(selection.kept) > 1 else None

    @torch.no_grad()
    def _over(self, names: Collection[str]) -> Gate:
        """The same selector over fewer fields, frozen."""
        with torch.random.fork_rng(devices=[]):
            gate = type(self)(self.schema.narrow(names), self.embedding_dim, **self.options)
        gate.options = self.options
        gate.raw.copy_from(self.raw)
        place = {pair: i for i, pair in enumerate(self.names)}
        places = [place[pair] for pair in gate.names]
        for name in ("alpha", "share", "mean", "met"):
            if getattr(self, name) is not None:
                getattr(gate, name).copy_(getattr(self, name)[places])
        gate.costs.copy_(self.costs)
        return gate.freeze()
