"""Raw columns -> plain values: category strings in one normal form, numbers as float64; wrong types and NaN refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from slimrec.errors import InputError
from slimrec.schema import Field, Schema

Where = Callable[[int], str]  # position in the batch -> what to call that row in an error

_NEEDS = {
    "category": "text, a whole number, a boolean, a date or a time",
    "number": "a number (store text as numbers, or declare the field as a category)",
    "vector": "a list of numbers",
    "bag": "a list of values, or text and a `separator`",
}


class Categories(NamedTuple):
    """Values of a category column: `codes` (n,) are positions in `values`, -1 where the column is null."""

    codes: np.ndarray
    values: list[str | None]  # distinct raw values in normal form; None for a NaN, which counts as null


def family(kind: pa.DataType) -> str:
    """The coarse type that decides what a column may serve as; files of one source must agree on it."""
    if types.is_dictionary(kind):
        return family(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return f"list of {family(kind.value_type)}"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_boolean(kind):
        return "number"
    if any(is_text(kind) for is_text in (types.is_string, types.is_large_string, types.is_string_view)):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "text"
    if types.is_temporal(kind):
        return "time"
    return "nothing" if types.is_null(kind) else str(kind)


def csv_schema(schema: Schema, found: pa.Schema) -> pa.Schema:
    """A CSV's columns with the types that the schema needs; a time column keeps what its first block looks like."""
    numeric = {field.column for field in schema.fields if field.kind == "number"}
    numeric = numeric.union(*(field.discretised for field in schema.fields))
    numeric |= {schema.label.column, schema.weight}
    plain = {name for field in schema.fields for name in field.columns} | {schema.group}
    kinds = dict.fromkeys(plain, pa.string()) | dict.fromkeys(numeric, pa.float64())
    return pa.schema([pa.field(field.name, kinds.get(field.name, field.type)) for field in found])


def check_type(field: Field, kind: pa.DataType, place: str = "", column: str = "") -> None:
    """Raise InputError unless a column of this type can serve as the field; `place` names the file."""
    serves = "number" if column in field.discretised else field.kind
    allowed = {
        "category": {"number", "text", "time"},
        "number": {"number"},
        "vector": {"list of number", "list of nothing"},
        "bag": {f"list of {item}" for item in ("number", "text", "time", "nothing")},
    }[serves] | {"nothing"}
    if field.kind == "bag" and field.separator is not None:
        allowed.add("text")
    if family(kind) not in allowed:
        raise InputError(
            f"{place}{': ' if place else ''}field '{field.name}' is a {field.kind}, but its column '{column or field.column}' "
            f"is {kind}; a {serves} needs {_NEEDS[serves]}"
        )


def flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One plain array: chunks joined, dictionaries and views resolved."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if types.is_string_view(column.type) else column


def categories(column: pa.Array) -> Categories:
    """Any scalar column as category strings; the empty string is a value, null and NaN are missing.

    A struct of two columns gives their crosses: the JSON list of both values, missing where both are.
    """
    if types.is_struct(column.type):
        return _crossed(*(categories(flat(part)) for part in column.flatten()))
    if types.is_null(column.type):
        return Categories(np.full(len(column), -1), [])
    encoded = column.dictionary_encode()
    codes = encoded.indices
    codes = (codes.fill_null(-1) if codes.null_count else codes).to_numpy(zero_copy_only=False)
    return Categories(codes, _normal_form(encoded.dictionary))


