"""Files of a log as record batches, on any file system: Parquet, or CSV as `text` reads it, with what their folders say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs, types

from slimrec.data import text
from slimrec.data.storage import check_content, of_path, reading_error
from slimrec.data.values import csv_schema
from slimrec.errors import InputError
from slimrec.schema import CsvFormat, Schema, repeated

PARQUET = (".parquet", ".pq", ".parq")
TEXT = text.ENDINGS
_USUAL = CsvFormat()
_BUFFER = 1 << 20  # bytes read at once from a local Parquet column


def is_parquet(file: str) -> bool:
    """Whether a file is read as Parquet, else as CSV."""
    return file.lower().endswith(PARQUET)


def inspect(system: fs.FileSystem, file: str, schema: Schema | CsvFormat = _USUAL) -> tuple[pa.Schema, int | None]:
    """Columns with their types, and the number of rows; of a CSV 0 or None.

    Cells of a CSV, and names of folders (`day=2026-01-01/`, columns too), get the types that the schema needs; they are
    text where only the format of a CSV is given.
    """
    try:
        if is_parquet(file):
            stored, rows = _footer(system, file)
        else:
            names, full = text.inspect(system, file, _format(schema))
            stored, rows = _typed(schema, names), None if full else 0
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error
    known = {field.name for field in stored}
    return pa.schema([*stored, *_typed(schema, [name for name in of_path(file) if name not in known])]), rows


def check_names(names: list[str], file: str, form: CsvFormat) -> None:
    """Raise InputError for a column that a file has twice."""
    if twice := sorted(repeated(names)):
        remedy = looks(names, file, form) or "; give every column a name of its own"
        raise InputError(f"{file} has the column '{twice[0]}' twice{remedy}")


def looks(names: list[str], file: str, form: CsvFormat) -> str:
    """What its columns tell of a CSV that is not as it was said to be, as the tail of a sentence."""
    return "" if is_parquet(file) else text.hint(names, form)


def _footer(system: fs.FileSystem, file: str) -> tuple[list[pa.Field], int]:
    try:
        with system.open_input_file(file) as stream:
            opened = pq.ParquetFile(stream)
            return [field.with_type(_plain(field.type)) for field in opened.schema_arrow], opened.metadata.num_rows
    except pa.ArrowException:
        check_content(system, file, ".parquet")
        raise


def read(
    system: fs.FileSystem, file: str, columns: pa.Schema, batch_rows: int, schema: Schema | CsvFormat = _USUAL
) -> Iterator[pa.RecordBatch]:
    """The `columns`, as `inspect` gives them with the same schema, in that order."""
    folders = of_path(file)
    try:
        names = _stored(system, file, schema) if folders else columns.names
        stored = pa.schema([field for field in columns if field.name in names])
        if not len(stored):  # but it has rows, which one column tells
            stored = pa.schema([pa.field(names[0], pa.string())])
        if is_parquet(file):
            batches = _parquet(system, file, stored.names, batch_rows)
        else:
            batches = text.read(system, file, stored, _format(schema), getattr(schema, "missing", ()))
        for batch in batches:
            yield batch if batch.schema.names == columns.names else _with_folders(batch, columns, folders, file)
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
            batch = batch.select(columns)
            plain = pa.schema([field.with_type(_plain(field.type)) for field in batch.schema])
            yield batch if batch.schema.equals(plain) else batch.cast(plain)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type itself; of a view of texts or bytes, which rows cannot be taken of, the one that can."""
    if types.is_list(kind):
        return pa.list_(_plain(kind.value_type)) if kind.value_type != _plain(kind.value_type) else kind
    return (
        pa.large_string() if types.is_string_view(kind) else pa.large_binary() if types.is_binary_view(kind) else kind
    )


def _format(schema: Schema | CsvFormat) -> CsvFormat:
    return schema.csv if isinstance(schema, Schema) else schema


def _typed(schema: Schema | CsvFormat, names: list[str]) -> list[pa.Field]:
    found = pa.schema([pa.field(name, pa.string()) for name in names])
    return list(csv_schema(schema, found) if isinstance(schema, Schema) else found)


def _stored(system: fs.FileSystem, file: str, schema: Schema | CsvFormat) -> list[str]:
    if not is_parquet(file):
        return text.inspect(system, file, _format(schema))[0]
    with system.open_input_file(file) as stream:
        return pq.read_schema(stream).names


def _with_folders(
    batch: pa.RecordBatch, columns: pa.Schema, folders: dict[str, str | None], file: str
) -> pa.RecordBatch:
    """The batch with what the names of folders say, in the order of `columns`."""

    def array(field: pa.Field) -> pa.Array:
        if field.name in batch.schema.names:
            return batch.column(field.name)
        try:
            return pa.repeat(pa.scalar(folders[field.name], pa.string()).cast(field.type), batch.num_rows)
        except pa.ArrowInvalid:
            raise InputError(
                f"{file}: the folder's name says '{field.name}={folders[field.name]}', and a number is needed"
            ) from None

    return pa.RecordBatch.from_arrays([array(field) for field in columns], names=columns.names)
