"""What a trained search shows on the held-out gate slice beside its scores: twins, and what fields do where they are present."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field as Option
from torch import Tensor

from slimrec.backbones.hidden import has_hidden, score_hidden
from slimrec.batch import Batch, total
from slimrec.data.dataset import Split
from slimrec.model import Model
from slimrec.probes import is_probe
from slimrec.pruning.asking import PIECE, ask, losses
from slimrec.pruning.change import NOTHING, Change, change
from slimrec.pruning.removal import removed
from slimrec.pruning.twins import codes, twins
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN, Field, Frozen, Schema, Statistics

FINDINGS = "findings.json"  # in a gated artifact
DOMINANT = 0.75  # share of rows with one value (or none) from which a field counts as absent there
_ROWS = 2**16  # of the gate slice, at most; fewer where there are very many fields
_FORWARD_ROWS = 10**7  # rows through the network for each question, in all
_GRADIENT_ROWS = 2**12  # at once where gradients are asked for
ENOUGH = 16


class Presence(Frozen):
    """What a field does on the few rows where it does not hold its usual value."""

    share: float  # of the rows
    shuffled: Change  # when its values are shuffled over all rows, seen on those where it is present
    missed: Change  # what one constant for the rows where it is present would win back: lost by the search already
    information: float | None = None  # of those rows on such a constant: its error to the power of -2

    @property
    def enough(self) -> bool:
        """Whether these rows could have shown an effect of 1 on the logit, by four standard errors."""
        return self.information is None or self.information >= ENOUGH


class Twins(Frozen):
    """Fields that say the same, and what the model loses when all of them are shuffled together."""

    fields: tuple[str, ...]
    together: Change
    removed: Change | None = None  # when all of them stand at their means


class Findings(Frozen):
    """findings.json of a gated artifact; empty where there is no gate slice to look at."""

    importance: dict[str, Change] = Option({})  # by field, when it alone is shuffled
    removed: dict[str, Change] = Option({})  # by field, probes among them, when it alone stands at its mean
    presence: dict[str, Presence] = Option({})  # of fields that are usually absent
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


def find(model: Model, split: Split, seed: int, device: torch.device, groups: Sequence[tuple[str, ...]]) -> Findings:
    """Look at a trained model with its gate in place, in eval mode, on rows that it has not trained on.

    `groups` are the twins that `twins_of` finds there.
    """
    return look(model, *drawn(split, seed), seed, device, groups) if len(split) > 1 else Findings()


def look(
    model: Model,
    batch: Batch,
    cluster: Tensor | None,
    seed: int,
    device: torch.device,
    groups: Sequence[tuple[str, ...]],
) -> Findings:
    """What `find` finds on these rows; `cluster` (n,) numbers rows that belong together.

    Values are shuffled among the rows that the network takes at once.
    """
    assert model.gate is not None  # as a search leaves a model
    fields = [field for field in model.schema.fields if not is_probe(field.name)]
    seen = _judge(model, batch, device)
    every = field_values(model.schema, batch)
    values = {field.name: every[field.name] for field in fields}
    random = np.random.default_rng(seed)
    order = [torch.from_numpy(random.permutation(len(part))) for part in batch.label.split(PIECE)]

    def shuffled(names: tuple[str, ...]) -> Tensor:
        return _judge(model, _shuffle(model.schema, names, batch, order), device).loss - seen.loss

    everywhere = torch.ones(len(batch.label), dtype=torch.bool)
    absent = {field.name: usual(field, values[field.name]) for field in fields}
    seldom = [name for name, where in absent.items() if where is not None]
    if model.gate.weighs_pairs:  # such gates look at ids again
        changes = {field.name: shuffled((field.name,)) for field in fields}
    else:  # in eval mode a gate is an affine map of the columns, so a field may be shuffled behind it
        alone = [(field.name,) for field in fields]
        rises = ask(model, batch, alone, lambda x, i: x[order[i].to(device)], cluster, device, seldom)
        changes = {name: rise for (name,), rise in zip(alone, rises)}
    names = [(field.name,) for field in model.schema.fields]
    gone = removed(model, batch, [*names, *groups], cluster, device, seldom)

    def changed(difference: Tensor, where: Tensor) -> Change:
        return change(difference, where, batch.row_weight, cluster)

    return Findings(
        importance={name: changed(difference, everywhere) for name, difference in changes.items()},
        removed={name: found for (name,), found in zip(names, gone)},
        presence=_presence(absent, changes, seen, changed),
        twins=tuple(
            Twins(fields=group, together=changed(shuffled(group), everywhere), removed=found)
            for group, found in zip(groups, gone[len(names) :])
        ),
        hidden=_hidden(model, batch, device),
    )


def twins_of(split: Split, seed: int) -> list[tuple[str, ...]]:
    """Groups of fields that say the same on the rows that `find` looks at; what takes no model to see."""
    return alike(split.schema, drawn(split, seed)[0]) if len(split) > 1 else []


def alike(schema: Schema, batch: Batch) -> list[tuple[str, ...]]:
    """Groups of fields that say the same on these rows; probes and vectors belong to none."""
    fields = [field for field in schema.fields if field.kind != "vector" and not is_probe(field.name)]
    values = field_values(schema, batch)
    return twins({field.name: codes(field, values[field.name]) for field in fields})


def drawn(split: Split, seed: int) -> tuple[Batch, Tensor | None]:
    """The rows looked at, in random order, and the number of each one's group where rows have groups."""
    some = split.some(_most(len(split.schema.fields)), seed)
    batch = next(some.batches(len(some), shuffle="none"))
    order = np.random.default_rng([seed, 1]).permutation(len(some))
    rows = Batch(*(part[order] for part in batch))
    if some.group is None:
        return rows, None
    number = np.unique(some.group[order], return_inverse=True)[1]
    return rows, torch.from_numpy(number) if number.any() else None


