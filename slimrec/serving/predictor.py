"""Serving: raw rows -> probabilities from a slim model folder, on the CPU, through the encoding that training used."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from slimrec.data import files
from slimrec.data.encode import Encoder
from slimrec.data.novelty import Novelty
from slimrec.data.storage import list_files
from slimrec.data.values import Where, csv_schema
from slimrec.errors import InputError
from slimrec.metrics import probability
from slimrec.model import Model
from slimrec.model.files import load_model
from slimrec.serving.output import Output

ROWS_AT_ONCE = 16_384


def request_row(position: int) -> str:
    """What errors call a row that came in memory."""
    return f"row {position + 1}"


class Predictor:
    """A loaded slim model. Columns it does not need are ignored and counted; one that it lacks is an error."""

    def __init__(self, model: Model, encoder: Encoder):
        self.model, self.encoder = model.eval(), encoder
        self.columns = tuple(dict.fromkeys(name for field in model.schema.fields for name in field.columns))
        self.ignored: Counter[str] = Counter()  # column -> rows that brought it for nothing
        self.novelty = Novelty()  # values that training did not see, over all rows scored so far

    @classmethod
    def load(cls, folder: str | Path) -> Predictor:
        """From an artifact folder, verified against its manifest."""
        return cls(load_model(folder), Encoder.load(Path(folder)))

    def predict(self, rows: pa.Table | pd.DataFrame, where: Where = request_row) -> np.ndarray:
        """Probabilities (n,) float64 of raw rows; `where` names a row by its position in errors.

        Raises InputError when a needed column is missing or holds what training would have refused.
        """
        return probability(self.logits(rows, where))

    def logits(self, rows: pa.Table | pd.DataFrame, where: Where = request_row) -> np.ndarray:
        """Logits (n,) float64 of raw rows."""
        table = self._needed(rows)
        starts = range(0, len(table), ROWS_AT_ONCE)
        parts = [self._score(table.slice(start, ROWS_AT_ONCE), lambda i, s=start: where(s + i)) for start in starts]
        return np.concatenate(parts) if parts else np.empty(0)

    def told(self, rows: int) -> list[str]:
        """What was new to the model in `rows` rows scored, in lines for a person; a warning where it is far more than usual."""
        shares = self.novelty.shares()
        some = ", ".join(f"{name} {share:.2%}" for name, share in shares.items() if share)
        told = f"scored {rows:,} rows; values new to the model: {some or 'none'}"
        return [told, *(f"mind: {sentence}" for sentence in self.novelty.far(self.encoder.schema).values())]

    def check(self, names: list[str]) -> None:
        """Refuse rows whose columns `names` lack what the model needs, or have it twice."""
        missing = [column for column in self.columns if column not in names]
        if missing:
            raise InputError(f"the rows lack {_quoted(missing)}; the model needs {_quoted(self.columns)}")
        twice = [column for column in self.columns if names.count(column) > 1]
        if twice:
            raise InputError(f"the rows have {_quoted(twice)} more than once; send each column once")

    def _needed(self, rows: pa.Table | pd.DataFrame) -> pa.Table:
        names = [str(name) for name in (rows.column_names if isinstance(rows, pa.Table) else rows.columns)]
        self.check(names)
        self.ignored.update({name: len(rows) for name in names if name not in self.columns})
        if isinstance(rows, pa.Table):
            return rows.select(list(self.columns))
        frame = rows.set_axis(names, axis="columns")[list(self.columns)]
        try:
            return pa.Table.from_pandas(frame, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise InputError(f"a column mixes types: {error}; send values of one type") from None
        except OverflowError as error:
            raise InputError(f"a column holds a number beyond 64 bits: {error}; send such numbers as strings") from None

    def _score(self, part: pa.Table, where: Where) -> np.ndarray:
        ids, dense = self.encoder.encode(part, where, self.novelty)
        with torch.inference_mode():
            return self.model(torch.from_numpy(ids), torch.from_numpy(dense)).double().numpy()


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


def predict_file(folder: str | Path, path: str | Path, output: str | Path | None = None) -> Novelty:
    """Score a Parquet or CSV file (or a folder or s3:// address of them) piece by piece into `output` (see there).

    Without `output` the probabilities go to the screen, one a line. What was new to the model is returned, and told on
    stderr. Raises InputError where rows were lost on the way.
    """
    target = None if output is None else Output(output)
    predictor = Predictor.load(folder)
    pieces = _predictions(predictor, str(path))
    if target is not None:
        rows = target.write(pieces)
    else:
        rows = 0
        for piece in pieces:
            print("\n".join(f"{value:.9g}" for value in piece))
            rows += len(piece)
    for line in predictor.told(rows):
        print(line, file=sys.stderr)
    return predictor.novelty


def _predictions(predictor: Predictor, path: str) -> Iterator[np.ndarray]:
    """Read as ingest reads, so that a CSV cell means to the model what it meant in training."""
    system, names = list_files(path, files.PARQUET + files.TEXT)
    for name in names:
        found, rows = files.inspect(system, name)
        predictor.check(found.names)
        typed = csv_schema(predictor.model.schema, found) if rows is None else found
        types = {column: typed.field(column).type for column in predictor.columns}
        start = 0
        for batch in files.read(system, name, pa.schema(list(types.items())), ROWS_AT_ONCE):
            yield predictor.predict(pa.Table.from_batches([batch]), lambda i, n=name, s=start: f"{n}, row {s + i + 1}")
            start += len(batch)
        if rows is not None and start != rows:
            raise InputError(f"{name} says that it has {rows} rows, and gave {start}; write it again")


def _quoted(names: Sequence[str]) -> str:
    """At most eight names, and how many more there are."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"'{name}'" for name in names[:8]) + more
