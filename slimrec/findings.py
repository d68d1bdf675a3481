"""What a trained search shows on the held-out gate slice beside its scores: twins, and what fields do where they are present."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from slimrec.data.dataset import Batch, Split
from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.schema import MISSING, Field, Schema

FINDINGS = "findings.json"  # in a gated artifact
ALIKE = 0.98  # agreement beyond chance, both ways, from which two fields say the same
DOMINANT = 0.75  # share of rows with one value (or none) from which a field counts as absent there
_BINS = 64  # a number is compared by its quantiles
_ROWS = 65_536  # of the gate slice, at most; fewer where there are very many fields
_FORWARD_ROWS = 20_000_000  # rows through the network, in all


class Change(BaseModel):
    """A mean change in log-loss (nats a row, positive: worse) with its standard error, over so many rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: float
    error: float
    rows: int

    @property
    def certain(self) -> bool:
        """Whether it is above zero by three standard errors."""
        return self.mean > 3 * self.error


class Presence(BaseModel):
    """What a field does on the few rows where it does not hold its usual value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float  # of the rows
    shuffled: Change  # when its values are shuffled over all rows, seen on those where it is present
    missed: Change  # what one constant for the rows where it is present would win back: lost by the search already


class Twins(BaseModel):
    """Fields that say the same, and what the model loses when all of them are shuffled together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fields: tuple[str, ...]
    together: Change


class Findings(BaseModel):
    """findings.json of a gated artifact; empty where there is no gate slice to look at."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    importance: dict[str, Change] = {}  # by field, when it alone is shuffled
    presence: dict[str, Presence] = {}  # of fields that are usually absent
    twins: tuple[Twins, ...] = ()
    repeats: tuple[dict[str, float], ...] = ()  # scores of each repeat of the search
    kept: tuple[tuple[str, ...], ...] = ()  # by each repeat's own rule


class _Slice(NamedTuple):
    """The rows looked at, with the model's losses and errors on them."""

    rows: Batch
    loss: Tensor  # (n,) weighted
    residual: Tensor  # (n,) weighted: label - probability
    variance: Tensor  # (n,) weighted: probability (1 - probability)


def find(model: Model, split: Split, seed: int, device: torch.device) -> Findings:
    """Look at a trained model with its gate in place, in eval mode, on rows that it has not trained on."""
    fields = [field for field in model.schema.fields if not is_probe(field.name)]
    rows = min(len(split), _ROWS, max(1000, _FORWARD_ROWS // len(fields)))
    if rows < 2:
        return Findings()
    batch = next(split.batches(rows, shuffle="window", seed=seed))
    seen = _judge(model, batch, device)
    values = {field.name: field_values(model.schema, field, batch) for field in fields}
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(batch.label)))

    def shuffled(names: tuple[str, ...]) -> Tensor:
        return _judge(model, _shuffle(model.schema, names, batch, order), device).loss - seen.loss

    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    changes = {field.name: shuffled((field.name,)) for field in fields}
    absent = {field.name: usual(field, values[field.name]) for field in fields}
    presence = {
        name: Presence(
            share=float(np.mean(~mask)),
            shuffled=_change(changes[name], torch.from_numpy(~mask), batch.weight),
            missed=_missed(seen, torch.from_numpy(~mask), batch.weight),
        )
        for name, mask in absent.items()
        if mask is not None
    }
    groups = twins({field.name: codes(field, values[field.name]) for field in fields if field.kind != "vector"})
    return Findings(
        importance={name: _change(change, everywhere, batch.weight) for name, change in changes.items()},
        presence=presence,
        twins=tuple(Twins(fields=g, together=_change(shuffled(g), everywhere, batch.weight)) for g in groups),
    )


def field_values(schema: Schema, field: Field, batch: Batch) -> np.ndarray:
    """The field's part of a batch: ids (n, slots) or dense columns (n, width)."""
    source, owners = (batch.ids, schema.embedded) if field.embedded else (batch.dense, schema.dense)
    start = 0
    for owner in owners:
        size = owner.slots or owner.dense_width
        if owner.name == field.name:
            return source[:, start : start + size].numpy()
        start += size
    raise KeyError(field.name)


def usual(field: Field, values: np.ndarray) -> np.ndarray | None:
    """Rows (n,) where the field holds its usual value or none; None where no value dominates, or nothing else is."""
    if field.embedded:
        empty = values[:, 0] <= MISSING
    else:
        empty = (values == 0).all(axis=1)
    if values.shape[1] == 1:
        distinct, counts = np.unique(values[:, 0], return_counts=True)
        empty |= values[:, 0] == distinct[counts.argmax()]
    return empty if DOMINANT <= empty.mean() < 1 else None


