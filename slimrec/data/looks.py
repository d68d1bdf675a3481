"""What a column looks like: a field of which kind, a label by which rule, or nothing that a model should read."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from slimrec.data.outliers import far_off, remark
from slimrec.data.values import family
from slimrec.errors import InputError

_FEW = 200  # distinct integers up to here make a category
_OFTEN = 5  # rows of a value whose rate of positives is looked at
_EXACT = 2**53  # whole numbers up to here are exact as numbers
_POSITIVE = tuple("yes y true t click clicked positive pos buy bought purchase converted 1".split())
_INDEX = r"|__index_level_\d+__|level_\d+|unnamed:? ?\d*|index|row_?(id|nr|num|number)?"  # as data frames write them
_NOUNS = tuple(
    """
    user item movie product ad adgroup campaign creative session device site app page publisher advertiser customer
    query doc document video news article shop brand category cate cat store merchant member song track artist book
    business hotel city region country placement slot order client visitor content post u gu
    """.split()
)
_ID = rf"(^|.*_)(id|ids|code|zip|zip_code|postcode|hash|uuid)$|^({'|'.join(_NOUNS)})id$"


def spelled(name: str) -> str:
    """The name as YAML text: plain where that reads back the same."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and yaml.safe_load(name) == name
    return name if plain else json.dumps(name, ensure_ascii=False)


def exactly(value: float) -> str:
    """A number as YAML, such that it reads back the same."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def is_identifier(name: str) -> bool:
    """Whether a column's name says that its numbers are names: item_id, itemId, ItemID, itemid."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").replace(" ", "_")
    return bool(re.match(_ID, words) or re.match(_ID, name.lower()))


def left_out(name: str, column: pa.Array) -> str:
    """Why no field should read the column; "" if one may."""
    if nothing_in(column) == len(column):
        return "which is always empty"
    if re.fullmatch(_INDEX, name.strip().lower()):
        numbered = pa.types.is_integer(column.type) and pc.count_distinct(column).as_py() == len(column)
        if numbered or name.startswith("__index_level_") or not name:
            return "the index of a data frame, which tells the order of rows"
    return ""


def nothing_in(column: pa.Array) -> int:
    """Rows where the column holds nothing, NaN included."""
    broken = pc.sum(pc.is_nan(column)).as_py() or 0 if pa.types.is_floating(column.type) else 0
    return column.null_count + broken


def constant_step(column: pa.Array) -> bool:
    """Whether whole numbers rise by the same step from row to row, as row numbers do."""
    if not pa.types.is_integer(column.type) or column.null_count or len(column) < 10:
        return False
    if pc.max(column).as_py() >= 2**63:
        return False
    steps = pc.subtract(column.slice(1).cast(pa.int64()), column.slice(0, len(column) - 1).cast(pa.int64()))
    return pc.count_distinct(steps).as_py() == 1 and steps[0].as_py() > 0


