"""Serving: raw rows -> probabilities from a slim model folder, on the CPU, through the encoding that training used."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pyarrow import fs

from slimrec.artifacts.spare import spare
from slimrec.data import files
from slimrec.data.encode import Encoder
from slimrec.data.novelty import Novelty
from slimrec.data.storage import list_files, of_path
from slimrec.data.values import Where
from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.metrics import probability
from slimrec.model import Model
from slimrec.model.files import load_model
from slimrec.schema import Schema, repeated
from slimrec.serving.output import SCORE, Output

ROWS_AT_ONCE = 16_384


def request_row(position: int) -> str:
    """What errors call a row that came in memory."""
    return f"row {position + 1}"


class Predictor:
    """A loaded slim model. Columns it does not need are ignored and counted; one that it lacks is an error."""

    def __init__(self, model: Model, encoder: Encoder):
        self.model, self.encoder = model.eval(), encoder
        self.columns = tuple(dict.fromkeys(name for field in model.schema.fields for name in field.columns))
        self.scores = score_columns(model.schema)
        self.ignored: Counter[str] = Counter()  # column -> rows that brought it for nothing
        self.novelty = Novelty()  # values that training did not see, over all rows scored so far

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """From an artifact folder, verified against its manifest."""
        return cls(load_model(folder), Encoder.load(Path(folder)))

    def predict(self, rows: pa.Table | pd.DataFrame, where: Where = request_row) -> np.ndarray:
        """Probabilities float64 of raw rows, (n,), or (n, T) of T tasks; `where` names a row by its position in errors.

        Raises InputError when a needed column is missing or holds what training would have refused.
        """
        return probability(self.logits(rows, where))

    def logits(self, rows: pa.Table | pd.DataFrame, where: Where = request_row) -> np.ndarray:
        """Logits float64 of raw rows, (n,) or (n, T)."""
        table = self._needed(rows)
        starts = range(0, len(table), ROWS_AT_ONCE)
        parts = [self._score(table.slice(start, ROWS_AT_ONCE), lambda i, s=start: where(s + i)) for start in starts]
        tasks = self.model.schema.tasks
        return np.concatenate(parts) if parts else np.empty((0, len(tasks)) if tasks else 0)

    def told(self, rows: int) -> list[str]:
        """What was new to the model in `rows` rows scored, in lines for a person; a warning where it is far more than usual."""
        shares = self.novelty.shares()
        some = ", ".join(f"{name} {share:.2%}" for name, share in shares.items() if share)
        told = f"scored {rows:,} rows; values new to the model: {some or 'none'}"
        return [told, *(f"mind: {sentence}" for sentence in self.novelty.far(self.encoder.schema).values())]

    def check(self, names: list[str], what: str = "the rows", looks: str = "") -> None:
        """Refuse rows whose columns `names` lack what the model needs, or have it twice; `looks` ends the sentence."""
        missing = [column for column in self.columns if column not in names]
        if missing:
            raise InputError(f"{what} lack {_quoted(missing)}; the model needs {_quoted(self.columns)}{looks}")
        if twice := [column for column in repeated(names) if column in self.columns]:
            raise InputError(f"{what} have {_quoted(twice)} more than once; send each column once{looks}")

    def _needed(self, rows: pa.Table | pd.DataFrame) -> pa.Table:
        if not isinstance(rows, pd.DataFrame):
            table = _table(rows)
            self._look_at(table.column_names, len(table))
            return table.select(list(self.columns))
        names = [str(name) for name in rows.columns]
        self._look_at(names, len(rows))
        frame = rows.set_axis(names, axis="columns")
        return pa.table({name: _array(name, frame[name]) for name in self.columns})

    def _look_at(self, names: list[str], rows: int) -> None:
        self.check(names)
        self.ignored.update({name: rows for name in names if name not in self.columns})

    def _score(self, part: pa.Table, where: Where) -> np.ndarray:
        ids, dense = self.encoder.encode(part, where, self.novelty)
        with torch.inference_mode():
            return self.model(torch.from_numpy(ids), torch.from_numpy(dense)).double().numpy()


def _table(rows: Any) -> pa.Table:
    """Rows in any form that Arrow can take over without looking at them one by one."""
    if isinstance(rows, pa.Table):
        return rows
    if hasattr(rows, "__arrow_c_stream__") or hasattr(rows, "__arrow_c_array__"):
        with suppress(pa.ArrowException):  # as of one column, which is no table
            return pa.table(rows)
    raise InputError(
        f"rows come as a pandas DataFrame or an Arrow table, got {type(rows).__name__}; pandas.DataFrame(rows) makes one "
        "of a list of dicts"
    )


def _array(name: str, column: pd.Series) -> pa.Array | pa.ChunkedArray:
    try:
        return pa.Array.from_pandas(column)
    except OverflowError as error:
        raise InputError(
            f"column '{name}' holds a number beyond 64 bits: {error}; send such numbers as strings"
        ) from None
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"column '{name}' mixes types, or holds none that we read: {error}; send values of one type"
        ) from None


def score_columns(schema: Schema) -> tuple[str, ...]:
    """What the probabilities of a model are called, one a label."""
    return tuple(f"{SCORE}_{task.name}" for task in schema.tasks) or (SCORE,)


def example_rows(encoder: Encoder, count: int = 3) -> pd.DataFrame:
    """Raw rows that the encoder accepts: known categories where it has a vocabulary, means for numbers."""
    rows = {}
    for field in encoder.schema.fields:
        known = list(encoder.vocabularies.get(field.name, ())) or [""]
        mean = field.statistics.mean or (0.0,) * (field.width or 1)
        if field.kind == "bag":
            values = [known[i % len(known)] for i in range(2)]
            rows[field.column] = [field.separator.join(values) if field.separator else values] * count
        elif field.cross:
            pairs = [json.loads(known[i % len(known)] or '["", ""]') for i in range(count)]
            rows |= {
                column: [float(pair[at] or 0) if column in field.discretised else pair[at] for pair in pairs]
                for at, column in enumerate(field.cross)
                if column not in rows
            }
        elif field.kind == "category":
            rows[field.column] = [known[i % len(known)] for i in range(count)]
        else:
            rows[field.column] = [list(mean) if field.kind == "vector" else float(mean[0])] * count
    return pd.DataFrame(rows)


def predict_file(
    folder: str | Path, path: str | Path, output: str | Path | None = None, keys: Sequence[str] = ()
) -> Novelty:
    """Score a Parquet or CSV file (or a folder or s3:// address of them) piece by piece into `output` (see there).

    Its columns are `keys`, columns of the file that say whose row it is, and `probability`, or of several tasks
    `probability_` and the name of each. Without `output` they go to
    the screen, as CSV, or without keys one probability a line. What was new to the model is returned, and told on
    stderr. Raises InputError where a key is missing, or rows were lost on the way.
    """
    target = None if output is None else Output(output)
    if target is not None and target.plain:
        spare(str(path), target.target, files.PARQUET + files.TEXT)
    if target is None and sys.stdout is None:
        raise ConfigError("standard output is closed, and the scores have nowhere to go; give --output FILE")
    predictor = Predictor.load(folder)
    schema, pieces = _scored(predictor, str(path), tuple(dict.fromkeys(keys)))
    if target is not None:
        rows = target.write(pieces, schema)
    else:
        rows = _show(pieces, schema, len(predictor.scores))
    for line in predictor.told(rows):
        print(line, file=sys.stderr)
    return predictor.novelty


def _show(pieces: Iterator[pa.Table], schema: pa.Schema, scores: int) -> int:
    """Print the pieces, whose last columns are so many scores; returns how many rows."""
    rows, lines = 0, csv.writer(sys.stdout, lineterminator="\n")
    if len(schema) > 1:
        lines.writerow(schema.names)
    for piece in pieces:
        columns = [piece[name].to_pylist() for name in schema.names]
        for i in range(len(schema) - scores, len(schema)):
            columns[i] = [f"{value:.9g}" for value in columns[i]]
        lines.writerows(zip(*columns))
        rows += piece.num_rows
    return rows


def _scored(predictor: Predictor, path: str, keys: tuple[str, ...]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """What the scores of a log look like, and the scores, a piece at a time.

    Files are read as ingest reads them, so that a CSV cell means to the model what it meant in training.
    """
    for name in predictor.scores:
        if name in keys:
            raise ConfigError(f"a key cannot be called '{name}', as the scores are; rename the column")
    system, names = list_files(path, files.PARQUET + files.TEXT)
    schema = predictor.encoder.schema
    there: dict[str, tuple[pa.Schema, int | None]] = {}
    types: dict[str, pa.DataType] = {}
    for name in names:
        found, rows = files.inspect(system, name, schema)
        if rows == 0:
            continue
        predictor.check(found.names, f"the rows of {name}", files.looks(found.names, name, schema.csv))
        for key in keys:
            if found.names.count(key) != 1:
                raise InputError(f"{name} has no one column '{key}' to take as a key; {did_you_mean(key, found.names)}")
            kind = found.field(key).type
            if key not in predictor.columns and (rows is None or key in of_path(name)):
                kind = pa.string()  # what the model does not read of a CSV stays the text that it is
                found = found.set(found.get_field_index(key), pa.field(key, kind))
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if types.setdefault(key, kind) != kind:
                raise InputError(
                    f"the key '{key}' is {kind} in {name} and {types[key]} in {next(iter(there))}; write it with one type"
                )
        there[name] = found, rows
    if not there:
        raise InputError(f"{path} has no rows; fill it")
    return pa.schema([*types.items(), *_scores(predictor)]), _pieces(predictor, system, there, types)


def _scores(predictor: Predictor) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.float64()) for name in predictor.scores]


def _pieces(
    predictor: Predictor,
    system: fs.FileSystem,
    there: dict[str, tuple[pa.Schema, int | None]],
    keys: dict[str, pa.DataType],
) -> Iterator[pa.Table]:
    needed = list(dict.fromkeys([*predictor.columns, *keys]))
    schema = pa.schema([*keys.items(), *_scores(predictor)])
    for name, (found, rows) in there.items():
        columns = pa.schema([found.field(column) for column in needed])
        start = 0
        for batch in files.read(system, name, columns, ROWS_AT_ONCE, predictor.encoder.schema):
            table = pa.Table.from_batches([batch])
            asked = table.select(list(predictor.columns))
            scores = predictor.predict(asked, lambda i, n=name, s=start: f"{n}, row {s + i + 1}")
            found = scores.reshape(len(scores), len(predictor.scores)).T
            yield pa.Table.from_arrays([*(table[key].cast(kind) for key, kind in keys.items()), *found], schema=schema)
            start += len(batch)
        if rows is not None and start != rows:
            raise InputError(f"{name} says that it has {rows} rows, and gave {start}; write it again")


def _quoted(names: Sequence[str]) -> str:
    """At most eight names, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"'{name}'" for name in names[:8]) + more
