"""Parquet and CSV files as record batches, on any file system: types and null rules decided here, damage named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, fs

from slimrec.data.storage import reading_error
from slimrec.errors import InputError

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_CSV_BLOCK = 4 << 20  # bytes parsed at once; no line may be longer
_BUFFER = 1 << 20  # bytes read at once from a local Parquet column


def inspect(system: fs.FileSystem, file: str) -> tuple[pa.Schema, int | None]:
    """Columns with their types (guessed from the first block of a CSV) and, for Parquet, the number of rows."""
    try:
        if not file.endswith(PARQUET):
            with system.open_input_stream(file) as stream:
                return csv.open_csv(stream, csv.ReadOptions(block_size=_CSV_BLOCK), _format(file)).schema, None
        with system.open_input_file(file) as stream:
            opened = pq.ParquetFile(stream)
            if not opened.metadata.num_rows:
                raise InputError(f"{file} has no rows; remove the file or fill it")
            return opened.schema_arrow, opened.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error


def read(system: fs.FileSystem, file: str, schema: pa.Schema, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The columns of `schema`, in that order; a CSV is read with its types.

    An empty cell of a CSV is missing, a quoted empty cell ("") is the empty text.
    """
    batches = _parquet(system, file, schema.names, batch_rows) if file.endswith(PARQUET) else _csv(system, file, schema)
    try:
        yield from batches
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error


def digest(system: fs.FileSystem, file: str) -> str:
    """SHA-256 over the bytes of a file."""
    total = hashlib.sha256()
    try:
        with system.open_input_stream(file, compression=None) as stream:
            while piece := stream.read(_BUFFER):
                total.update(piece)
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error
    return total.hexdigest()


def _parquet(system: fs.FileSystem, file: str, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    local = isinstance(system, fs.LocalFileSystem)
    with system.open_input_file(file) as stream:
        opened = pq.ParquetFile(
            stream, buffer_size=_BUFFER if local else 0, pre_buffer=not local, page_checksum_verification=True
        )
        for batch in opened.iter_batches(batch_rows, columns=columns):
            yield batch.select(columns)


def _csv(system: fs.FileSystem, file: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    convert = csv.ConvertOptions(
        include_columns=schema.names,
        column_types=schema,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with system.open_input_stream(file) as stream:
        yield from csv.open_csv(stream, csv.ReadOptions(block_size=_CSV_BLOCK), _format(file), convert)


def _format(file: str) -> csv.ParseOptions:
    tabs = file.removesuffix(".gz").endswith(".tsv")
    return csv.ParseOptions(delimiter="\t" if tabs else ",", newlines_in_values=True)
