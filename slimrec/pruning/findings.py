"""What a trained search shows on the held-out gate slice beside its scores: twins, and what fields do where they are present."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from slimrec.backbones.hidden import has_hidden, score_hidden
from slimrec.batch import Batch, total
from slimrec.data.dataset import Split
from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.pruning.change import Change, change
from slimrec.pruning.removal import removed
from slimrec.pruning.twins import codes, twins
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN, Field, Schema

FINDINGS = "findings.json"  # in a gated artifact
DOMINANT = 0.75  # share of rows with one value (or none) from which a field counts as absent there
_ROWS = 65_536  # of the gate slice, at most; fewer where there are very many fields
_FORWARD_ROWS = 10_000_000  # rows through the network for each question, in all
ENOUGH = 16.0
_PIECE = 16_384  # rows at once, and shuffled among each other


class Presence(BaseModel):
    """What a field does on the few rows where it does not hold its usual value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    share: float  # of the rows
    shuffled: Change  # when its values are shuffled over all rows, seen on those where it is present
    missed: Change  # what one constant for the rows where it is present would win back: lost by the search already
    information: float | None = None  # of those rows on such a constant: its error to the power of -2

    @property
    def enough(self) -> bool:
        """Whether these rows could have shown an effect of 1 on the logit, by four standard errors."""
        return self.information is None or self.information >= ENOUGH


class Twins(BaseModel):
    """Fields that say the same, and what the model loses when all of them are shuffled together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    fields: tuple[str, ...]
    together: Change
    removed: Change | None = None  # when all of them stand at their means


class Findings(BaseModel):
    """findings.json of a gated artifact; empty where there is no gate slice to look at."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    importance: dict[str, Change] = {}  # by field, when it alone is shuffled
    removed: dict[str, Change] = {}  # by field, probes among them, when it alone stands at its mean
    presence: dict[str, Presence] = {}  # of fields that are usually absent
    twins: tuple[Twins, ...] = ()
    hidden: tuple[tuple[float, ...], ...] = ()  # by hidden layer, what each unit is worth in loss, to first order
    repeats: tuple[dict[str, float], ...] = ()  # scores of each repeat of the search
    kept: tuple[tuple[str, ...], ...] = ()  # by each repeat's own rule


class _Slice(NamedTuple):
    """The rows looked at, with the model's losses and errors on them, those of several tasks (n, T)."""

    rows: Batch
    loss: Tensor  # (n,) weighted, over all tasks
    residual: Tensor  # (n,) weighted: label - probability
    variance: Tensor  # (n,) weighted: probability (1 - probability)


def find(
    model: Model, split: Split, seed: int, device: torch.device, groups: Sequence[tuple[str, ...]] | None = None
) -> Findings:
    """Look at a trained model with its gate in place, in eval mode, on rows that it has not trained on.

    `groups` are the twins of `twins_of` where they are known already.
    """
    if len(split) < 2:
        return Findings()
    fields = [field for field in model.schema.fields if not is_probe(field.name)]
    batch, cluster = drawn(split, seed)
    seen = _judge(model, batch, device)
    every = field_values(model.schema, batch)
    values = {field.name: every[field.name] for field in fields}
    random = np.random.default_rng(seed)
    order = [torch.from_numpy(random.permutation(len(part))) for part in batch.label.split(_PIECE)]

    def shuffled(names: tuple[str, ...]) -> Tensor:
        return _judge(model, _shuffle(model.schema, names, batch, order), device).loss - seen.loss

    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    in_pairs = model.gate is not None and model.gate.weighs_pairs
    alone = {field.name: shuffled((field.name,)) for field in fields} if in_pairs else None
    changes = alone or _shuffled_alone(model, values, batch, order, device, seen)
    groups = _alike(model.schema, batch) if groups is None else groups
    names = [(field.name,) for field in model.schema.fields]
    gone = removed(model, batch, [*names, *groups], cluster, device)

    def changed(difference: Tensor, where: Tensor) -> Change:
        return change(difference, where, batch.row_weight, cluster)

    return Findings(
        importance={name: changed(difference, everywhere) for name, difference in changes.items()},
        removed={name: found for (name,), found in zip(names, gone)},
        presence=_presence(fields, values, changes, seen, changed),
        twins=tuple(
            Twins(fields=group, together=changed(shuffled(group), everywhere), removed=found)
            for group, found in zip(groups, gone[len(names) :])
        ),
        hidden=_hidden(model, batch, device),
    )


def twins_of(split: Split, seed: int) -> list[tuple[str, ...]]:
    """Groups of fields that say the same on the rows that `find` looks at; what takes no model to see."""
    return _alike(split.schema, drawn(split, seed)[0]) if len(split) > 1 else []


def _alike(schema: Schema, batch: Batch) -> list[tuple[str, ...]]:
    """Probes and vectors belong to no group."""
    fields = [field for field in schema.fields if field.kind != "vector" and not is_probe(field.name)]
    values = field_values(schema, batch)
    return twins({field.name: codes(field, values[field.name]) for field in fields})


