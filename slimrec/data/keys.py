"""What a row carries besides its fields: label, weight, group and time, checked."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from slimrec.data.hashing import hash_numbers, hash_strings
from slimrec.data.values import Where, categories, family, flat, without
from slimrec.errors import InputError
from slimrec.schema import Label, Schema, Task

_MILLION = 1_000_000
_FINE = 4 * 10**12  # numbers up to here are ordered by their millionths, those beyond by whole units
_FAR = 5 * 10**18  # numbers beyond are no times; nanoseconds since 1970 end here in the year 2128
_UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
_EDGES = np.array([edge * 1000**power for power in range(4) for edge in (3 * 10**8, 5 * 10**9)])  # 1979 and 2128
_ZONE = r":\d\d(\.\d+)?\s*(Z|z|UTC|GMT|[+-]\d\d(:?\d\d)?)$"
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}  # labels in words, in any case


class Keys(NamedTuple):
    """Columns of one batch; None for what the schema does not name."""

    label: np.ndarray  # float32 (n,), 0 or 1; of several tasks (n, T), NaN where a row is not observed for one
    weight: np.ndarray | None  # float32 (n,), not negative
    group: np.ndarray | None  # uint64 (n,), hash of the value; a row without a value is a group of its own
    time: np.ndarray | None  # int64 (n,), ascending in time


def read_keys(schema: Schema, batch: pa.RecordBatch, rows: np.ndarray, where: Where) -> Keys:
    """The keys of a batch whose rows are numbered `rows` in the source; InputError names the row that is wrong."""

    def column(name: str) -> pa.Array:
        return key_column(schema, batch, name, where)

    return Keys(
        _read_tasks(schema, column, where)
        if schema.tasks
        else read_label(schema.label, column(schema.label.column), where),
        read_weight(schema.weight, column(schema.weight), where) if schema.weight else None,
        read_group(column(schema.group), rows) if schema.group else None,
        read_time(schema.time, column(schema.time), where) if schema.time else None,
    )


def key_column(schema: Schema, batch: pa.RecordBatch, name: str, where: Where) -> pa.Array:
    """One column of keys: bytes as the text that they are, words for `missing` as null."""
    column = flat(batch.column(name))
    if types.is_binary(column.type) or types.is_large_binary(column.type):
        try:
            column = column.cast(pa.large_string())
        except pa.ArrowInvalid:
            raise InputError(
                f"{where(0)} or after: the column '{name}' holds bytes that are not UTF-8 text; encode it"
            ) from None
    return without(column, schema.missing)


def check_key_types(schema: Schema, source: pa.Schema, place: str) -> None:
    """Raise InputError for a label, weight, group or time column of a type that cannot serve."""
    numbers = "0 and 1, true and false, or a rule: `positive_above`"
    allowed: list[tuple[str, str | None, set[str], str]] = [
        *(("label", label.column, {"number", "text"}, numbers) for label in schema.labels),
        ("weight", schema.weight, {"number"}, "numbers that are not negative"),
        ("group", schema.group, {"number", "text", "time"}, "text or whole numbers"),
        ("time", schema.time, {"number", "text", "time"}, "integers, floats, dates or timestamps"),
    ]
    for role, column, families, words in allowed:
        if column and family(source.field(column).type) not in families:
            raise InputError(f"{place}: the {role} column '{column}' is {source.field(column).type}; it needs {words}")


def _read_tasks(schema: Schema, column: Callable[[str], pa.Array], where: Where) -> np.ndarray:
    """float32 (n, T) of 0, 1 and NaN, the label of each task. InputError for a row that has none at all."""
    found: dict[str, np.ndarray] = {}
    for task in schema.tasks:
        values = column(task.column)
        there = np.flatnonzero(~_holds_nothing(values))
        label = np.full(len(values), np.nan, np.float32)
        label[there] = read_label(task, values.take(pa.array(there)), lambda i, rows=there: where(int(rows[i])))
        found[task.name] = label if task.after is None else _both(task, found[task.after], label, where)
    labels = np.column_stack([*found.values()])
    bare = np.isnan(labels).all(axis=1)
    if bare.any():
        names = ", ".join(f"'{task.column}'" for task in schema.tasks)
        raise InputError(f"{where(int(np.argmax(bare)))}: no task has a label here, {names} hold nothing; leave it out")
    return labels


def _both(task: Task, first: np.ndarray, second: np.ndarray, where: Where) -> np.ndarray:
    """Whether both events happened (n,); where the first did not, the second did not either, whatever it holds."""
    against = (first == 0) & (second == 1)
    if against.any():
        raise InputError(
            f"{where(int(np.argmax(against)))}: the label of '{task.name}' is 1 where that of '{task.after}' is 0, and it "
            f"stands `after` it; leave such rows out, or `after`"
        )
    return np.where(first == 0, first, first * second)


def _holds_nothing(column: pa.Array) -> np.ndarray:
    """Rows (n,) with null, NaN or empty text."""
    if family(column.type) == "text":
        empty = pc.equal(pc.utf8_trim_whitespace(column.cast(pa.large_string())), "")
        return pc.fill_null(empty, True).to_numpy(zero_copy_only=False)
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)


def read_label(rule: Label, column: pa.Array, where: Where) -> np.ndarray:
    """float32 (n,) of 0 and 1; text is read as numbers, true and false or yes and no, unless a value is the positive one."""
    if rule.positive is not None:
        return _is_positive(rule, column, where)
    values = _meanings(column) if family(column.type) == "text" else _numbers(column)
    missing = np.isnan(values)
    wrong = missing if rule.positive_above is not None else missing | ((values != 0) & (values != 1))
    if wrong.any():
        row = int(np.argmax(wrong))
        came = column[row].as_py()
        raise InputError(
            f"{where(row)}: the label column '{rule.column}' holds {_shown(came)}; every row needs 0 or 1, true or "
            "false, yes or no; or any number under `label: {column: ..., positive_above: ...}`, or any value under "
            "`label: {column: ..., positive: ...}`"
        )
    return (values if rule.positive_above is None else values > rule.positive_above).astype(np.float32)


def _is_positive(rule: Label, column: pa.Array, where: Where) -> np.ndarray:
    found = categories(column)
    if (found.codes < 0).any() or None in found.values:
        absent = np.array([*(value is None for value in found.values), True])[found.codes]
        row = int(np.argmax(absent))
        raise InputError(f"{where(row)}: the label column '{rule.column}' holds nothing; every row needs a value")
    if isinstance(rule.positive, bool):  # as YAML reads yes and no without quotes
        words = {"1": 1.0, "0": 0.0, **_WORDS}
        chosen = [words.get(value.strip().lower()) == rule.positive for value in found.values]
    else:
        (wanted,) = categories(pa.array([rule.positive])).values
        chosen = [value == wanted for value in found.values]
    return np.array(chosen, np.float32)[found.codes]


def _meanings(column: pa.Array) -> np.ndarray:
    """float64 (n,) of text: numbers, and the words for 1 and 0; NaN for anything else and for null."""
    encoded = column.dictionary_encode()
    table = [_meaning(str(value).strip().lower()) for value in encoded.dictionary.to_pylist()]
    codes = encoded.indices.fill_null(len(table)).to_numpy(zero_copy_only=False)
    return np.array([*table, np.nan])[codes]


def _meaning(word: str) -> float:
    if word in _WORDS:
        return _WORDS[word]
    try:
        return float(word)
    except ValueError:
        return np.nan


def _shown(value: object) -> str:
    return "nothing" if value is None or value == "" else f"'{value}'" if isinstance(value, str) else f"{value}"


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
    """int64 (n,) in order of time; text is read as numbers (`14102100`), or as dates and times of ISO 8601.

    One rule for numbers of every type: in millionths up to 4e12, in whole units beyond, so that whole and broken
    seconds, milliseconds and nanoseconds each stand in order. Dates and times are microseconds in UTC; without a zone
    they are taken to be in UTC. Anything else, and a row without a time, is an InputError.
    """
    if column.null_count:
        row = int(np.argmin(column.is_valid().to_numpy(zero_copy_only=False)))
        raise InputError(f"{where(row)}: the time column '{name}' is empty; every row needs a time")
    times = _in_order(column)
    if times is None:
        row = bisect.bisect_left(
            range(len(column)), True, key=lambda last: _in_order(column.slice(0, last + 1)) is None
        )
        raise InputError(
            f"{where(row)}: the time column '{name}' holds {_shown(column[row].as_py())}, which is read as no time, or as none "
            "like the first one; write all as ISO 8601 (2024-01-31, 2024-01-31 15:04:05+01:00), or all as numbers up to 5e18 "
            "(20240131, seconds since 1970)"
        )
    return times


def _in_order(column: pa.Array) -> np.ndarray | None:
    """Times as int64 that stand in their order; None where one of them tells none."""
    try:
        return _moments(column) if time_form(column) == "date" else _ordered(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def time_form(column: pa.Array) -> str:
    """`number` or `date`: what the column holds, text judged by its first value."""
    if family(column.type) != "text":
        return "date" if family(column.type) == "time" else "number"
    first = next(iter(column.slice(0, 1).to_pylist()), None) or "0"
    return "date" if np.isnan(_meaning(str(first).strip())) else "number"


def epoch_units(times: np.ndarray) -> dict[str, int]:
    """In which units (n,) numbers of `read_time` count the time since 1970, if they lie between 1979 and 2128.

    By unit, the position of the first such number; under "" that of the first one that lies elsewhere. 0 and less, which
    stand for no time at all, tell nothing.
    """
    far = times > _FINE * _MILLION
    whole = np.where(far, times - _FINE * _MILLION + _FINE, times // _MILLION)
    place = np.digitize(whole, _EDGES)  # odd within a unit, even between two
    kinds, first = np.unique(np.where(times <= 0, -1, np.where(place % 2, place, 0)), return_index=True)
    return {_UNITS[kind // 2] if kind else "": int(at) for kind, at in zip(kinds, first) if kind >= 0}


def check_units(name: str, found: Mapping[str, str]) -> None:
    """InputError where a time column counts in several units; `found`: a place for each that `epoch_units` named so far."""
    if len(found) > 1 and "" not in found:
        (one, here), (other, there) = list(found.items())[:2]
        raise InputError(
            f"the time column '{name}' counts {one} since 1970 in {here} and {other} in {there}, which have no common "
            "order; write one of them"
        )


def _ordered(column: pa.Array) -> np.ndarray:
    """Numbers as int64 that stand in the same order."""
    if family(column.type) == "text":
        try:
            column = column.cast(pa.int64())
        except pa.ArrowInvalid:
            column = pc.utf8_trim_whitespace(column.cast(pa.string())).cast(pa.float64())
    if types.is_integer(column.type) or types.is_boolean(column.type):
        whole, part = column.cast(pa.int64()).to_numpy(zero_copy_only=False), 0
    else:
        low = pc.floor(column)
        whole = low.cast(pa.int64()).to_numpy()
        rest = pc.subtract(column, low).cast(pa.float64()).to_numpy()
        part = np.floor(rest * _MILLION).astype(np.int64)
    if len(whole) and (whole.max() > _FAR or whole.min() < -_FAR):
        raise pa.ArrowInvalid("too large for a time")
    near = np.clip(whole, -_FINE, _FINE)
    return near * _MILLION + (whole - near) + np.where(near == whole, part, 0)


def _moments(column: pa.Array) -> np.ndarray:
    """Dates and times as int64 microseconds in UTC; times of day and durations as microseconds."""
    if family(column.type) == "text":
        return _iso(pc.utf8_trim_whitespace(column.cast(pa.string())))
    if types.is_time(column.type):
        return column.cast(pa.time64("ns")).cast(pa.int64()).to_numpy() // 1000
    if types.is_duration(column.type):
        return column.cast(pa.duration("us"), safe=False).cast(pa.int64()).to_numpy()
    zone = getattr(column.type, "tz", None)
    return column.cast(pa.timestamp("us", tz=zone), safe=False).cast(pa.int64()).to_numpy()


def _iso(text: pa.Array) -> np.ndarray:
    """Microseconds of ISO 8601, with and without zones."""
    zoned = pc.match_substring_regex(text, _ZONE)
    plain = pc.replace_substring_regex(text, r"\s*(z|UTC|GMT)$", "Z")
    plain = pc.replace_substring_regex(plain, r"\s+([+-]\d\d(:?\d\d)?)$", r"\1")
    stamps = np.empty(len(text), np.int64)
    for zone, rows in (("UTC", zoned), (None, pc.invert(zoned))):
        chosen = plain.filter(rows)
        if len(chosen):
            stamps[rows.to_numpy(zero_copy_only=False)] = _parsed(chosen, zone)
    return stamps


def _parsed(text: pa.Array, zone: str | None) -> np.ndarray:
    try:
        return text.cast(pa.timestamp("us", tz=zone)).cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:  # as with nanoseconds
        return text.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64()).to_numpy() // 1000


def _numbers(column: pa.Array) -> np.ndarray:
    """float64 (n,), NaN for null."""
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