def guess_label(name: str, column: pa.Array) -> str:
    """The label entry: as it stands when it is 0/1, the one of two values that is meant, or above the middle value."""
    kind = family(column.type)
    if nothing_in(column):
        raise InputError(
            f"the label column '{name}' is empty in {nothing_in(column):,} of {len(column):,} rows looked at; every row needs "
            "a label, leave out those that have none"
        )
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if kind == "text" and (found := _as_numbers(column)) is not None:
        column, kind = found, "number"
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if kind == "text":
        return _guess_words(name, column)
    if kind != "number":
        raise InputError(f"the label column '{name}' is {column.type}; it needs numbers, true and false, or two words")
    distinct = sorted(column.unique().to_pylist())
    if set(distinct) == {0, 1}:
        return f"{spelled(name)}  # {_share(pc.equal(column, pa.scalar(1).cast(column.type)))} positive"
    if len(distinct) == 1:
        raise InputError(f"the label column '{name}' holds {distinct[0]} in all rows looked at; two classes are needed")
    if len(distinct) == 2 and abs(distinct[1]) > _EXACT:
        share = _share(pc.equal(column, pa.scalar(distinct[1], column.type)))
        return f"{{column: {spelled(name)}, positive: {distinct[1]}}}  # {share}, the rest {distinct[0]}"
    middle = distinct[(len(distinct) - 1) // 2]
    share = _share(pc.greater(column, pa.scalar(middle, column.type)))
    span = f"{exactly(distinct[0])} .. {exactly(distinct[-1])}"
    return f"{{column: {spelled(name)}, positive_above: {exactly(middle)}}}  # {span}, {share} are above: set the limit"


def _as_numbers(column: pa.Array) -> pa.Array | None:
    """Text as numbers, whole ones exactly; None where a cell is none."""
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    for kind in (pa.int64(), pa.float64()):
        try:
            return text.cast(kind)
        except pa.ArrowInvalid:
            continue
    return None


def _guess_words(name: str, column: pa.Array) -> str:
    counts = {
        value.strip(): count
        for value, count in ((c["values"], c["counts"]) for c in pc.value_counts(column).to_pylist())
    }
    if {word.lower() for word in counts} <= {"true", "false"} and len(counts) == 2:
        positive = sum(count for word, count in counts.items() if word.lower() == "true")
        return f"{spelled(name)}  # {100 * positive / len(column):.1f} % positive"
    if len(counts) != 2:
        shown = ", ".join(list(counts)[:4]) + (" ..." if len(counts) > 4 else "")
        raise InputError(
            f"the label column '{name}' holds {len(counts)} different texts ({shown}); it needs numbers or two values"
        )
    known = [word for word in counts if word.lower() in _POSITIVE]
    positive = known[0] if len(known) == 1 else min(counts, key=lambda word: (counts[word], word))
    (other,) = set(counts) - {positive}
    share = 100 * counts[positive] / len(column)
    return f"{{column: {spelled(name)}, positive: {json.dumps(positive, ensure_ascii=False)}}}  # {share:.1f} %, the rest is {other!r}"


def _share(chosen: pa.Array) -> str:
    return f"{100 * pc.mean(chosen.cast(pa.float64())).as_py():.1f} %"


def are_names(column: pa.Array, positive: np.ndarray) -> bool:
    """Whether whole numbers name things: values side by side have rates of positives (n,) further apart than chance gives.

    A quantity's rate follows its size smoothly, so that the squared differences of neighbours, over what chance gives them,
    average 1 (von Neumann 1941); only values that come often are looked at, and they must make up most of the rows.
    """
    there = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    value = np.unique(column.drop_null().to_numpy(), return_inverse=True)[1]
    rows, hits = np.bincount(value), np.bincount(value, positive[there])
    often = rows >= _OFTEN
    if often.sum() < _FEW / 4 or rows[often].sum() < len(column) / 2:
        return False
    rows, hits = rows[often], hits[often]
    both = (hits[:-1] + hits[1:] + 2 * positive.mean()) / (rows[:-1] + rows[1:] + 2)
    chance = both * (1 - both) * (1 / rows[:-1] + 1 / rows[1:])
    apart = np.square(np.diff(hits / rows)) / np.maximum(chance, np.finfo(float).tiny)
    error = 1.3 * apart.std() / np.sqrt(len(apart))  # neighbours share a value
    return bool(apart.mean() > 1.3 and apart.mean() - 1 > 2.5 * error)


def guess_field(name: str, column: pa.Array, positive: np.ndarray | None = None) -> tuple[dict | None, str]:
    """The field's options, None where no field reads such a column; and what was seen.

    `positive` (n,): 1 where the row's label is, which may tell numbers that name something from quantities.
    """
    kind = family(column.type)
    if kind.startswith("list of "):
        return _guess_list(column, kind)
    if (
        kind not in ("number", "text", "time")
        or pa.types.is_binary(column.type)
        or pa.types.is_large_binary(column.type)
    ):
        return None, ""  # bytes that were text are text by now
    distinct = pc.count_distinct(column).as_py()
    seen = f"{distinct:,} distinct"
    if kind == "number" and not pa.types.is_boolean(column.type):
        whole = pa.types.is_integer(column.type)
        far = whole and max(abs(value or 0) for value in pc.min_max(column).as_py().values()) > _EXACT
        named = whole and (distinct <= _FEW or far or is_identifier(name)) or _whole_identifiers(name, column)
        if whole and not named and positive is not None and are_names(column, positive):
            return {"kind": "category"}, f"{seen}, numbers that name something: they tell the label, not their order"
        if not named:
            values = column.cast(pa.float64()).drop_null()
            unclean = not (pc.all(pc.is_finite(values)).as_py() in (True, None))
            span = pc.min_max(column).as_py() if whole else {"min": 0, "max": 0}
            if 0 < 10 * distinct < span["max"] - span["min"] and 2 * distinct < len(column):
                seen += ", whole numbers with gaps: if they name something, kind: category"
            seen += _far_off(values.to_numpy(zero_copy_only=False))
            return {"kind": "number"} | ({"nonfinite": "missing"} if unclean else {}), seen
    if distinct > 0.5 * len(column):
        seen += ", nearly unique: is it known when serving?"
    return {"kind": "category"}, seen + (", a constant" if distinct == 1 else "")


def _far_off(values: np.ndarray) -> str:
    """What ingest will say of numbers (n,) some of which are far from all others; "" for nothing."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    with np.errstate(over="ignore"):  # a deviation beyond all numbers is one that says enough
        found = far_off(values, *map(float, (values.min(), values.max(), values.mean(), values.std())))
    return f", {remark(found, None)}" if found else ""


def _whole_identifiers(name: str, column: pa.Array) -> bool:
    """Whether floats are ids that had to become such, as in a data frame where one is missing."""
    if not pa.types.is_floating(column.type) or not is_identifier(name):
        return False
    values = column.to_numpy(zero_copy_only=False)
    values = values[~np.isnan(values)]
    return len(values) > 0 and bool((np.abs(values) < _EXACT).all() and (values == np.trunc(values)).all())


def _guess_list(column: pa.Array, kind: str) -> tuple[dict | None, str]:
    lengths = pc.list_value_length(column).drop_null()
    low, high = (pc.min(lengths).as_py() or 0), (pc.max(lengths).as_py() or 0)
    if low == high > 0 and pa.types.is_floating(column.type.value_type):
        values = column.flatten().cast(pa.float64()).drop_null()
        clean = pc.all(pc.is_finite(values)).as_py() in (True, None)
        return {"kind": "vector", "width": high} | ({} if clean else {"nonfinite": "missing"}), f"{high} numbers"
    if kind.removeprefix("list of ") not in ("number", "text", "time", "nothing"):
        return None, ""
    return {"kind": "bag", "max_length": min(max(high, 1), 50)}, f"{low} to {high} values"
