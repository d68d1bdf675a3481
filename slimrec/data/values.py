"""Raw columns -> plain values: categories by their keys (see `spelling`), numbers as float64; wrong types and NaN refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from slimrec.data.spelling import Unknowable, respell, spell
from slimrec.errors import InputError
from slimrec.schema import Field, Schema

_JSON = json.JSONEncoder(ensure_ascii=False).encode
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
    values: list[
        str | None
    ]  # their keys, twice where two spellings are one value; None for a NaN, which counts as null
    texts: pa.Array | None = None  # what the keys were made of, where they are not those texts themselves

    def alike(self) -> tuple[str, ...]:
        """Two texts that are one value, if there are any."""
        if self.texts is None or len(set(self.values)) == len(self.values):
            return ()
        first: dict[str | None, int] = {}
        at, other = next((i, first[key]) for i, key in enumerate(self.values) if first.setdefault(key, i) != i)
        return str(self.texts[other]), str(self.texts[at])


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
    if _is_bytes(kind):
        return "text"
    if types.is_temporal(kind) and not types.is_interval(kind):  # months have no length
        return "time"
    return "nothing" if types.is_null(kind) else str(kind)


def csv_schema(schema: Schema, found: pa.Schema) -> pa.Schema:
    """A CSV's columns with the types that the schema needs: numbers where a field is one, else text."""
    numeric = {field.column for field in schema.fields if field.kind == "number"} | {schema.weight}
    numeric = numeric.union(*(field.discretised for field in schema.fields))
    return pa.schema([pa.field(field.name, pa.float64() if field.name in numeric else pa.string()) for field in found])


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
    """One plain array: chunks joined, dictionaries and views resolved, half precision widened."""
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_float16(column.type):
        column = column.cast(pa.float32())
    if types.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column.cast(pa.large_string()) if types.is_string_view(column.type) else column


def without(column: pa.Array, words: tuple[str, ...]) -> pa.Array:
    """The column with cells of text that are one of these words, which stand for nothing, as null."""
    if not words or family(column.type) != "text":
        return column
    return pc.if_else(pc.is_in(column, pa.array(words).cast(column.type)), None, column)


def categories(column: pa.Array, name: str = "a category column", exact: bool = False) -> Categories:
    """Any scalar column as keys; the empty text is a value, null and NaN are missing.

    A struct of two columns gives their crosses: the JSON list of both keys, missing where both are. `name` is what to
    call the column in an error: InputError for bytes that are no text, and for a float that may be several numbers.
    """
    if types.is_struct(column.type):
        return _crossed(*(categories(flat(part), name, exact) for part in column.flatten()))
    if types.is_null(column.type):
        return Categories(np.full(len(column), -1), [])
    encoded = column.dictionary_encode()
    codes = encoded.indices
    codes = (codes.fill_null(-1) if codes.null_count else codes).to_numpy(zero_copy_only=False)
    try:
        keys, touched = spell(encoded.dictionary, exact)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} holds {error.object[:40]!r}, which is not UTF-8 text; encode it") from None
    except Unknowable as error:
        raise InputError(
            f"{name} holds the float {error}, which may stand for several whole numbers; write the column as integers "
            "(in pandas: Int64) or as strings"
        ) from None
    return Categories(codes, keys, encoded.dictionary if touched else None)


