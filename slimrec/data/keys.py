"""What a row carries besides its fields: label, weight, group and time, checked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from slimrec.data.hashing import hash_numbers, hash_strings
from slimrec.data.values import Where, categories, family, flat
from slimrec.errors import InputError
from slimrec.schema import Schema

_TIME_UNITS = 1_000_000  # times are stored in millionths: of a second for dates, of the unit for floats


class Keys(NamedTuple):
    """Columns of one batch; None for what the schema does not name."""

    label: np.ndarray  # float32 (n,), 0 or 1
    weight: np.ndarray | None  # float32 (n,), not negative
    group: np.ndarray | None  # uint64 (n,), hash of the value; a row without a value is a group of its own
    time: np.ndarray | None  # int64 (n,), ascending in time


def read_keys(schema: Schema, batch: pa.RecordBatch, rows: np.ndarray, where: Where) -> Keys:
    """The keys of a batch whose rows are numbered `rows` in the source; InputError names the row that is wrong."""
    return Keys(
        read_label(schema, flat(batch.column(schema.label.column)), where),
        read_weight(schema.weight, flat(batch.column(schema.weight)), where) if schema.weight else None,
        read_group(flat(batch.column(schema.group)), rows) if schema.group else None,
        read_time(schema.time, flat(batch.column(schema.time)), where) if schema.time else None,
    )


def check_key_types(schema: Schema, source: pa.Schema, place: str) -> None:
    """Raise InputError for a label, weight, group or time column of a type that cannot serve."""
    allowed = {
        "label": (schema.label.column, {"number"}, "numbers 0 and 1, or numbers and `positive_above`"),
        "weight": (schema.weight, {"number"}, "numbers that are not negative"),
        "group": (schema.group, {"number", "text", "time"}, "text or whole numbers"),
        "time": (schema.time, {"number", "text", "time"}, "integers, floats, dates or timestamps"),
    }
    for role, (column, families, words) in allowed.items():
        if column and family(source.field(column).type) not in families:
            raise InputError(f"{place}: the {role} column '{column}' is {source.field(column).type}; it needs {words}")


def read_label(schema: Schema, column: pa.Array, where: Where) -> np.ndarray:
    """float32 (n,) of 0 and 1."""
    values = _numbers(column)
    rule = schema.label
    missing = np.isnan(values)
    wrong = missing if rule.positive_above is not None else missing | ((values != 0) & (values != 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        came = "nothing" if missing[row] else f"{values[row]:g}"
        raise InputError(
            f"{where(row)}: the label column '{rule.column}' holds {came}; every row needs 0 or 1, or any number "
            "under `label: {column: ..., positive_above: ...}`"
        )
    return (values if rule.positive_above is None else values > rule.positive_above).astype(np.float32)


def read_weight(name: str, column: pa.Array, where: Where) -> np.ndarray:
    """float32 (n,), finite and not negative."""
    values = _numbers(column)
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    wrong = ~(np.isfinite(stored) & (values >= 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{where(row)}: the weight column '{name}' holds {values[row]:g}; weights are finite and not negative"
        )
    return stored


def read_group(column: pa.Array, rows: np.ndarray) -> np.ndarray:
    """uint64 (n,) hashes of the keys of the group column."""
    found = categories(column, "the group column")
    table = np.append(hash_strings([value or "" for value in found.values]), np.uint64(0))
    absent = np.array([*(value is None for value in found.values), True])[found.codes]
    return np.where(absent, hash_numbers(rows, 0x6E6F), table[found.codes])


def read_time(name: str, column: pa.Array, where: Where) -> np.ndarray:
    """int64 (n,) in order of time: integers as they stand, floats in millionths, dates and timestamps in microseconds.

    Text is read as integers (`14102100`); anything else, and a row without a time, is an InputError.
    """
    if column.null_count:
        row = int(np.argmin(column.is_valid().to_numpy(zero_copy_only=False)))
        raise InputError(f"{where(row)}: the time column '{name}' is empty; every row needs a time")
    try:
        if types.is_floating(column.type) or types.is_decimal(column.type):
            return pc.floor(pc.multiply(column.cast(pa.float64()), float(_TIME_UNITS))).cast(pa.int64()).to_numpy()
        if types.is_date(column.type) or types.is_timestamp(column.type):
            zone = getattr(column.type, "tz", None)
            return column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64()).to_numpy()
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{where(0)} or after: the time column '{name}' cannot be put in order: {reason}; "
            "give integers, floats, dates or timestamps"
        ) from None


def _numbers(column: pa.Array) -> np.ndarray:
    """float64 (n,), NaN for null."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
