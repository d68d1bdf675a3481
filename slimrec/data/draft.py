"""A first schema YAML from a log, with what was seen in comments, for a person to edit; ingest takes it as it stands."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from slimrec.config import IngestConfig
from slimrec.data import dialect, sampling, text
from slimrec.data.files import PARQUET, TEXT, is_parquet
from slimrec.data.fit import Fitting
from slimrec.data.keys import read_keys, read_label
from slimrec.data.looks import constant_step, guess_field, guess_label, left_out, nothing_in, spelled
from slimrec.data.roles import LABELS, named, roles, tasks
from slimrec.data.sampling import sampled_row
from slimrec.data.source import Part, columns_of, open_source
from slimrec.data.storage import list_files, of_path
from slimrec.data.values import csv_schema, flat
from slimrec.errors import InputError, did_you_mean
from slimrec.probes import is_probe
from slimrec.schema import CsvFormat
from slimrec.written import read_schema

_ROWS = 100_000  # looked at, up to twice as many
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
    """YAML that `slimrec.written.read_schema` and ingest accept, guessed from rows across the log at `path` (also s3://).

    Raises InputError where there is no data, or no column that looks like a label and none was named.
    """
    system, files = list_files(str(path), PARQUET + TEXT)
    sample, form = _sample(system, files, label)
    log = _typed(sample, form)
    table, names = log.table, log.table.column_names
    if label is not None and label not in names:
        raise InputError(f"{sample.file} has no column '{label}'; {did_you_mean(label, names)}")
    label = label or named(names, LABELS)
    if label is None:
        raise InputError(
            f"no column of {sample.file} is named like a label ({', '.join(LABELS)}); name it: --label COLUMN, one of "
            f"{', '.join(names[:12])}{' ...' if len(names) > 12 else ''}"
        )
    parts, lines = roles(table, label)
    left = {name: why for name in names if (why := left_out(name, flat(table[name])))}
    fields = [name for name in sorted(names) if name not in (label, parts.get("weight"), parts.get("time"), *left)]
    if not fields:
        raise InputError(
            f"{sample.file} has no column beside '{label}' that can be a field; add those that a model is to read"
        )
    twins, said = _twins(table, fields), f"label: {guess_label(label, flat(table[label]))}"
    positive = _positive(said, flat(table[label]))
    remarks = {name: [log.remarks.get(name, ""), twins.get(name, "")] for name in fields}
    lines = [
        *_reading(log),
        said,
        *tasks(table, said, [name for name in names if name not in (label, *parts.values(), *left)]),
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
    return read_label(rule.label, column, sampled_row)


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
            column = text.numbers(column, schema.csv, schema.missing, sampled_row)
        arrays.append(column)
    batch, rows = pa.RecordBatch.from_arrays(arrays, columns), np.arange(len(table))
    read_keys(schema, batch, rows, sampled_row)
    Fitting(schema, config.max_vocabulary).add(batch, rows, sampled_row)