def _crossed(first: Categories, second: Categories) -> Categories:
    wide = len(second.values) + 1
    pairs, codes = np.unique((first.codes + 1) * wide + second.codes + 1, return_inverse=True)
    left, right = ([_JSON(value) for value in (None, *part.values)] for part in (first, second))  # once a value
    values = [f"[{left[a]}, {right[b]}]" for a, b in zip((pairs // wide).tolist(), (pairs % wide).tolist())]
    return Categories(codes.reshape(-1), [None if value == "[null, null]" else value for value in values])


def respelled(field: Field, keys: Sequence[str]) -> list[str]:
    """A vocabulary of format 1 in the keys of today; the pairs of a cross part by part."""
    if not field.cross:
        return respell(keys)
    pairs = [json.loads(key) for key in keys]
    parts = {part for pair in pairs for part in pair if part is not None}
    now = dict(zip(parts, respell(list(parts)))) | {None: None}
    return [f"[{_JSON(now[a])}, {_JSON(now[b])}]" for a, b in pairs]


def field_categories(field: Field, column: pa.Array, where: Where) -> Categories:
    """Keys of a category field, or of a number discretised by `log_square`."""
    if field.kind == "category":
        return _with_one_nothing(field, categories(column, _named(field), field.taken_exactly))
    values, codes = np.unique(_log_square(numbers(field, column, where)[:, 0]), return_inverse=True)
    return Categories(codes, [None if math.isnan(value) else str(int(value)) for value in values])


def _with_one_nothing(field: Field, found: Categories) -> Categories:
    """Where training knew only one of null and the empty text, the other is that one: writers of CSV mix them up."""
    if field.statistics is None or field.cross:
        return found
    if field.statistics.empty_text is False:
        return found._replace(values=[value or None for value in found.values])
    if field.statistics.empty_text and not field.statistics.missing_share:
        codes = np.where(found.codes < 0, len(found.values), found.codes)
        return found._replace(codes=codes, values=[*(value or "" for value in found.values), ""])
    return found


def _named(field: Field) -> str:
    columns = "', '".join(field.columns)
    return f"field '{field.name}': column{'s' if field.cross else ''} '{columns}'"


def log_square(column: pa.Array) -> pa.Array:
    """A numeric column as what `discretise: log_square` makes categories of; null and NaN become null."""
    values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return pa.array(_log_square(values), from_pandas=True)


def _log_square(x: np.ndarray) -> np.ndarray:
    """floor(ln(x)^2) above 2, else floor(x): the Criteo contest's way of making categories of counts."""
    return np.floor(np.where(x > 2, np.log(np.where(x > 2, x, 1.0)) ** 2, x))


class Bags(NamedTuple):
    """The values of all bags one after the other that fit, where they go, and how long the bags were."""

    found: Categories  # of the values that fit
    rows: np.ndarray  # int64, the row of each
    places: np.ndarray  # int64, its place in the row, from 0 on
    lengths: np.ndarray  # int64 (n,), 0 for a null or empty bag


def bags(field: Field, column: pa.Array) -> Bags:
    """The bags of a column, each cut to `max_length` values at the end or, with `keep: last`, at the beginning.

    Empty text is no value: what stands between two separators, or behind the last one, takes no place.
    """
    if types.is_null(column.type):
        nothing = np.empty(0, np.int64)
        return Bags(Categories(nothing, []), nothing, nothing, np.zeros(len(column), np.int64))
    if family(column.type) == "text":
        column = pc.split_pattern(pc.if_else(pc.equal(column, ""), None, column), field.separator)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    values, rows = flat(column.drop_null().flatten()), np.repeat(np.arange(len(lengths)), lengths)
    if family(values.type) == "text" and not field.learnt_before(2):
        kept = pc.not_equal(values, pa.scalar("" if not _is_bytes(values.type) else b"", values.type)).fill_null(True)
        if not pc.all(kept, min_count=0).as_py():
            values, rows = values.filter(kept), rows[kept.to_numpy(zero_copy_only=False)]
            lengths = np.bincount(rows, minlength=len(lengths))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if field.keep == "last":
        places -= np.repeat(np.maximum(lengths - field.max_length, 0), lengths)
    fits = (0 <= places) & (places < field.max_length)
    found = categories(values, _named(field), field.taken_exactly)
    return Bags(found._replace(codes=found.codes[fits]), rows[fits], places[fits], lengths)


def _is_bytes(kind: pa.DataType) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


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


def extent(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each column of (n, width), without NaN; infinities the wrong way round for none."""
    columns = np.ascontiguousarray(values.T)  # many rows of few columns are slow to reduce
    if columns.size and not np.isnan(lowest := columns.min(axis=1)).any():
        return lowest, columns.max(axis=1)
    return np.fmin.reduce(columns, axis=1, initial=np.inf), np.fmax.reduce(columns, axis=1, initial=-np.inf)


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