def _crossed(first: Categories, second: Categories) -> Categories:
    wide = len(second.values) + 1
    pairs, codes = np.unique((first.codes + 1) * wide + second.codes + 1, return_inverse=True)
    write = json.JSONEncoder(ensure_ascii=False).encode  # once a value and not once a pair
    left, right = ([write(value) for value in (None, *part.values)] for part in (first, second))
    values = [f"[{left[a]}, {right[b]}]" for a, b in zip((pairs // wide).tolist(), (pairs % wide).tolist())]
    return Categories(codes.reshape(-1), [None if value == "[null, null]" else value for value in values])


def _normal_form(values: pa.Array) -> list[str | None]:
    """Strings for distinct values: integers in decimal, integral floats as integers, booleans 0/1, bytes UTF-8."""
    kind = values.type
    if types.is_floating(kind):
        return [_float(value) for value in values.to_numpy(zero_copy_only=False)]
    if types.is_decimal(kind):
        return [str(int(v)) if v == int(v) else f"{v.normalize():f}" for v in values.to_pylist()]
    if types.is_boolean(kind):
        return [str(int(value)) for value in values.to_pylist()]
    if types.is_binary(kind) or types.is_large_binary(kind):
        try:
            return [value.decode("utf-8") for value in values.to_pylist()]
        except UnicodeDecodeError as error:
            raise InputError(f"a category value is not UTF-8 text: {error.object[:40]!r}; encode it") from None
    return values.to_pylist() if family(kind) == "text" else values.cast(pa.string()).to_pylist()


def _float(value: np.floating) -> str | None:
    if math.isnan(value):
        return None
    return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)


def field_categories(field: Field, column: pa.Array, where: Where) -> Categories:
    """Category strings of a category field, or of a number discretised by `log_square`."""
    if field.kind == "category":
        return categories(column)
    values, codes = np.unique(_log_square(numbers(field, column, where)[:, 0]), return_inverse=True)
    return Categories(codes, [None if math.isnan(value) else str(int(value)) for value in values])


def log_square(column: pa.Array) -> pa.Array:
    """A numeric column as what `discretise: log_square` makes categories of; null and NaN become null."""
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return pa.array(_log_square(values), from_pandas=True)


def _log_square(x: np.ndarray) -> np.ndarray:
    """floor(ln(x)^2) above 2, else floor(x): the Criteo contest's way of making categories of counts."""
    return np.floor(np.where(x > 2, np.log(np.where(x > 2, x, 1.0)) ** 2, x))


def bags(field: Field, column: pa.Array) -> tuple[Categories, np.ndarray]:
    """The values of all bags one after the other, and how many each row has (n,); 0 for a null or empty bag."""
    if types.is_null(column.type):
        return Categories(np.empty(0, np.int64), []), np.zeros(len(column), np.int64)
    if family(column.type) == "text":
        column = pc.split_pattern(pc.if_else(pc.equal(column, ""), None, column), field.separator)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return categories(flat(column.drop_null().flatten())), lengths


def numbers(field: Field, column: pa.Array, where: Where) -> np.ndarray:
    """float64 (n, width) of a number or vector field, NaN where missing; logarithm taken where `scale: log`."""
    width = field.width or 1
    rows = np.arange(len(column))
    values = np.full((len(column), width), np.nan)
    if not types.is_null(column.type):
        if field.kind == "vector":
            rows = np.flatnonzero(column.is_valid())
            column = _elements(field, column, rows, where)
        # a null inside a vector is a missing number, as a null row is
        values[rows] = _finite(field, column, rows, where).reshape(-1, width)
    return np.sign(values) * np.log1p(np.abs(values)) if field.scale == "log" else values


def _elements(field: Field, column: pa.Array, rows: np.ndarray, where: Where) -> pa.Array:
    column = column.drop_null()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != field.width)
    if len(wrong):
        raise InputError(
            f"{where(rows[wrong[0]])}: field '{field.name}' has {lengths[wrong[0]]} numbers in column "
            f"'{field.column}'; the schema says width {field.width}"
        )
    return column.flatten()


def _finite(field: Field, column: pa.Array, rows: np.ndarray, where: Where) -> np.ndarray:
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    bad = ~np.isfinite(values)
    if column.null_count:
        bad &= column.is_valid().to_numpy(zero_copy_only=False)
    if not bad.any():
        return values
    if field.nonfinite == "refuse":
        first = int(np.argmax(bad))
        raise InputError(
            f"{where(rows[first // (field.width or 1)])}: field '{field.name}' holds {values[first]} in column "
            f"'{field.column}'; finite numbers are needed, `nonfinite: missing` takes it as missing"
        )
    return np.where(bad, np.nan, values)