def _most(fields: int) -> int:
    """How many rows are looked at, at most."""
    return min(_ROWS, max(1000, _FORWARD_ROWS // fields))


def _presence(
    absences: dict[str, np.ndarray | None],
    changes: dict[str, Tensor],
    seen: _Slice,
    changed: Callable[[Tensor, Tensor], Change],
) -> dict[str, Presence]:
    found = {}
    for name, absent in absences.items():
        if absent is None:
            continue
        present, weight = torch.from_numpy(~absent), seen.rows.weight.double()
        spread = float((seen.variance[present] * weight[present]).sum())
        found[name] = Presence(
            share=float(np.mean(~absent)),
            shuffled=changed(changes[name], present),
            missed=_missed(seen, present, seen.rows.weight),
            information=float(seen.variance[present].sum()) ** 2 / spread if spread > 0 else 0,
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
    empty = values[:, 0] <= MISSING if field.embedded else ~values.any(axis=1)
    if values.shape[1] == 1:
        distinct, counts = np.unique(values, return_counts=True)
        often = distinct[counts.argmax()]
    else:  # a value that most rows hold is the middle one of every column
        middle = len(values) // 2
        often = np.partition(values, middle, axis=0)[middle]
    empty |= (values == often).all(axis=1)
    if empty.all() and (not _varies(field) or field.embedded and field.min_count == 1 and (values == UNSEEN).any()):
        return None  # a constant; or ids that come once, which are there, and new in every row
    return empty if DOMINANT <= empty.mean() else None


def _varies(field: Field) -> bool:
    """Whether the training rows hold more than one thing, as they were encoded."""
    known = field.statistics or Statistics()
    missing, values = known.missing_share > 0, known.rows - RESERVED_ROWS
    if field.embedded:
        several = values + missing + (known.distinct > values) > 1
    else:  # scaled, a missing one is the mean
        several = known.low != known.high or (missing and not known.mean and any(known.low))
    return several and known.missing_share < 1 and known.varies is not False


def _shuffle(schema: Schema, names: tuple[str, ...], batch: Batch, order: list[Tensor]) -> Batch:
    """The batch with these fields taken from other rows, all from the same one."""
    ids, dense = batch.ids.clone(), batch.dense.clone()
    rows = torch.cat([piece * PIECE + within for piece, within in enumerate(order)])
    slots = [f.name in names for f in schema.embedded for _ in range(f.slots)]
    columns = [f.name in names for f in schema.dense for _ in range(f.dense_width)]
    for part, chosen in ((ids, slots), (dense, columns)):
        part[:, chosen] = part[:, chosen][rows]
    return batch._replace(ids=ids, dense=dense)


@torch.no_grad()
def _judge(model: Model, batch: Batch, device: torch.device) -> _Slice:
    parts = zip(batch.ids.split(PIECE), batch.dense.split(PIECE))
    logits = torch.cat([model(ids.to(device), dense.to(device)).float().cpu() for ids, dense in parts]).double()
    label, weight, chance = batch.label.double(), batch.weight.double(), torch.sigmoid(logits)
    return _Slice(batch, losses(logits, batch), (label - chance) * weight, chance * (1 - chance) * weight)


def _hidden(model: Model, batch: Batch, device: torch.device) -> tuple[tuple[float, ...], ...]:
    if not has_hidden(model.backbone):
        return ()

    def loss(ids: Tensor, dense: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return total(weight * F.binary_cross_entropy_with_logits(model(ids, dense).float(), label, reduction="none"))

    pieces = zip(*(part.to(device).split(_GRADIENT_ROWS) for part in batch))
    return tuple(map(tuple, score_hidden(model.backbone, (partial(loss, *piece) for piece in pieces))))


def _missed(seen: _Slice, where: Tensor, weight: Tensor) -> Change:
    """Log-loss that one Newton step of a constant on these rows wins back; its error that of a chi-squared.

    Of several tasks each has a constant, and the sum is of as many.
    """
    rows, worth = int(where.sum()), float(weight[where].double().sum())
    residuals, rooms = (part[where].sum(0).ravel().tolist() for part in (seen.residual, seen.variance))
    tasks = [residual**2 / (2 * room) for residual, room in zip(residuals, rooms) if room > 0]
    if not tasks:
        return NOTHING
    scale = float(weight[where].double().square().sum()) / worth  # 1 for equal weights of 1
    return Change(mean=sum(tasks) / worth, error=2 * len(tasks) ** 0.5 * scale / worth, rows=rows)
