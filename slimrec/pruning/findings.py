"""What a trained search shows on the held-out gate slice beside its scores: twins, and what fields do where they are present."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from slimrec.backbones.hidden import has_hidden, score_hidden
from slimrec.batch import Batch
from slimrec.data.dataset import Split
from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.pruning.twins import codes, twins
from slimrec.schema import MISSING, Field, Schema

FINDINGS = "findings.json"  # in a gated artifact
DOMINANT = 0.75  # share of rows with one value (or none) from which a field counts as absent there
_ROWS = 65_536  # of the gate slice, at most; fewer where there are very many fields
_FORWARD_ROWS = 20_000_000  # rows through the network, in all
_PIECE = 16_384  # rows at once, and shuffled among each other


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
    hidden: tuple[tuple[float, ...], ...] = ()  # by hidden layer, what each unit is worth in loss, to first order
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
    random = np.random.default_rng(seed)
    order = [torch.from_numpy(random.permutation(len(part))) for part in batch.label.split(_PIECE)]

    def shuffled(names: tuple[str, ...]) -> Tensor:
        return _judge(model, _shuffle(model.schema, names, batch, order), device).loss - seen.loss

    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    in_pairs = model.gate is not None and model.gate.weighs_pairs
    alone = {field.name: shuffled((field.name,)) for field in fields} if in_pairs else None
    changes = alone or _shuffled_alone(model, values, batch, order, device, seen)
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
        hidden=_hidden(model, batch, device),
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


@torch.no_grad()
def _shuffled_alone(
    model: Model, names: Collection[str], batch: Batch, order: list[Tensor], device: torch.device, seen: _Slice
) -> dict[str, Tensor]:
    """What the loss of each row (n,) rises by when one field is shuffled, as far as possible without a whole forward pass.

    A gate in eval mode is an affine map of the columns, so a field may be shuffled behind it.
    """
    logits: dict[str, list[Tensor]] = {name: [] for name in names}
    for ids, dense, rows in zip(batch.ids.split(_PIECE), batch.dense.split(_PIECE), order):
        ids, start = ids.to(device), 0
        x = model.arena(ids, dense.to(device))
        x = x if model.gate is None else model.gate(x, ids)
        replaced = model.backbone.replacing(x)
        for block in model.blocks:
            if block.name in logits:
                columns = x[:, start : start + block.width].index_select(0, rows.to(device))
                logits[block.name].append(replaced(start, columns).float().cpu())
            start += block.width
    return {name: _losses(torch.cat(parts).double(), batch) - seen.loss for name, parts in logits.items()}


def _shuffle(schema: Schema, names: tuple[str, ...], batch: Batch, order: list[Tensor]) -> Batch:
    """The batch with these fields taken from other rows, all from the same one."""
    ids, dense = batch.ids.clone(), batch.dense.clone()
    rows = torch.cat([piece * _PIECE + within for piece, within in enumerate(order)])
    slots = [f.name in names for f in schema.embedded for _ in range(f.slots)]
    columns = [f.name in names for f in schema.dense for _ in range(f.dense_width)]
    for part, chosen in ((ids, slots), (dense, columns)):
        if any(chosen):
            part[:, chosen] = part[rows][:, chosen]
    return batch._replace(ids=ids, dense=dense)


@torch.no_grad()
def _judge(model: Model, batch: Batch, device: torch.device) -> _Slice:
    parts = zip(batch.ids.split(_PIECE), batch.dense.split(_PIECE))
    logits = torch.cat([model(ids.to(device), dense.to(device)).float().cpu() for ids, dense in parts]).double()
    label, weight, chance = batch.label.double(), batch.weight.double(), torch.sigmoid(logits)
    return _Slice(batch, _losses(logits, batch), (label - chance) * weight, chance * (1 - chance) * weight)


def _losses(logits: Tensor, batch: Batch) -> Tensor:
    """Weighted log-loss (n,) in double precision."""
    return batch.weight.double() * F.binary_cross_entropy_with_logits(logits, batch.label.double(), reduction="none")


def _hidden(model: Model, batch: Batch, device: torch.device, size: int = 4096) -> tuple[tuple[float, ...], ...]:
    if not has_hidden(model.backbone):
        return ()

    def losses(ids: Tensor, dense: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return weight * F.binary_cross_entropy_with_logits(model(ids, dense).float(), label, reduction="none")

    pieces = zip(*(part.to(device).split(size) for part in batch))
    return tuple(map(tuple, score_hidden(model.backbone, (partial(losses, *piece) for piece in pieces))))


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
