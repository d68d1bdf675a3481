"""Six signs that something gives the label away, each told from the rows of an ingested log alone.

`alone`: a field by itself ranks held-out rows nearly as the label does; `bijection`: its values tell the label without an
exception; `missing`: whether it holds anything tells it; `later`: it holds a time after the row's own; `copies`: held-out
lines stand in train too; `group`: the label of a group's rows in train tells that of its rows held out.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field as Option

from slimrec.data.hashing import splitmix64
from slimrec.data.shards import GROUP, LABEL, TIME, WEIGHT, field_column, matrix, read_shards
from slimrec.schema import MISSING, RESERVED_ROWS, Field, Frozen, Schema
from slimrec.verdict import tasks

COPIES = "copies"  # what `trusted` calls rows that stand on both sides
GIVEN_AWAY = 0.93  # AUC of a field alone from which on it is no feature but the label in disguise
_CERTAIN = 25.0  # labels of the other kind that chance would give, where there is none
_SHARE = 0.02  # of the held-out rows that stand in train too
_ROWS = {"train": 200_000, "held": 100_000}  # looked at, evenly over the log
_COMPARED = 2_000_000  # rows of train looked through for copies
_SHRINK = 10.0  # rows at the mean rate that every value starts with
_BINS = 200

Kind = Literal["alone", "bijection", "missing", "later", "copies", "group"]


class Leak(Frozen):
    """One suspicion."""

    kind: Kind
    name: str  # field, group column, or `copies`: what `ingest.trusted` lets through
    figure: float  # AUC, or a share of rows
    said: str  # for a person
    trusted: bool = False
    task: str = Option("", exclude_if=lambda task: not task)  # whose label it gives away, where there are several

    def of(self, task: str) -> Leak:
        """The same, said of one of several tasks."""
        return self.model_copy(update={"task": task, "said": f"{tasks.of(task)}{self.said}"})

    @property
    def remark(self) -> str:
        """For the screen."""
        return f"{'trusted, though it' if self.trusted else 'this'} looks like a leak: {self.said}"


class _Rows(NamedTuple):
    """Rows of one side as numpy arrays."""

    fields: dict[str, np.ndarray]  # ids or numbers, (n,) or (n, width)
    label: np.ndarray  # bool (n,)
    weight: np.ndarray
    group: np.ndarray  # zeros where the log has none
    time: np.ndarray | None


def look(folder: Path, schema: Schema, trusted: Collection[str]) -> list[Leak]:
    """The leaks of a dataset folder with a fitted schema, the gravest first; `test` is not looked at but for copies.

    Of several tasks each label is looked at, in the rows that are observed for it.
    """
    found = [] if schema.tasks else _look(folder, schema, None)
    for number, task in enumerate(schema.tasks):
        found += [leak.of(task.name) for leak in _look(folder, schema, number)]
    return sorted(
        (leak.model_copy(update={"trusted": leak.name in trusted}) for leak in found),
        key=lambda leak: (-leak.figure, leak.name),
    )


def _look(folder: Path, schema: Schema, task: int | None) -> list[Leak]:
    train = _read(folder, schema, ("train",), _ROWS["train"], task)
    held = _read(folder, schema, ("gate", "valid"), _ROWS["held"], task)
    found: list[Leak] = []
    for field in schema.fields:
        values = (train.fields[field.name], held.fields[field.name])
        found += filter(None, (_alone(field, *values, train, held), _missing(field, *values, train, held)))
        found += filter(None, [_later(field, train)])
    found += filter(None, [_group(schema, train, held)])
    train = _read(folder, schema, ("train",), _COMPARED, task)
    held = _read(folder, schema, ("valid", "test"), _ROWS["held"], task)
    return [*found, *filter(None, [_copies(train, held)])]


def _alone(field: Field, seen: np.ndarray, asked: np.ndarray, train: _Rows, held: _Rows) -> Leak | None:
    """Whether the field by itself ranks held-out rows nearly as the label does."""
    if field.kind == "vector":
        weights, *_ = np.linalg.lstsq(_ones(seen), train.label.astype(float))
        score, exact = _ones(asked) @ weights, False
    else:
        codes = _codes(field, seen, asked)
        count = len(np.bincount(np.concatenate([part.ravel() for part in codes])))
        rate, pure = _rates(codes[0], train.label, count)
        score = rate[codes[1]] if codes[1].ndim == 1 else _mean(rate, codes[1])
        exact = bool(pure and codes[1].ndim == 1)
    auc = _auc(held.label, score, held.weight)
    if auc is None or auc < GIVEN_AWAY:
        return None
    if exact and auc > 0.999:
        return Leak(
            kind="bijection", name=field.name, figure=auc, said=f"each value of field '{field.name}' has one label only"
        )
    return Leak(kind="alone", name=field.name, figure=auc, said=f"field '{field.name}' alone has an AUC of {auc:.3f}")


def _missing(field: Field, seen: np.ndarray, asked: np.ndarray, train: _Rows, held: _Rows) -> Leak | None:
    """Whether the label is of one class wherever the field is missing, or wherever it is not, in all rows."""
    empty, label = np.concatenate([_empty(field, seen), _empty(field, asked)]), np.append(train.label, held.label)
    base = label.mean()
    for where, words in ((empty, "is missing"), (~empty, "holds a value")):
        count, positives = int(where.sum()), int(label[where].sum())
        if positives in (0, count) and count * (1 - base if positives else base) >= _CERTAIN:
            share = count / len(label)
            said = f"wherever field '{field.name}' {words}, in {100 * share:.2g} % of the rows, the label is {int(positives > 0)}"
            return Leak(kind="missing", name=field.name, figure=1.0, said=said)
    return None


def _later(field: Field, train: _Rows) -> Leak | None:
    """Whether a number field is a time that comes after the row's own."""
    statistics = field.statistics
    if train.time is None or field.kind != "number" or field.embedded or field.scale or statistics is None:
        return None
    values = train.fields[field.name].astype(np.float64)
    there = values != 0  # what is missing stands at the mean
    if there.sum() < 50:
        return None
    raw = values[there] * statistics.deviation[0] + statistics.mean[0]
    time = train.time[there].astype(np.float64)
    middle = np.median(raw)
    for unit in (1.0, 1e3, 1e6, 1e9, 1e-3, 1e-6, 1e-9):
        if not middle or abs(np.median(time) / (middle * unit) - 1) > 0.05:
            continue
        slack = 1e-6 * np.ptp(time)  # what float32 lost
        after, before = np.mean(raw * unit > time + slack), np.mean(raw * unit < time - slack)
        of_raw, both, _, of_time = np.cov(raw, time).flat
        if after > 0.5 and before < 0.01 and both > 0.9 * np.sqrt(of_raw * of_time):  # the correlation
            said = (
                f"field '{field.name}' holds a time after the row's own in {100 * after:.0f} % of the rows that have it"
            )
            return Leak(kind="later", name=field.name, figure=float(after), said=said)
    return None