def codes(field: Field, values: np.ndarray) -> np.ndarray:
    """One integer a row, equal where the field's value is: int64 (n,); numbers by quantile, bags as sets."""
    if not field.embedded:
        column = values[:, 0]
        edges = np.unique(np.quantile(column, np.arange(1, _BINS) / _BINS))
        return np.searchsorted(edges, column, side="right")
    return np.unique(np.sort(values, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def agreement(of: np.ndarray, given: np.ndarray) -> float | None:
    """How well another row with the same `given` tells `of`, 0 for no better than chance, 1 for always.

    Leave-one-out Goodman-Kruskal tau: unlike a conditional entropy it does not take near-unique fields for functions
    of each other, because a value that was seen once tells nothing. None where it says nothing at all.
    """
    group, size = _inverse(given)
    cell, both = _inverse(group * (of.max() + 1) + of)
    repeated = size[group] > 1
    if not repeated.any():
        return None
    agree = ((both[cell] - 1) / np.maximum(size[group] - 1, 1))[repeated].mean()
    value, count = _inverse(of)
    chance = ((count[value] - 1) / (len(of) - 1)).mean()
    return None if chance > 1 - 1e-9 else float((agree - chance) / (1 - chance))


def twins(fields: dict[str, np.ndarray]) -> list[tuple[str, ...]]:
    """Groups of fields that tell each other, from a code a row (n,) of each; constants belong to none.

    Fields that tell each other have nearly the same distinct counts, so only neighbours by entropy are compared.
    """
    entropy = {name: _entropy(code) for name, code in fields.items()}
    names = sorted((name for name in fields if entropy[name] > 0), key=lambda name: (entropy[name], name))
    head = {name: name for name in names}

    def root(name: str) -> str:
        while head[name] != name:
            name = head[name]
        return name

    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if entropy[b] - entropy[a] > 0.05 * entropy[b] + 0.01:
                break
            both = (agreement(fields[a], fields[b]), agreement(fields[b], fields[a]))
            if all(value is not None and value >= ALIKE for value in both):
                head[root(b)] = root(a)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(root(name), []).append(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def jaccard(sets: list[set[str]]) -> float:
    """Mean share of common members over all pairs of sets; 1 for a single set."""
    pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
    return sum(pairs) / len(pairs) if pairs else 1.0


def _inverse(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row's rank among the distinct codes, and how often each of those occurs."""
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return inverse.reshape(-1), counts


def _entropy(code: np.ndarray) -> float:
    share = np.array(list(Counter(code.tolist()).values())) / len(code)
    return float(-(share * np.log(share)).sum()) if len(share) > 1 else 0.0


def _shuffle(schema: Schema, names: tuple[str, ...], batch: Batch, order: Tensor) -> Batch:
    """The batch with these fields taken from other rows, all from the same one."""
    ids, dense = batch.ids.clone(), batch.dense.clone()
    slots = [f.name in names for f in schema.embedded for _ in range(f.slots)]
    columns = [f.name in names for f in schema.dense for _ in range(f.dense_width)]
    for part, chosen in ((ids, slots), (dense, columns)):
        if any(chosen):
            part[:, chosen] = part[order][:, chosen]
    return batch._replace(ids=ids, dense=dense)


@torch.no_grad()
def _judge(model: Model, batch: Batch, device: torch.device, size: int = 16_384) -> _Slice:
    parts = zip(batch.ids.split(size), batch.dense.split(size))
    logits = torch.cat([model(ids.to(device), dense.to(device)).float().cpu() for ids, dense in parts]).double()
    label, weight, chance = batch.label.double(), batch.weight.double(), torch.sigmoid(logits)
    loss = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    return _Slice(batch, loss * weight, (label - chance) * weight, chance * (1 - chance) * weight)


def _change(difference: Tensor, where: Tensor, weight: Tensor) -> Change:
    """The mean over some rows of weighted differences, and its standard error."""
    total = float(weight[where].double().sum())
    if total <= 0:
        return Change(mean=0.0, error=0.0, rows=0)
    mean = float(difference[where].sum()) / total
    spread = difference[where] - mean * weight[where].double()
    return Change(mean=mean, error=float(spread.square().sum().sqrt()) / total, rows=int(where.sum()))


def _missed(seen: _Slice, where: Tensor, weight: Tensor) -> Change:
    """Log-loss that one Newton step of a constant on these rows wins back; its error that of a chi-squared."""
    total, room = float(weight[where].double().sum()), float(seen.variance[where].sum())
    if total <= 0 or room <= 0:
        return Change(mean=0.0, error=0.0, rows=0)
    won = float(seen.residual[where].sum()) ** 2 / (2 * room) / total
    scale = float(weight[where].double().square().sum()) / total  # 1 for equal weights of 1
    return Change(mean=won, error=2 * scale / total, rows=int(where.sum()))
