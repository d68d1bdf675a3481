"""A first schema YAML from a data file, with what was seen in comments, for a person to edit."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from slimrec.data.files import PARQUET, TEXT, inspect, read
from slimrec.data.storage import list_files
from slimrec.data.values import family, flat
from slimrec.errors import InputError, did_you_mean

_ROWS = 100_000  # looked at
_FEW = 200  # distinct integers up to here make a category
_LABELS = ("label", "click", "clicked", "is_click", "target", "y", "conversion", "converted", "rating")
_WEIGHTS = ("weight", "sample_weight", "instance_weight")
_TIMES = ("time", "timestamp", "event_time", "datetime", "date", "ts")
_GROUPS = ("user", "user_id", "userid", "uid", "session_id")


def draft(path: str, label: str | None = None) -> str:
    """YAML that `slimrec.config.read_schema` accepts, guessed from the first rows of the (first) file at `path`.

    Raises InputError where there is no data, or no column that looks like a label and none was named.
    """
    system, files = list_files(str(path), PARQUET + TEXT)
    table = _first_rows(system, files[0])
    names = table.column_names
    if label is not None and label not in names:
        raise InputError(f"{files[0]} has no column '{label}'; {did_you_mean(label, names)}")
    label = label or _named(names, _LABELS)
    if label is None:
        raise InputError(
            f"no column of {files[0]} is named like a label ({', '.join(_LABELS)}); name it: --label COLUMN"
        )
    roles = {"weight": _named(names, _WEIGHTS), "time": _named(names, _TIMES), "group": _named(names, _GROUPS)}
    lines = [
        f"# Drafted from the first {table.num_rows:,} rows of {files[0].rsplit('/', 1)[-1]}. Check every kind, and remove",
        "# what is known only after the label. Rows are split by time where there is a time column.",
        f"label: {_label(table, label)}",
        *(f"{role}: {_text(name)}" for role, name in roles.items() if name and name != label),
        "fields:",
    ]
    fields = [name for name in sorted(names) if name not in (label, roles["weight"], roles["time"])]
    return "\n".join(lines + [_line(name, flat(table[name])) for name in fields]) + "\n"


def _first_rows(system, file: str) -> pa.Table:
    schema, _ = inspect(system, file)
    if len(set(schema.names)) < len(schema.names):
        raise InputError(f"{file} has a column name twice; give every column a name of its own")
    batches, count = [], 0
    for batch in read(system, file, schema, 10_000):
        batches.append(batch)
        count += batch.num_rows
        if count >= _ROWS:
            break
    if not count:
        raise InputError(f"{file} has no rows; fill it")
    return pa.Table.from_batches(batches)


def _named(names: list[str], wanted: tuple[str, ...]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[word] for word in wanted if word in lower), None)


def _label(table: pa.Table, name: str) -> str:
    """The label entry: as it stands when it is 0/1, above its middle value otherwise."""
    column = flat(table[name])
    if family(column.type) != "number":
        return f"{_text(name)}  # is {column.type}: write 0 and 1 instead"
    values = sorted(float(value) for value in column.cast(pa.float64()).drop_null().unique().to_pylist())
    if set(values) <= {0.0, 1.0}:
        return f"{_text(name)}  # {100 * (pc.mean(column.cast(pa.float64())).as_py() or 0):.1f} % positive"
    middle = values[(len(values) - 1) // 2]
    return f"{{column: {_text(name)}, positive_above: {middle:g}}}  # {values[0]:g} .. {values[-1]:g}: set the limit"


def _line(name: str, column: pa.Array) -> str:
    entry, seen = _guess(name, column)
    missing = f"{100 * column.null_count / len(column):.1f} % missing" if column.null_count else "none missing"
    if entry is None:
        return f"  # {_text(name)} is {column.type}, which no field reads"
    options = "".join(f", {option}: {value}" for option, value in entry.items())
    return f"  - {{name: {_text(name)}{options}}}  # {seen}, {missing}"


def _guess(name: str, column: pa.Array) -> tuple[dict | None, str]:
    """The field's options, and what was seen."""
    kind = family(column.type)
    if kind.startswith("list of "):
        return _guess_list(column, kind)
    if kind not in ("number", "text", "time", "nothing"):
        return None, ""
    distinct = len(column.unique())
    seen = f"{distinct:,} distinct"
    if kind == "number" and not pa.types.is_boolean(column.type):
        identifier = re.search(r"(^|_)id$", name.lower())
        whole = pa.types.is_integer(column.type)
        if not (whole and (distinct <= _FEW or identifier)):
            values = column.cast(pa.float64()).drop_null()
            unclean = not (pc.all(pc.is_finite(values)).as_py() in (True, None))
            return {"kind": "number"} | ({"nonfinite": "missing"} if unclean else {}), seen
    if distinct > 0.5 * len(column):
        seen += ", nearly unique: is it known when serving?"
    return {"kind": "category"}, seen + (", a constant" if distinct == 1 else "")


def _guess_list(column: pa.Array, kind: str) -> tuple[dict | None, str]:
    lengths = pc.list_value_length(column).drop_null()
    low, high = (pc.min(lengths).as_py() or 0), (pc.max(lengths).as_py() or 0)
    if low == high > 0 and pa.types.is_floating(column.type.value_type):
        return {"kind": "vector", "width": high}, f"{high} numbers"
    if kind.removeprefix("list of ") not in ("number", "text", "time", "nothing"):
        return None, ""
    return {"kind": "bag", "max_length": min(max(high, 1), 50)}, f"{low} to {high} values"


def _text(name: str) -> str:
    """The name as YAML text: plain where that reads back the same."""
    plain = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) and yaml.safe_load(name) == name
    return name if plain else json.dumps(name, ensure_ascii=False)