def _group(schema: Schema, train: _Rows, held: _Rows) -> Leak | None:
    """Whether groups stand on both sides of the split with labels that tell each other."""
    if schema.group is None:
        return None
    names, codes = np.unique(np.append(train.group, held.group), return_inverse=True)
    both = np.isin(held.group, train.group)
    if both.mean() < _SHARE:
        return None
    rate, _ = _rates(codes[: len(train.label)], train.label, len(names))
    auc = _auc(held.label[both], rate[codes[len(train.label) :]][both], held.weight[both])
    if auc is None or auc < GIVEN_AWAY:
        return None
    said = (
        f"{100 * both.mean():.0f} % of the held-out rows are of a group '{schema.group}' that train has too, whose label "
        "there tells theirs: set ingest.split.by to group"
    )
    return Leak(kind="group", name=schema.group, figure=auc, said=said)


def _copies(train: _Rows, held: _Rows) -> Leak | None:
    """Whether held-out lines stand in train too, label included, beyond what alike rows do by chance."""
    keys, lines = _hashes(train)
    held_keys, held_lines = _hashes(held)
    if np.isin(held_keys, keys).mean() < _SHARE:
        return None
    same = np.isin(held_lines, lines)
    # rows that hold the same by chance have the other label at times, or are of the frequent class nearly all
    other = np.isin(_labelled(held_keys, ~held.label), lines)
    rare = held.label if held.label.mean() <= 0.5 else ~held.label
    if other.sum() > 0.05 * same.sum() or same.sum() * rare.mean() < _CERTAIN or rare[same].mean() < 0.5 * rare.mean():
        return None
    share = float(same.mean())
    return Leak(
        kind="copies", name=COPIES, figure=share, said=f"{100 * share:.0f} % of the held-out lines stand in train too"
    )


