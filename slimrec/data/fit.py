"""What ingest learns from the training rows: vocabularies, means and deviations, quantiles, shares of missing values.

All of it is kept so that parts of a log can be counted on their own and joined: the result is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.artifacts import read_json, write_json
from slimrec.data import outliers
from slimrec.data.encode import Encoder, column_of, has_vocabulary, vocabulary_file
from slimrec.data.fair import RowSample, Some, some
from slimrec.data.moments import Moments
from slimrec.data.spelling import FORMAT
from slimrec.data.values import Bags, Categories, Where, bags, extent, field_categories, numbers
from slimrec.data.varying import Varying
from slimrec.errors import InputError
from slimrec.schema import RESERVED_ROWS, Field, Schema, Statistics

_QUANTILE_ROWS = 500_000  # rows of a field held for its quantiles; exact up to here, a fair sample beyond
_SPREAD_ROWS = 2000  # and to tell numbers that are far off


class _FieldFit:
    """One field's running figures."""

    def __init__(self, field: Field, max_vocabulary: int):
        self.field, self.max_vocabulary = field.model_copy(update={"statistics": None}), max_vocabulary
        self.rows = self.missing = self.cut = 0
        self.counts: dict[str, int] = {}
        self.empty_text = False
        self.alike: tuple[str, ...] = ()  # two texts that were found to be one value
        self.varying = Varying() if field.hash_rows or field.kind == "bag" else None
        self.moments = Moments(field.dense_width)
        self.low, self.high = np.full(field.dense_width, np.inf), np.full(field.dense_width, -np.inf)
        self.spread = field.kind == "number" and _scaled(field)
        self.sample = RowSample(_SPREAD_ROWS if self.spread else _QUANTILE_ROWS)

    @property
    def sampled(self) -> bool:
        """Whether the sample holds anything."""
        return self.spread or self.field.discretise == "quantile"

    def add(self, column: pa.Array, rows: np.ndarray, where: Where, chosen: Some) -> None:
        """Take rows numbered `rows` (n,), of which the `chosen` are looked at more closely."""
        field = self.field
        self.rows += len(column)
        if field.kind == "bag":
            bag = bags(field, column)
            self.missing += int((bag.lengths == 0).sum())
            self.cut += int(np.maximum(bag.lengths - field.max_length, 0).sum())
            self._watch(bag)
            self._count(bag.found)
        elif has_vocabulary(field) or field.hash_rows:
            found = field_categories(field, column, where)
            absent = np.array([*(value is None for value in found.values), True])
            self.missing += int(absent[found.codes].sum())
            self._watch(found)
            self._count(found)
        else:
            values = numbers(field, column, where)
            self.missing += int(np.isnan(values).all(axis=1).sum())
            if field.embedded:
                present = ~np.isnan(values[:, 0])
                self.sample.add(rows[present], values[present, 0])
                return
            low, high = extent(values)
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            if self.spread:
                self.sample.add_hashed(chosen.hashes, values[chosen.places, 0])
            if _scaled(field):
                self.moments.add(values)

    def _watch(self, found: Categories | Bags) -> None:
        if self.varying is not None:
            self.varying.add(found)

    def _count(self, found: Categories) -> None:
        self.alike = self.alike or found.alike()
        self.empty_text = self.empty_text or "" in found.values
        if self.field.hash_rows:
            return
        self._add_counts(found.values, np.bincount(found.codes[found.codes >= 0], minlength=len(found.values)).tolist())

    def _add_counts(self, values: list[str | None], seen: list[int]) -> None:
        counts, before = self.counts, self.counts.get
        for value, count in zip(values, seen):
            if count and value is not None:
                counts[value] = before(value, 0) + count
        if len(counts) > self.max_vocabulary:
            raise InputError(
                f"field '{self.field.name}' has more than {self.max_vocabulary} distinct values, the most that "
                "`max_vocabulary` allows; give the field `hash_rows`, or leave it out"
            )

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the long part of the figures to a file of the folder; returns the short part, as JSON."""
        if self.sampled:
            hashes, values = self.sample.hashed()
            pq.write_table(pa.table({"hash": hashes, "value": values}), vocabulary_file(folder, self.field.name))
        elif has_vocabulary(self.field):
            values, counts = pa.array(self.counts.keys(), pa.string()), pa.array(self.counts.values(), pa.int64())
            table = pa.table({"value": values, "count": counts})
            pq.write_table(table, vocabulary_file(folder, self.field.name), compression="zstd")
        return {
            "rows": self.rows,
            "missing": self.missing,
            "cut": self.cut,
            "alike": self.alike,
            "empty_text": self.empty_text,
            "held": self.varying.held if self.varying else [],
            "moments": self.moments.state(),
            "range": [_finite(self.low), _finite(self.high)],
        }

    def join(self, folder: Path, figures: dict[str, Any]) -> None:
        """Add what another fit of this field has saved."""
        self.rows += figures["rows"]
        self.missing += figures["missing"]
        self.cut += figures["cut"]
        self.alike = self.alike or tuple(figures["alike"])
        self.empty_text = self.empty_text or figures["empty_text"]
        if self.varying:
            self.varying.join(figures["held"])
        self.moments.join(figures["moments"])
        low, high = (np.array(values, np.float64) for values in figures["range"])  # None becomes NaN
        self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
        if self.sampled:
            table = pq.read_table(vocabulary_file(folder, self.field.name))
            self.sample.add_hashed(table["hash"].to_numpy(), table["value"].to_numpy())
        elif has_vocabulary(self.field):
            for batch in pq.ParquetFile(vocabulary_file(folder, self.field.name)).iter_batches():
                self._add_counts(batch["value"].to_pylist(), batch["count"].to_pylist())

    def vocabulary(self) -> list[str]:
        """Values seen often enough, the most frequent first, equals in alphabetical order."""
        often = sorted(value for value, count in self.counts.items() if count >= self.field.min_count)
        often.sort(key=self.counts.__getitem__, reverse=True)  # stable, also in reverse
        return often

    def boundaries(self) -> tuple[float, ...]:
        """Distinct inner quantiles; a value on an edge falls above it, so the smallest value is no edge.

        Where all of them are the smallest value, what is above it is told from it: a number that is seldom there.
        """
        values = self.sample.sorted()
        if not len(values):
            return ()
        at = np.round(np.arange(1, self.field.bins) / self.field.bins * (len(values) - 1)).astype(int)
        edges, above = np.unique(values[at]), values[values > values[0]]
        edges = edges[edges > values[0]] if edges[-1] > values[0] else above[:1]
        return tuple(edges.tolist())

    def statistics(self, vocabulary: list[str]) -> Statistics:
        field, edges, scaled = self.field, (), _scaled(self.field)
        if field.discretise == "quantile":
            edges = self.boundaries()
            rows = RESERVED_ROWS + len(edges) + 1
        else:
            rows = RESERVED_ROWS + (field.hash_rows or len(vocabulary)) if field.embedded else 0
        return Statistics(
            rows=rows,
            distinct=len(self.counts),
            missing_share=self.missing / max(self.rows, 1),
            mean=tuple(self.moments.mean()) if scaled else (),
            deviation=tuple(self.moments.deviation()) if scaled else (),
            boundaries=edges,
            low=tuple(value or 0.0 for value in _finite(self.low)),
            high=tuple(value or 0.0 for value in _finite(self.high)),
            empty_text=self.empty_text if field.kind == "category" else None,
            varies=None if self.varying is None else self.varying.varies,
            format=FORMAT,
        )

    def remarks(self) -> list[str]:
        """What a person should know of the field."""
        name, told = self.field.name, []
        if self.alike:
            told.append(
                f"field '{name}': the texts '{self.alike[0]}' and '{self.alike[1]}' are one value; `exact: true` keeps "
                "such texts apart"
            )
        if self.varying is not None:
            constant = not self.varying.varies
        else:
            constant = len(self.counts) == 1 if self.field.embedded else bool((self.low == self.high).any())
        what = "it is" if self.field.dense_width < 2 else "columns of it are"
        if self.rows > 1 and self.missing == self.rows:
            told.append(f"field '{name}': it holds nothing in the training rows, so nothing can be learnt from it")
        elif self.rows > 1 and constant and not self.missing:
            told.append(f"field '{name}': {what} constant in the training rows, so nothing can be learnt from it")
        elif constant and self.field.kind == "number" and _scaled(self.field):
            told.append(
                f"field '{name}': it holds one number in the training rows, or nothing, which a number does not tell apart; "
                "declare it as a category"
            )
        if self.spread and not constant and (found := self._far_off()):
            told.append(f"field '{name}': {outliers.remark(found, self.field.scale)}")
        return told

    def _far_off(self) -> tuple[float, ...] | None:
        values = self.sample.sorted()
        figures = (self.low[0], self.high[0], self.moments.mean()[0], self.moments.deviation()[0])
        return outliers.far_off(values[~np.isnan(values)], *map(float, figures))


def _finite(values: np.ndarray) -> list[float | None]:
    """As JSON: None for what was never set."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


