"""Raw values -> ids and scaled numbers: one code path for ingest and for serving.

A standardised, logarithmic or plain number is held within what training saw, widened by its own span on both sides: a
number that was constant in training cannot move a score.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.artifacts import read_json, write_json
from slimrec.data.hashing import hash_strings
from slimrec.data.novelty import Novelty
from slimrec.data.values import (
    Categories,
    Where,
    bags,
    check_type,
    extent,
    family,
    field_categories,
    flat,
    log_square,
    numbers,
    respelled,
    without,
)
from slimrec.errors import InputError, SecurityError, did_you_mean
from slimrec.probes import source_of
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN, Field, Schema
from slimrec.written import parse

_LONGEST_FILE_NAME = 255  # bytes, on all usual file systems


def _request_row(position: int) -> str:
    return f"row {position + 1}"


class Encoder:
    """A fitted schema with its vocabularies: {field: values in the order of their ids, from RESERVED_ROWS on}."""

    def __init__(self, schema: Schema, vocabularies: Mapping[str, Sequence[str]]):
        self.schema = schema
        self.vocabularies = {f.name: vocabularies[f.name] for f in schema.embedded if has_vocabulary(f)}
        self._ids: dict[str, dict[str | None, int]] = {}  # made when first needed: not all encoders encode
        self._with_zeros: dict[str, dict[str, str]] = {}  # number -> its text with zeros in front; made when needed

    @classmethod
    def load(cls, folder: str | Path) -> Encoder:
        """Read `schema.json` and `vocab/` of a dataset or model folder."""
        folder = Path(folder)
        schema = parse(Schema, read_json(folder / "schema.json"), SecurityError)
        files = {f.name: vocabulary_file(folder, f.name) for f in schema.embedded if has_vocabulary(f)}
        absent = [file for file in files.values() if not file.is_file()]
        if absent:
            raise InputError(f"no such file: {absent[0]}; the folder lacks a vocabulary, make it again")
        return cls(schema, {name: pq.read_table(file)["value"].to_pylist() for name, file in files.items()})

    def save(self, folder: str | Path) -> None:
        """Write what `load` reads."""
        folder = Path(folder)
        (folder / "vocab").mkdir(parents=True, exist_ok=True)
        write_json(folder / "schema.json", self.schema.model_dump(mode="json"))
        for name, values in self.vocabularies.items():
            table = pa.table({"value": pa.array(values, pa.string())})
            pq.write_table(table, vocabulary_file(folder, name), compression="zstd")

    def narrow(self, names: Iterable[str]) -> Encoder:
        """The same encoder over fewer fields."""
        return Encoder(self.schema.narrow(names), self.vocabularies)

    def over(self, schema: Schema) -> Encoder:
        """The same encoder over another schema of the same fields, in which probes have their fields' vocabularies."""
        words = {f.name: self.vocabularies.get(source_of(f.name)[1], ()) for f in schema.embedded}
        return Encoder(schema, words)

    def encode(
        self, table: pa.Table | pa.RecordBatch, where: Where = _request_row, novelty: Novelty | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows as ids int32 (n, S) and dense float32 (n, N); columns that no field reads are ignored.

        `where` names a row by its position in errors; `novelty` takes the count of values that training did not see.
        Raises InputError for a missing column, a wrong type, a vector of another width, NaN or an infinity.
        """
        fields = self.schema.fields
        ids = np.zeros((table.num_rows, sum(field.slots for field in fields)), np.int32)
        dense = np.zeros((table.num_rows, sum(field.dense_width for field in fields)), np.float32)
        slot = place = 0
        for field in fields:
            column = column_of(table, field, self.schema.missing)
            if field.embedded:
                found = ids[:, slot : slot + field.slots]
                self._look_up(field, column, found, where)
                new, present = found == UNSEEN, found > MISSING
            else:
                values = numbers(field, column, where)
                new, present = _scale(field, values, dense[:, place : place + field.dense_width], where)
            if novelty is not None:
                novelty.add(field.name, new, present)
            slot, place = slot + field.slots, place + field.dense_width
        return ids, dense

    def _look_up(self, field: Field, column: pa.Array, ids: np.ndarray, where: Where) -> None:
        if field.discretise == "quantile":
            values = numbers(field, column, where)[:, 0]
            bins = RESERVED_ROWS + np.searchsorted(field.statistics.boundaries, values, side="right")
            ids[:, 0] = np.where(np.isnan(values), MISSING, bins)
        elif field.kind == "bag":
            found, rows, places, lengths = bags(field, column)
            ids[rows, places] = self._ids_of(field, found)
            ids[lengths == 0, 0] = MISSING
        else:
            found = field_categories(field, column, where)
            ids[:, 0] = self._ids_of(field, found, family(column.type) == "number")

    def _ids_of(self, field: Field, found: Categories, numeric: bool = False) -> np.ndarray:
        """int32 ids of category values; code -1 picks the last entry of the table, which is the missing row."""
        if field.hash_rows:
            hashes = hash_strings(["" if value is None else value for value in found.values])
            table = (hashes % np.uint64(field.hash_rows)).astype(np.int32) + np.int32(RESERVED_ROWS)
            table[[value is None for value in found.values]] = MISSING
            return np.append(table, np.int32(MISSING))[found.codes]
        known = self._known(field.name)
        table = list(map(known.get, found.values, repeat(UNSEEN)))
        if numeric and UNSEEN in table:
            self._refuse_lost_zeros(field, [value for value, id in zip(found.values, table) if id == UNSEEN])
        table.append(MISSING)
        return np.array(table, np.int32)[found.codes]

    def _refuse_lost_zeros(self, field: Field, unseen: list[str]) -> None:
        """A number that training knows as text with zeros in front has lost them on its way."""
        if field.name not in self._with_zeros:
            known = filter(re.compile("0[0-9]+", re.ASCII).fullmatch, self.vocabularies[field.name])
            self._with_zeros[field.name] = {str(int(value)): value for value in known}
        for value in filter(self._with_zeros[field.name].__contains__, unseen):
            raise InputError(
                f"field '{field.name}': column '{field.column}' holds the number {value}, in training it held the text "
                f"'{self._with_zeros[field.name][value]}'; send the column as strings"
            )

    def _known(self, name: str) -> dict[str | None, int]:
        """Value -> id."""
        if name not in self._ids:
            values, field = self.vocabularies[name], self.schema[name]
            if field.learnt_before(2):
                values = respelled(field, values)[::-1]  # of two that are one now the more frequent one counts
            ids = range(RESERVED_ROWS, RESERVED_ROWS + len(values))
            known: dict[str | None, int] = dict(zip(values, ids[::-1] if field.learnt_before(2) else ids))
            known[None] = MISSING
            self._ids[name] = known  # whole at once: several threads may serve
        return self._ids[name]


def has_vocabulary(field: Field) -> bool:
    """Whether the field's ids come from a list of values (not from a hash or from quantiles)."""
    return field.embedded and not field.hash_rows and field.discretise != "quantile"


def column_of(table: pa.Table | pa.RecordBatch, field: Field, missing: tuple[str, ...] = ()) -> pa.Array:
    """The field's raw column, checked, words for `missing` as null; a struct of both columns of a cross.

    Raises InputError where a column is missing, double or of a wrong type.
    """
    parts = []
    for name in field.columns:
        found = table.schema.get_all_field_indices(name)
        if len(found) != 1:
            problem = "stands twice in" if found else "is missing from"
            raise InputError(
                f"column '{name}' of field '{field.name}' {problem} the rows; "
                f"{did_you_mean(name, set(table.schema.names))}"
            )
        check_type(field, table.schema.field(found[0]).type, column=name)
        part = without(flat(table.column(found[0])), missing)
        parts.append(log_square(part) if name in field.discretised else part)
    return parts[0] if len(parts) == 1 else pa.StructArray.from_arrays(parts, ["first", "second"])


def _scale(field: Field, values: np.ndarray, out: np.ndarray, where: Where) -> tuple[np.ndarray | None, np.ndarray]:
    """Standardise with the training rows' figures; missing becomes 0 after scaling.

    Returns which values lie outside the limits and were held there (None: none do), and which are present, both bool
    (n, width).
    """
    present = ~np.isnan(values)
    _standardise(field, values, present, out)
    if not np.isfinite(out).all():
        row = int(np.argwhere(~np.isfinite(out))[0, 0])
        raise InputError(f"{where(row)}: field '{field.name}' is too large for float32; use `scale: log`")
    if not field.statistics.low:  # fitted before limits were recorded
        return None, present
    low, high = limits(field)
    lowest, highest = extent(values)
    if (lowest >= low).all() and (highest <= high).all():
        return None, present
    _standardise(field, np.clip(values, low, high), present, out)
    return (values < low) | (values > high), present


def _standardise(field: Field, values: np.ndarray, present: np.ndarray, out: np.ndarray) -> None:
    if field.statistics.mean:
        values = (values - np.array(field.statistics.mean)) / np.array(field.statistics.deviation)
    with np.errstate(over="ignore"):
        out[:] = np.where(present, values, 0.0)


def limits(field: Field) -> tuple[np.ndarray, np.ndarray]:
    """Between what a dense column is held, float64 (width,): the trained range and its span on both sides of it."""
    low, high = np.array(field.statistics.low), np.array(field.statistics.high)
    with np.errstate(over="ignore"):
        return low - (high - low), high + (high - low)


def vocabulary_file(folder: Path, name: str) -> Path:
    """Where the values of a field lie in a folder: under its name, or its SHA-256 where that makes no name for every store.

    MLflow reads `%20` in the name of a file as a space, and then does not find it. Earlier releases wrote such names.
    """
    plain = folder / "vocab" / f"{quote(name, safe='')}.parquet"
    if len(plain.name) <= _LONGEST_FILE_NAME and ("%" not in plain.name or plain.is_file()):
        return plain
    return plain.with_name(f"+{sha256(name.encode()).hexdigest()}.parquet")  # no quoted name holds a plus