def _hashes(rows: _Rows) -> tuple[np.ndarray, np.ndarray]:
    """uint64 (n,) of what rows hold, and of that and the label."""
    key = np.zeros(len(rows.label), np.uint64)
    for values in rows.fields.values():
        for column in values.reshape(len(values), -1).T:
            bits = column + np.float32(0) if column.dtype == np.float32 else column
            key = splitmix64(key ^ bits.copy().view(np.uint32))
    if rows.time is not None:
        key = splitmix64(key ^ rows.time.view(np.uint64))
    return key, _labelled(key, rows.label)


def _labelled(key: np.ndarray, label: np.ndarray) -> np.ndarray:
    return splitmix64(key ^ label.astype(np.uint64))


def _read(folder: Path, schema: Schema, splits: tuple[str, ...], most: int, task: int | None) -> _Rows:
    """At most so many rows of these splits, evenly spaced; of several tasks those with a label of this one."""
    batches = [batch for split in splits for batch in read_shards(folder / split)]
    total = sum(batch.num_rows for batch in batches)
    step, start, places = max(1, -(-total // most)), 0, []
    for batch in batches:
        places.append(np.arange(-start % step, batch.num_rows, step))
        start += batch.num_rows

    if task is not None:
        labels = (matrix(batch.column(LABEL))[:, task] for batch in batches)
        places = [rows[~np.isnan(label[rows])] for rows, label in zip(places, labels)]

    def column(name: str) -> np.ndarray:
        return np.concatenate([matrix(batch.column(name))[rows] for batch, rows in zip(batches, places)])

    label = (column(LABEL) if task is None else column(LABEL)[:, task]) > 0
    return _Rows(
        fields={field.name: column(field_column(field.name)) for field in schema.fields},
        label=label,
        weight=column(WEIGHT).astype(np.float64) if schema.weight else np.ones(len(label)),
        group=column(GROUP) if schema.group else np.zeros(len(label)),
        time=column(TIME) if schema.time else None,
    )


def _codes(field: Field, seen: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values as small integers: ids as they are, numbers by quantile of the rows seen, 0 where missing."""
    if field.embedded:
        return seen, asked
    edges = np.unique(np.quantile(seen, np.linspace(0, 1, _BINS + 1)[1:-1]))
    first, second = (np.where(part == 0, 0, 1 + np.searchsorted(edges, part, "right")) for part in (seen, asked))
    return first, second


def _rates(codes: np.ndarray, label: np.ndarray, count: int) -> tuple[np.ndarray, bool]:
    """The rate of positives of each value (count,), shrunk to the mean, and whether each seen value has one label only."""
    owner = np.repeat(label, codes.shape[1]) if codes.ndim == 2 else label
    flat, base = codes.ravel(), float(label.mean())
    rows, positives = np.bincount(flat, minlength=count), np.bincount(flat, owner, count)
    return (positives + _SHRINK * base) / (rows + _SHRINK), bool(((positives == 0) | (positives == rows)).all())


def _mean(rate: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The mean rate of the values of bags (n,)."""
    there = codes >= RESERVED_ROWS
    return np.where(there, rate[codes], 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def _empty(field: Field, values: np.ndarray) -> np.ndarray:
    """Rows (n,) without a value."""
    if field.embedded:
        return (values if values.ndim == 1 else values[:, 0]) == MISSING
    if field.statistics is None or not field.statistics.missing_share:
        return np.zeros(len(values), bool)
    return values == 0 if values.ndim == 1 else (values == 0).all(axis=1)


def _ones(values: np.ndarray) -> np.ndarray:
    return np.column_stack([values.reshape(len(values), -1), np.ones(len(values), np.float32)])


def _auc(label: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float | None:
    """Weighted AUC; None where one class carries no weight."""
    from slimrec.verdict.certify import influence  # its statistics take a second to import

    used = weight > 0
    if not 0 < label[used].sum() < used.sum():
        return None
    return influence(label[used], score[used], weight[used])[0]