_DEFAULT_SCALE = {"number": "standard", "vector": "none"}


def _scaled(field: Field) -> bool:
    return not field.embedded and (field.scale or _DEFAULT_SCALE[field.kind]) != "none"


class Fitted(NamedTuple):
    """What `Fitting` ends in."""

    encoder: Encoder
    cut: dict[str, int]  # values of bags beyond `max_length`, by field, where there are any
    remarks: list[str]  # what a person should know of the fields


class Fitting:
    """All fields of a schema over training rows, seen once, batch by batch."""

    def __init__(self, schema: Schema, max_vocabulary: int):
        self.schema = schema
        self._fits = [_FieldFit(field, max_vocabulary) for field in schema.fields]

    def add(self, batch: pa.RecordBatch, rows: np.ndarray, where: Where) -> None:
        """Take training rows; `rows` (n,) are their numbers in the source, `where` names one in errors."""
        chosen = some(rows if any(fit.spread for fit in self._fits) else rows[:0], _SPREAD_ROWS)
        for fit in self._fits:
            fit.add(column_of(batch, fit.field, self.schema.missing), rows, where, chosen)

    def finish(self) -> Fitted:
        """The encoder over the fitted schema."""
        return _finish(self.schema, self._fits)

    def save(self, folder: Path) -> None:
        """Write what `join` reads: `fields.json`, and values with their counts under `vocab/`."""
        (folder / "vocab").mkdir()
        write_json(folder / "fields.json", {fit.field.name: fit.save(folder) for fit in self._fits})


def join(schema: Schema, max_vocabulary: int, folders: Iterable[Path]) -> Fitted:
    """What one Fitting over the rows of all the saved ones would end in; holds one field's counts at a time."""
    saved = {folder: read_json(folder / "fields.json") for folder in folders}

    def joined(field: Field) -> _FieldFit:
        fit = _FieldFit(field, max_vocabulary)
        for folder, figures in saved.items():
            fit.join(folder, figures[field.name])
        return fit

    return _finish(schema, map(joined, schema.fields))


def _finish(schema: Schema, fits: Iterable[_FieldFit]) -> Fitted:
    fields, words, cut, remarks = [], {}, {}, []
    for fit in fits:
        field, found = fit.field, fit.vocabulary()
        if has_vocabulary(field):
            words[field.name] = found
        if fit.cut:
            cut[field.name] = fit.cut
        remarks += fit.remarks()
        fields.append(field.model_copy(update={"statistics": fit.statistics(found)}))
    return Fitted(Encoder(schema.model_copy(update={"fields": tuple(fields)}), words), cut, remarks)
