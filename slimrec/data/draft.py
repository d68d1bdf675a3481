"""A first schema YAML from a log, with what was seen in comments, for a person to edit; ingest takes it as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from slimrec.config import IngestConfig, SplitConfig, read_schema
from slimrec.data import dialect, sampling, text
from slimrec.data.files import PARQUET, TEXT, is_parquet
from slimrec.data.fit import Fitting
from slimrec.data.keys import check_units, epoch_units, read_keys, read_label, read_time, read_weight, time_form
from slimrec.data.looks import constant_step, guess_field, guess_label, left_out, nothing_in, spelled
from slimrec.data.source import Part, columns_of, open_source
from slimrec.data.split import time_thresholds
from slimrec.data.storage import list_files, of_path
from slimrec.data.values import csv_schema, flat
from slimrec.errors import InputError, did_you_mean
from slimrec.probes import is_probe
from slimrec.schema import CsvFormat

_CYCLE = 366  # whole numbers up to here may be hours of a day or days of a year
_ROWS = 100_000  # looked at, up to twice as many
_LABELS = ("label", "click", "clicked", "is_click", "is_clicked", "target", "y", "conversion", "converted", "rating")
_WEIGHTS = ("sample_weight", "instance_weight", "weight")
_TIMES = tuple(
    """
    time timestamp event_time event_timestamp datetime date ts dt day event_date created_at shown_at unix_time
    unixtime unix_timestamp timestamp_ms click_time impression_time
    """.split()
)
_GROUPS = ("user", "user_id", "userid", "uid", "visitor_id", "customer_id", "member_id", "client_id", "session_id")
_BYTES = (pa.types.is_binary, pa.types.is_large_binary)
_HEADER = """\
# Drafted from {sampled}. Check every kind, and remove
# what is known only after the label. Rows are split by time where there is a time column.
"""


class _Log(NamedTuple):
    """What was sampled: as it stands, with its columns as what they seem to be, and how its CSV is read."""

    raw: pa.Table
    table: pa.Table
    form: CsvFormat
    missing: dict[str, list[str]]
    remarks: dict[str, str]


def draft(path: str, label: str | None = None) -> str:
    """YAML that `slimrec.config.read_schema` and ingest accept, guessed from rows across the log at `path` (also s3://).

    Raises InputError where there is no data, or no column that looks like a label and none was named.
    """
    system, files = list_files(str(path), PARQUET + TEXT)
    sample, form = _sample(system, files, label)
    log = _typed(sample, form)
    table, names = log.table, log.table.column_names
    if label is not None and label not in names:
        raise InputError(f"{sample.file} has no column '{label}'; {did_you_mean(label, names)}")
    label = label or _named(names, _LABELS)
    if label is None:
        raise InputError(
            f"no column of {sample.file} is named like a label ({', '.join(_LABELS)}); name it: --label COLUMN, one of "
            f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
        )
    roles, lines = _roles(table, label)
    left = {name: why for name in names if (why := left_out(name, flat(table[name])))}
    fields = [name for name in sorted(names) if name not in (label, roles.get("weight"), roles.get("time"), *left)]
    twins, said = _twins(table, fields), f"label: {guess_label(label, flat(table[label]))}"
    positive = _positive(said, flat(table[label]))
    remarks = {name: [log.remarks.get(name, ""), twins.get(name, "")] for name in fields}
    lines = [
        *_reading(log),
        said,
        *lines,
        "fields:",
        *(_line(name, flat(table[name]), positive, remarks[name]) for name in fields),
        *(f"  # left out: {spelled(name)}, {why}" for name, why in left.items() if name != label),
    ]
    made = _HEADER.format(sampled=_sampled(sample)) + _repeated(sample) + "\n".join(lines) + "\n"
    _check(str(path), files, sample, made)
    return made


def _sample(system, files: list[str], label: str | None) -> tuple[sampling.Sample, CsvFormat]:
    if is_parquet(files[0]):
        return sampling.take(system, files, CsvFormat(), _ROWS), CsvFormat()
    filled = next((file for file in files if system.get_file_info(file).size), files[0])
    form = dialect.guess(system, filled)
    dialect.refuse_headless(filled, form, label)
    try:
        return sampling.take(system, files, form, _ROWS), form
    except text.Malformed:
        form = dialect.other_quoting(system, filled, form)
        return sampling.take(system, files, form, _ROWS), form


def _typed(sample: sampling.Sample, form: CsvFormat) -> _Log:
    """Cells of a CSV, and values in the names of folders, as what they seem to be."""
    names = sample.table.column_names if not is_parquet(sample.file) else list(of_path(sample.file))
    seen = dialect.types(sample.table, [name for name in names if name in sample.table.column_names])
    table = seen.table
    for place, name in enumerate(table.column_names):
        if any(is_kind(table[name].type) for is_kind in _BYTES) and (told := _as_text(table[name])):
            table = table.set_column(place, name, told)
    return _Log(sample.table, table, form.model_copy(update={"decimal": seen.decimal}), seen.missing, seen.remarks)


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Bytes as text, as writers of Parquet leave it; None where they are none."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _reading(log: _Log) -> list[str]:
    """The lines that say how cells are read, where that is not as usual."""
    changed = {name: value for name, value in log.form if value != CsvFormat.model_fields[name].default}
    lines = []
    if changed:
        options = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in changed.items())
        lines.append(f"csv: {{{options}}}  # as the file looks")
    if log.missing:
        words, where = (
            ", ".join(map(spelled, log.missing)),
            sorted({n for names in log.missing.values() for n in names}),
        )
        more = f" and {len(where) - 3} more" if len(where) > 3 else ""
        lines.append(f"missing: [{words}]  # words that stand for nothing, seen in {', '.join(where[:3])}{more}")
    return lines


def _roles(table: pa.Table, label: str) -> tuple[dict[str, str], list[str]]:
    """The columns for time, weight and group that ingest takes as such, with their lines."""
    names, roles, lines = [name for name in table.column_names if name != label], {}, []
    moments = [name for name in names if pa.types.is_date(table[name].type) or pa.types.is_timestamp(table[name].type)]
    texts = [name for name in names if pa.types.is_string(table[name].type)]
    by_name = [name for word in _TIMES if (name := _named(names, (word,)))]
    for name in dict.fromkeys([*by_name, *moments, *texts]):
        reason = _refused(_orders, name, table)
        if not reason:
            roles["time"] = name
            lines.append(f"time: {spelled(name)}")
            break
        if name in by_name:
            lines.append(f"# time: {spelled(name)}  # not drafted: {reason}")
    weight = _named(names, _WEIGHTS)
    if weight and weight != roles.get("time") and not _refused(_weighs, weight, table):
        roles["weight"] = weight
        lines.append(f"weight: {spelled(weight)}  # how much each row counts; remove it if this is a feature")
    filled = [name for name in names if name not in roles.values() and not pa.types.is_null(table[name].type)]
    group = _named(filled, _GROUPS)
    if group and pc.count_distinct(flat(table[group])).as_py() > 1:
        lines.append(f"group: {spelled(group)}")
    return roles, lines


def _refused(role: Callable[[str, pa.Array], None], name: str, table: pa.Table) -> str:
    """Why a column cannot play a role; "" if it can."""
    try:
        role(name, flat(table[name]))
    except InputError as error:
        return str(error).partition(": ")[2] or str(error)
    return ""


def _orders(name: str, column: pa.Array) -> None:
    times = read_time(name, column, _sampled_row)
    if time_form(column) == "number":
        check_units(name, {unit: _sampled_row(row) for unit, row in epoch_units(times).items()})
    if len(np.unique(times)) < 2:
        raise InputError(f"{name}: all rows have one time")
    if pa.types.is_integer(column.type) and pc.max(column).as_py() < _CYCLE:
        raise InputError(f"{name}: it looks like an hour or day that comes again")
    time_thresholds(SplitConfig(), [(np.arange(len(times)), times)])


def _weighs(name: str, column: pa.Array) -> None:
    if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
        raise InputError(f"{name}: is {column.type}")
    if not read_weight(name, column, _sampled_row).any():
        raise InputError(f"{name}: all are 0")


def _named(names: list[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted names that a column has, in any case and with words parted in any way."""
    known = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    words = (re.sub(r"[^a-z0-9]", "", word) for word in wanted)
    return next((known[word] for word in words if word in known), None)


def _twins(table: pa.Table, names: list[str]) -> dict[str, str]:
    """Columns that hold what an earlier one holds."""
    seen: dict[tuple, list[str]] = {}
    found = {}
    for name in names:
        column = flat(table[name])
        key = (str(column.type), column.null_count, column.slice(0, 50).to_string())
        same = next((other for other in seen.setdefault(key, []) if flat(table[other]).equals(column)), None)
        if same is None:
            seen[key].append(name)
        else:
            found[name] = f"the same as {spelled(same)} in all rows"
    return found


def _positive(said: str, column: pa.Array) -> np.ndarray:
    """Labels (n,) of the sampled rows by the label's own line."""
    rule = read_schema({**yaml.safe_load(said), "fields": [{"name": "none", "kind": "number"}]})
    return read_label(rule.label, column, _sampled_row)


def _line(name: str, column: pa.Array, positive: np.ndarray, remarks: list[str]) -> str:
    """The field's line; a name that a search gives to its own copies stays the column's."""
    entry, seen = guess_field(name, column, positive)
    empty = nothing_in(column)
    missing = f"{100 * empty / len(column):.1f} % missing" if empty else "none missing"
    if entry is None:
        return f"  # {spelled(name)} is {column.type}, which no field reads"
    options = "".join(f", {option}: {value}" for option, value in entry.items())
    options += f", column: {spelled(name)}" if is_probe(name) else ""
    steps = "row numbers? they tell the order of the log" if constant_step(column) else ""
    said = ", ".join(word for word in (seen, missing, steps, *remarks) if word)
    called = name.replace(":", "_", 1) if is_probe(name) else name
    return f"  - {{name: {spelled(called)}{options}}}  # {said}"


def _sampled(sample: sampling.Sample) -> str:
    file = sample.file.rsplit("/", 1)[-1]
    of = f"{file}" if sample.files == 1 else f"{sample.looked_at} of {sample.files} files, {file} first"
    rows = len(sample.table)
    return (
        f"all {rows:,} rows of {of}"
        if rows == sample.seen
        else f"{rows:,} of {sample.seen:,} rows of {of}, from all over it"
    )


def _repeated(sample: sampling.Sample) -> str:
    """A line about rows that are the same in all columns; told where all rows were looked at, else ingest tells it."""
    table = sample.table
    if len(table) < sample.seen or any(pa.types.is_nested(kind) for kind in table.schema.types):
        return ""
    plain = pa.table([flat(column) for column in table.columns], [str(i) for i in range(table.num_columns)])
    repeated = len(table) - len(plain.group_by(plain.column_names).aggregate([]))
    if not repeated:
        return ""
    return f"# {repeated:,} rows ({100 * repeated / len(table):.1f} %) repeat another one in all columns: duplicates?\n"


def _check(address: str, files: list[str], sample: sampling.Sample, made: str) -> None:
    """Read the draft as ingest would, and the sampled rows by it; raises what ingest would raise."""
    schema = read_schema(yaml.safe_load(made))
    config = IngestConfig(source=address, fields=schema.model_dump(mode="json"))
    open_source(config, Part(files=tuple(files), start=0))
    columns, table = columns_of(schema), sample.table
    kinds = csv_schema(schema, table.schema)
    cells = set(table.column_names if not is_parquet(sample.file) else of_path(sample.file))
    arrays = []
    for name in columns:
        column = flat(table[name])
        if name in cells and kinds.field(name).type == pa.float64():
            column = text.numbers(column, schema.csv, schema.missing, _sampled_row)
        arrays.append(column)
    batch, rows = pa.RecordBatch.from_arrays(arrays, columns), np.arange(len(table))
    read_keys(schema, batch, rows, _sampled_row)
    Fitting(schema, config.max_vocabulary).add(batch, rows, _sampled_row)


def _sampled_row(position: int) -> str:
    return f"sampled row {position + 1}"