def drawn(split: Split, seed: int) -> tuple[Batch, Tensor | None]:
    """The rows looked at, in random order, and the number of each one's group where rows have groups."""
    some = split.some(min(_ROWS, max(1000, _FORWARD_ROWS // len(split.schema.fields))), seed)
    batch = next(some.batches(max(2, len(some)), shuffle="none"))
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(some)))
    group = None if some.group is None else torch.from_numpy(np.unique(some.group, return_inverse=True)[1])
    rows = Batch(*(part[order] for part in batch))
    return rows, None if group is None or int(group.max()) <= 0 else group.reshape(-1)[order]


def _presence(
    fields: list[Field],
    values: dict[str, np.ndarray],
    changes: dict[str, Tensor],
    seen: _Slice,
    changed: Callable[[Tensor, Tensor], Change],
) -> dict[str, Presence]:
    found = {}
    for field in fields:
        absent = usual(field, values[field.name])
        if absent is None:
            continue
        present, weight = torch.from_numpy(~absent), seen.rows.weight.double()
        spread = float((seen.variance[present] * weight[present]).sum())
        found[field.name] = Presence(
            share=float(np.mean(~absent)),
            shuffled=changed(changes[field.name], present),
            missed=_missed(seen, present, seen.rows.weight),
            information=float(seen.variance[present].sum()) ** 2 / spread if spread > 0 else 0.0,
        )
    return found


def field_values(schema: Schema, batch: Batch) -> dict[str, np.ndarray]:
    """Each field's part of a batch: ids (n, slots) or dense columns (n, width)."""
    found: dict[str, np.ndarray] = {}
    for source, owners in ((batch.ids, schema.embedded), (batch.dense, schema.dense)):
        start = 0
        for owner in owners:
            size = owner.slots or owner.dense_width
            found[owner.name] = source[:, start : start + size].numpy()
            start += size
    return found


def usual(field: Field, values: np.ndarray) -> np.ndarray | None:
    """Rows (n,) where the field holds its usual value or none; None where no value dominates, or training knew no other."""
    if field.embedded:
        empty = values[:, 0] <= MISSING
    else:
        empty = (values == 0).all(axis=1)
    if values.shape[1] == 1:
        distinct, counts = np.unique(values[:, 0], return_counts=True)
        empty |= values[:, 0] == distinct[counts.argmax()]
    else:  # a value that most rows hold is the middle one of every column
        empty |= (values == np.partition(values, len(values) // 2, axis=0)[len(values) // 2]).all(axis=1)
    if empty.all() and (not _varies(field) or field.embedded and field.min_count == 1 and (values == UNSEEN).any()):
        return None  # a constant; or ids that come once, which are there, and new in every row
    return empty if DOMINANT <= empty.mean() else None


def _varies(field: Field) -> bool:
    """Whether the training rows hold more than one thing, as they were encoded."""
    known = field.statistics
    if known is None or known.missing_share == 1 or known.varies is False:
        return False
    missing = known.missing_share > 0
    if field.embedded:
        values = field.rows - RESERVED_ROWS
        return values + missing + (known.distinct > values) > 1
    return known.low != known.high or (
        missing and not known.mean and any(known.low)
    )  # scaled, a missing one is the mean


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
    """Weighted log-loss (n,) in double precision, over all tasks."""
    losses = F.binary_cross_entropy_with_logits(logits, batch.label.double(), reduction="none")
    return total(batch.weight.double() * losses)


def _hidden(model: Model, batch: Batch, device: torch.device, size: int = 4096) -> tuple[tuple[float, ...], ...]:
    if not has_hidden(model.backbone):
        return ()

    def losses(ids: Tensor, dense: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return total(weight * F.binary_cross_entropy_with_logits(model(ids, dense).float(), label, reduction="none"))

    pieces = zip(*(part.to(device).split(size) for part in batch))
    return tuple(map(tuple, score_hidden(model.backbone, (partial(losses, *piece) for piece in pieces))))


def _missed(seen: _Slice, where: Tensor, weight: Tensor) -> Change:
    """Log-loss that one Newton step of a constant on these rows wins back; its error that of a chi-squared.

    Of several tasks each has a constant, and the sum is of as many.
    """
    rows, worth = int(where.sum()), float(weight[where].double().sum())
    if not rows:
        return Change(mean=0.0, error=0.0, rows=0)
    residuals, rooms = (part[where].reshape(rows, -1).sum(0).tolist() for part in (seen.residual, seen.variance))
    tasks = [residual**2 / (2 * room) for residual, room in zip(residuals, rooms) if room > 0]
    if not tasks:
        return Change(mean=0.0, error=0.0, rows=0)
    scale = float(weight[where].double().square().sum()) / worth  # 1 for equal weights of 1
    return Change(mean=sum(tasks) / worth, error=2 * len(tasks) ** 0.5 * scale / worth, rows=rows)
