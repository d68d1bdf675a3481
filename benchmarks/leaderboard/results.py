"""The results of the leaderboard: one small Parquet file, a row a log, method, seed and share, written whole after each cell."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slimrec.errors import InputError

FILE = Path(__file__).with_name("results.parquet")
KEY = ("log", "method", "seed", "settings")  # of a cell
SCHEMA = pa.schema(
    {
        "log": pa.string(),
        "method": pa.string(),
        "seed": pa.int64(),
        "settings": pa.string(),  # digest of network, training, split and shares: rows of others are not compared
        "fields_before": pa.int64(),
        "refused": pa.string(),  # why the method could not search; then nothing follows
        "share": pa.float64(),  # of the fields that may stay
        "kept": pa.list_(pa.string()),
        "columns": pa.int64(),
        "bytes": pa.int64(),  # of the network retrained, tables and weights
        "auc": pa.float64(),  # of that network, on test
        "trees_auc": pa.float64(),  # of LightGBM retrained on the same fields
        "own": pa.float64(),  # share of the kept fields that the method's scores alone would have kept
        "search_seconds": pa.float64(),  # of processor time
        "retrain_seconds": pa.float64(),
    }
)


def read(file: Path) -> list[dict]:
    """All rows; none where there is no file yet. InputError for a file of another shape."""
    if not file.exists():
        return []
    table = pq.read_table(file)
    if table.schema.names != SCHEMA.names:
        raise InputError(f"{file} has the columns {table.schema.names}, {SCHEMA.names} are needed: move it away")
    return table.to_pylist()


def key(row: dict) -> tuple:
    return tuple(row[name] for name in KEY)


def add(file: Path, rows: Iterable[dict]) -> None:
    """Put the rows of cells in the place of what is known of these cells, in order, at once or not at all."""
    rows = list(rows)
    news = {key(row) for row in rows}
    every = [row for row in read(file) if key(row) not in news] + rows
    _write(file, every)


def forget(file: Path, logs: Iterable[str], methods: Iterable[str]) -> None:
    """Take the rows of these methods on these logs out, as after a change of a method."""
    gone = {(log, method) for log in logs for method in methods}
    _write(file, [row for row in read(file) if (row["log"], row["method"]) not in gone])


def _write(file: Path, every: list[dict]) -> None:
    every.sort(key=lambda row: (*key(row), row.get("share") or 0.0))
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.partial")
    pq.write_table(pa.Table.from_pylist(every, SCHEMA), scratch, compression="zstd")
    scratch.replace(file)
