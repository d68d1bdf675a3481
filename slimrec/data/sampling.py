"""Rows from across a whole log, to judge it by: every n-th, so that a sorted log is not judged by its beginning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import fs

from slimrec.data import files
from slimrec.data.values import family, flat
from slimrec.errors import InputError
from slimrec.schema import CsvFormat

_FILES = 30  # looked at, evenly spaced, the first and the last among them


class Sample(NamedTuple):
    """Sampled rows; `seen` is how many they stand for, in how many of how many files, and `file` names the first one."""

    table: pa.Table
    seen: int
    looked_at: int
    files: int
    file: str


def take(system: fs.FileSystem, names: list[str], form: CsvFormat, rows: int) -> Sample:
    """About `rows` rows, at most twice as many; cells of a CSV are text. InputError where there are none."""
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, _FILES).astype(int))]
    thin, first, kinds = _Thinned(rows), "", {}
    for name in [*chosen, *(name for name in names if name not in set(chosen))]:
        if first and name not in chosen:
            break  # others are looked at only where the chosen ones are empty
        schema, count = files.inspect(system, name, form)
        files.check_names(schema.names, name, form)
        if count == 0:
            continue
        _check_alike(schema, name, kinds, form)
        for batch in files.read(system, name, schema, 10_000, form):
            thin.add(batch)
        first = first or name
    if not first:
        raise InputError(f"{names[0]} has no rows{', nor has any other file' * (len(names) > 1)}; fill it")
    return Sample(thin.table(), thin.seen, len(chosen), len(names), first)


def _check_alike(schema: pa.Schema, name: str, kinds: dict[str, tuple[str, str]], form: CsvFormat) -> None:
    if kinds and set(schema.names) != set(kinds):
        odd = min(set(schema.names) ^ set(kinds))
        there, lacks = (name, kinds) if odd in schema.names else (next(iter(kinds.values()))[1], schema.names)
        other = next(iter(kinds.values()))[1] if lacks is kinds else name
        remedy = "; the files of one log have the same columns, name the one file or folder that is meant"
        remedy = files.looks(schema.names, name, form).replace("its first line", f"the first line of {name}") or remedy
        raise InputError(f"column '{odd}' stands in {there} and not in {other}{remedy}")
    for field in schema:
        here = family(field.type)
        kind, file = kinds.setdefault(field.name, (here, name))
        if kind == "nothing":
            kinds[field.name] = (here, name)
        elif here not in (kind, "nothing"):
            raise InputError(f"column '{field.name}' is {here} in {name} and {kind} in {file}; write it with one type")


class _Thinned:
    """Every `step`-th of the rows that came, in plain types, the step doubling whenever too many are held."""

    def __init__(self, rows: int):
        self.rows, self.step, self.seen, self._held = rows, 1, 0, []

    def add(self, batch: pa.RecordBatch) -> None:
        places = np.arange(-self.seen % self.step, batch.num_rows, self.step)
        plain = pa.table([flat(column) for column in batch.columns], batch.schema.names)
        self._held.append(plain.take(places) if self.step > 1 else plain)
        self.seen += batch.num_rows
        while sum(len(table) for table in self._held) > 2 * self.rows:
            whole = self.table()
            self._held, self.step = [whole.take(np.arange(0, len(whole), 2))], 2 * self.step

    def table(self) -> pa.Table:
        return pa.concat_tables(self._held, promote_options="permissive").combine_chunks()


def sampled_row(position: int) -> str:
    """What a row of a sample is called in a message."""
    return f"sampled row {position + 1}"
