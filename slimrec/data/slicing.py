"""Which rows of a split hold a value of a field, lie in a range of a number, or are of a group of some size.

Read from the dataset and its vocabularies, which know the fields that a slim model has dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.config import GROUP_SIZE, SliceConfig, check_slices
from slimrec.data.dataset import Dataset, Split
from slimrec.data.encode import Encoder, has_vocabulary, vocabulary_file
from slimrec.data.shards import field_column
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN, Field

LEAST = 0.01  # of the rows: what holds fewer is no slice of its own, unless a person names it


class Slice(NamedTuple):
    """Some rows of a split."""

    name: str  # for a person
    rows: np.ndarray  # bool (n,)
    of: SliceConfig


def slices(dataset: Path, wanted: tuple[SliceConfig, ...], split: str = "test") -> list[Slice]:
    """The slices of a split that a person asked for, in that order; they may overlap, and a named one may be empty.

    Raises ConfigError for a field that the dataset has not, or that cannot be sliced so.
    """
    data = Dataset.open(dataset)
    check_slices(wanted, data.schema)
    found = []
    for each in wanted:
        if each.of == GROUP_SIZE:
            parts = _sizes(data.split(split), data.split("train"), each.parts)
        else:
            field = data.schema[each.of]
            values = data.split(split).stored(field_column(field.name))
            ordered = not field.embedded or field.discretise == "quantile"
            parts = _ranges(field, values, each.parts) if ordered else _values(dataset, field, values, each)
        found += [Slice(name, rows, each) for name, rows in parts]
    return found


def _values(dataset: Path, field: Field, ids: np.ndarray, wanted: SliceConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Rows that hold a value, for those that are wanted; without any, for the most frequent ones, and all other rows."""
    words = pq.read_table(vocabulary_file(dataset, field.name))["value"].to_pylist() if has_vocabulary(field) else []
    ids = ids.reshape(len(ids), -1)
    if wanted.values:
        texts = [str(value) for value in wanted.values]
        encoder = Encoder(Dataset.open(dataset, [field.name]).schema, {field.name: words})
        column = pa.array([[text] for text in texts] if field.kind == "bag" else texts)
        for text, (id, *_) in zip(texts, encoder.encode(pa.table({field.column: column}))[0]):
            unknown = id == UNSEEN  # nothing tells its rows from those of other unknown values
            yield f"{field.name} = {text}", np.zeros(len(ids), bool) if unknown else (ids == id).any(axis=1)
        return
    counts = np.bincount(ids[ids > 0], minlength=RESERVED_ROWS)
    often = np.argsort(-counts, kind="stable")[: wanted.parts]
    rest = np.ones(len(ids), bool)
    for id in often[counts[often] > 0].tolist():
        rows = (ids == id).any(axis=1)
        if rows.mean() >= LEAST:
            rest &= ~rows
            yield _called(field, id, words), rows
    if rest.mean() >= LEAST:
        yield f"{field.name}, other values", rest


def _called(field: Field, id: int, words: list[str]) -> str:
    reserved = {MISSING: "missing", UNSEEN: "new to training"}
    return f"{field.name} {reserved[id]}" if id in reserved else f"{field.name} = {words[id - RESERVED_ROWS]}"


def _ranges(field: Field, values: np.ndarray, parts: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows by range of a number, as many in each as its values allow, and the rows without one."""
    absent = values == (MISSING if field.embedded else 0)  # a missing number stands at the mean
    absent &= field.statistics is not None and field.statistics.missing_share > 0
    for low, high, rows in cut(values, ~absent, parts):
        start, end = (None if edge is None else f"{_raw(field, edge):.4g}" for edge in (low, high))
        yield _between(field.name, start, end), rows
    if absent.mean() >= LEAST:
        yield f"{field.name} missing", absent


def _raw(field: Field, edge: float) -> float:
    """The largest number, as the source has it, that is encoded as at most so much."""
    assert field.statistics is not None
    if field.embedded:  # the id of a bin, whose upper edge it is
        return field.statistics.boundaries[int(edge) - RESERVED_ROWS]
    if field.statistics.mean:
        edge = edge * field.statistics.deviation[0] + field.statistics.mean[0]
    return float(np.sign(edge) * np.expm1(abs(edge))) if field.scale == "log" else float(edge)


def _sizes(split: Split, train: Split, parts: int) -> Iterator[tuple[str, np.ndarray]]:
    """Rows by how many rows their group has in train; in the split itself, where no group of it is in train."""
    assert split.group is not None and train.group is not None
    sizes, where = _rows_of(split.group, train.group), "in train"
    if not sizes.any():
        sizes, where = _rows_of(split.group, split.group), "here"
    for low, high, rows in cut(sizes, np.ones(len(sizes), bool), parts):
        start, end = (None if edge is None else f"{edge:g}" for edge in (low, high))
        yield f"{_between(GROUP_SIZE, start, end)} {where}", rows


def _rows_of(asked: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each group asked for (n,) stands among others (m,): int64 (n,)."""
    names, counts = np.unique(among, return_counts=True)
    if not len(names):
        return np.zeros(len(asked), np.int64)
    place = np.minimum(np.searchsorted(names, asked), len(names) - 1)
    return np.where(names[place] == asked, counts[place], 0)


def cut(values: np.ndarray, among: np.ndarray, parts: int) -> Iterator[tuple[float | None, float | None, np.ndarray]]:
    """Ranges (above, up to, rows bool (n,)) of the values (n,) of the rows `among`, about as many rows in each.

    Equal values stay together, so that there may be fewer parts, of uneven size. None where a range has no end.
    """
    if not among.any():
        return
    held = values[among]
    edges = np.unique(np.quantile(held, np.arange(1, parts) / parts, method="inverted_cdf"))
    edges = edges[edges < held.max()].tolist()
    place = np.searchsorted(edges, values, side="left")
    for part, (low, high) in enumerate(zip([None, *edges], [*edges, None])):
        yield low, high, among & (place == part)


def _between(name: str, low: str | None, high: str | None) -> str:
    if low is None:
        return name if high is None else f"{name} up to {high}"
    return f"{name} above {low}" if high is None else f"{name} above {low}, up to {high}"
