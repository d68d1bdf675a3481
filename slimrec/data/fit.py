"""What ingest learns from the training rows: vocabularies, means and deviations, quantiles, shares of missing values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from slimrec.data.encode import column_of, has_vocabulary
from slimrec.data.hashing import hash_numbers
from slimrec.data.values import Categories, Where, bags, field_categories, numbers
from slimrec.errors import InputError
from slimrec.schema import RESERVED_ROWS, Field, Schema, Statistics

_QUANTILE_ROWS = 500_000  # rows of a field held for its quantiles; exact up to here, a fair sample beyond


class RowSample:
    """A uniform sample of values by row hash: bounded, the same in whatever pieces the rows come."""

    def __init__(self, capacity: int):
        self.capacity, self._held = capacity, 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # (hashes, values)

    def add(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Take values (n,) of the rows numbered `rows` (n,)."""
        self._parts.append((hash_numbers(rows, 0x5A3F), values))
        self._held += len(rows)
        if self._held > 2 * self.capacity:
            self._shrink()

    def _shrink(self) -> None:
        hashes, values = (np.concatenate(parts) for parts in zip(*self._parts))
        if len(hashes) > self.capacity:
            lowest = np.argpartition(hashes, self.capacity)[: self.capacity]
            hashes, values = hashes[lowest], values[lowest]
        self._parts, self._held = [(hashes, values)], len(hashes)

    def sorted(self) -> np.ndarray:
        """The sample, ascending."""
        if not self._parts:
            return np.empty(0)
        self._shrink()
        return np.sort(self._parts[0][1])


class _Moments:
    """Mean and deviation a column, joined batch by batch (Chan, Golub, LeVeque 1979); NaN is left out."""

    def __init__(self, width: int):
        self.count, self.mean, self.square = np.zeros(width), np.zeros(width), np.zeros(width)

    def add(self, values: np.ndarray) -> None:
        present = ~np.isnan(values)
        count = present.sum(axis=0)
        filled = np.where(present, values, 0.0)
        mean = filled.sum(axis=0) / np.maximum(count, 1)
        square = (np.where(present, values - mean, 0.0) ** 2).sum(axis=0)
        total = np.maximum(self.count + count, 1)
        step = mean - self.mean
        self.square += square + step**2 * self.count * count / total
        self.mean += step * count / total
        self.count += count

    def deviation(self) -> np.ndarray:
        deviation = np.sqrt(self.square / np.maximum(self.count, 1))
        return np.where(deviation > 1e-12 * np.maximum(1.0, np.abs(self.mean)), deviation, 1.0)


class _FieldFit:
    """One field's running figures."""

    def __init__(self, field: Field, max_vocabulary: int):
        self.field, self.max_vocabulary = field, max_vocabulary
        self.rows = self.missing = self.cut = 0
        self.counts: dict[str, int] = {}
        self.moments = _Moments(field.dense_width)
        self.sample = RowSample(_QUANTILE_ROWS)

    def add(self, column: pa.Array, rows: np.ndarray, where: Where) -> None:
        field = self.field
        self.rows += len(column)
        if field.kind == "bag":
            found, lengths = bags(field, column)
            self.missing += int((lengths == 0).sum())
            self.cut += int(np.maximum(lengths - field.max_length, 0).sum())
            fits = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) < field.max_length
            self._count(Categories(found.codes[fits], found.values))
        elif has_vocabulary(field) or field.hash_rows:
            found = field_categories(field, column, where)
            absent = np.array([*(value is None for value in found.values), True])
            self.missing += int(absent[found.codes].sum())
            self._count(found)
        else:
            values = numbers(field, column, where)
            self.missing += int(np.isnan(values).all(axis=1).sum())
            if field.embedded:
                present = ~np.isnan(values[:, 0])
                self.sample.add(rows[present], values[present, 0])
            else:
                self.moments.add(values)

    def _count(self, found: Categories) -> None:
        if self.field.hash_rows:
            return
        seen = np.bincount(found.codes[found.codes >= 0], minlength=len(found.values)).tolist()
        counts = self.counts
        for value, count in zip(found.values, seen):
            if count and value is not None:
                counts[value] = counts.get(value, 0) + count
        if len(counts) > self.max_vocabulary:
            raise InputError(
                f"field '{self.field.name}' has more than {self.max_vocabulary} distinct values, the most that "
                "`max_vocabulary` allows; give the field `hash_rows`, or leave it out"
            )

    def vocabulary(self) -> list[str]:
        """Values seen often enough, the most frequent first, equals in alphabetical order."""
        often = ((value, count) for value, count in self.counts.items() if count >= self.field.min_count)
        return [value for value, _ in sorted(often, key=lambda pair: (-pair[1], pair[0]))]

    def boundaries(self) -> tuple[float, ...]:
        """Distinct inner quantiles; a value on an edge falls above it, so the smallest value is no edge."""
        values = self.sample.sorted()
        if not len(values):
            return ()
        at = np.round(np.arange(1, self.field.bins) / self.field.bins * (len(values) - 1)).astype(int)
        edges = np.unique(values[at])
        return tuple(edges[edges > values[0]].tolist())

    def statistics(self, vocabulary: list[str]) -> Statistics:
        field, edges, scaled = self.field, (), (self.field.scale or _DEFAULT_SCALE.get(self.field.kind)) != "none"
        if field.discretise == "quantile":
            edges = self.boundaries()
            rows = RESERVED_ROWS + len(edges) + 1
        else:
            rows = RESERVED_ROWS + (field.hash_rows or len(vocabulary)) if field.embedded else 0
        return Statistics(
            rows=rows,
            distinct=len(self.counts),
            missing_share=self.missing / max(self.rows, 1),
            mean=tuple(self.moments.mean.tolist()) if scaled and not field.embedded else (),
            deviation=tuple(self.moments.deviation().tolist()) if scaled and not field.embedded else (),
            boundaries=edges,
        )


_DEFAULT_SCALE = {"number": "standard", "vector": "none"}


class Fitting:
    """All fields of a schema over the training rows, seen once, batch by batch."""

    def __init__(self, schema: Schema, max_vocabulary: int):
        self.schema = schema
        self._fits = {field.name: _FieldFit(field, max_vocabulary) for field in schema.fields}

    def add(self, batch: pa.RecordBatch, rows: np.ndarray, where: Where) -> None:
        """Take training rows; `rows` (n,) are their numbers in the source, `where` names one in errors."""
        for field in self.schema.fields:
            self._fits[field.name].add(column_of(batch, field), rows, where)

    def finish(self) -> tuple[Schema, dict[str, list[str]]]:
        """The fitted schema, and the vocabulary of each field that has one."""
        words = {name: fit.vocabulary() for name, fit in self._fits.items() if has_vocabulary(fit.field)}
        fields = tuple(
            field.model_copy(update={"statistics": self._fits[field.name].statistics(words.get(field.name, []))})
            for field in self.schema.fields
        )
        return self.schema.model_copy(update={"fields": fields}), words

    @property
    def cut(self) -> dict[str, int]:
        """Values of bags beyond `max_length`, by field, where there are any."""
        return {name: fit.cut for name, fit in self._fits.items() if fit.cut}
