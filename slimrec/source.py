"""Raw logs as a stream of record batches in bounded memory: Parquet, CSV or the planted generator; schemas checked first."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv, fs

from slimrec import planted
from slimrec.config import IngestConfig, read_schema
from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.keys import check_key_types
from slimrec.schema import Schema
from slimrec.storage import list_files, reading_error
from slimrec.values import check_type, family

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_CSV_BLOCK = 4 << 20  # bytes parsed at once; no line may be longer


class Chunk(NamedTuple):
    """A stretch of one file: `first` counts its rows within the file, `start` within the whole source."""

    data: pa.RecordBatch
    file: str
    first: int
    start: int

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the rows in the source, int64 (n,)."""
        return np.arange(self.start, self.start + self.data.num_rows)

    def where(self, position: int) -> str:
        """What to call a row in an error; rows of a file count from 1."""
        return f"{self.file}, row {self.first + position + 1}"


class Source(ABC):
    """Files of one format in sorted order, or the planted log; `columns` are all that is ever read."""

    def __init__(self, config: IngestConfig, schema: Schema):
        self.schema, self.limit, self.batch_rows = schema, config.max_rows, config.batch_rows
        self.columns = columns_of(schema)

    @property
    @abstractmethod
    def total(self) -> int | None:
        """Rows there are, if that is known before reading."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before reading rows."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the raw content."""

    @abstractmethod
    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        """Each file's name with its rows."""

    def chunks(self, columns: list[str] | None = None) -> Iterator[Chunk]:
        """The rows in order, in pieces of `batch_rows` within each file; a file without rows is an InputError."""
        start = 0
        for file, batches in self._stream(columns or self.columns):
            first = 0
            for batch in _evenly(batches, self.batch_rows):
                if self.limit is not None and start + batch.num_rows > self.limit:
                    batch = batch.slice(0, self.limit - start)
                if batch.num_rows:
                    yield Chunk(batch, file, first, start)
                first, start = first + batch.num_rows, start + batch.num_rows
                if start == self.limit:
                    return
            if first == 0:
                raise InputError(f"{file} has no rows; remove the file or fill it")


class Files(Source):
    """Parquet or CSV files of a path or an s3:// address."""

    def __init__(self, config: IngestConfig, schema: Schema):
        super().__init__(config, schema)
        self.system, self.files = list_files(config.source, PARQUET + TEXT)
        formats = {file.endswith(PARQUET) for file in self.files}
        if len(formats) > 1:
            raise InputError(f"{config.source} holds Parquet and CSV files; give a folder with one format")
        self.parquet = formats.pop()
        self._total = 0

    @property
    def total(self) -> int | None:
        return min(self._total, self.limit or self._total) if self.parquet else None

    def check(self) -> None:
        families: dict[str, tuple[str, str]] = {}
        for file in self.files:
            try:
                schema = self._parquet_schema(file) if self.parquet else self._csv_schema(file)
            except (OSError, pa.ArrowException) as error:
                raise reading_error(file, error) from error
            check_columns(self.schema, self.columns, schema, file)
            for column in self.columns:
                here = family(schema.field(column).type)
                other, there = families.setdefault(column, (file, here))
                if here != there and "nothing" not in (here, there):
                    raise InputError(
                        f"column '{column}' is {here} in {file} and {there} in {other}; write it with one type"
                    )

    def _parquet_schema(self, file: str) -> pa.Schema:
        with self.system.open_input_file(file) as stream:
            opened = pq.ParquetFile(stream)
            if opened.metadata.num_rows == 0:
                raise InputError(f"{file} has no rows; remove the file or fill it")
            self._total += opened.metadata.num_rows
            return opened.schema_arrow

    def _csv_schema(self, file: str) -> pa.Schema:
        with self.system.open_input_stream(file) as stream:
            found = csv.open_csv(stream, csv.ReadOptions(block_size=_CSV_BLOCK), _csv_format(file)).schema
        types = self._csv_types(found)
        return pa.schema([pa.field(field.name, types.get(field.name, field.type)) for field in found])

    def _csv_types(self, found: pa.Schema) -> dict[str, pa.DataType]:
        """What each column must be read as; the type of a time column is left to its first block."""
        numeric = {field.column for field in self.schema.fields if field.kind == "number"}
        numeric |= {self.schema.label.column, self.schema.weight}
        guessed = {self.schema.time} - numeric
        return {
            column: pa.float64() if column in numeric else pa.string()
            for column in self.columns
            if column not in guessed
        } | {name: found.field(name).type for name in guessed if name and found.get_field_index(name) >= 0}

    def fingerprint(self) -> str:
        total = hashlib.sha256()
        for file in self.files:
            with self.system.open_input_stream(file, compression=None) as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        for file in self.files:
            batches = self._read_parquet(file, columns) if self.parquet else self._read_csv(file, columns)
            yield file, _translated(file, batches)

    def _read_parquet(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        local = isinstance(self.system, fs.LocalFileSystem)
        with self.system.open_input_file(file) as stream:
            opened = pq.ParquetFile(
                stream, buffer_size=0 if not local else 1 << 20, pre_buffer=not local, page_checksum_verification=True
            )
            for batch in opened.iter_batches(self.batch_rows, columns=columns):
                yield batch.select(columns)

    def _read_csv(self, file: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self.system.open_input_stream(file) as stream:
            found = csv.open_csv(stream, csv.ReadOptions(block_size=_CSV_BLOCK), _csv_format(file)).schema
        convert = csv.ConvertOptions(
            include_columns=columns,
            column_types={name: kind for name, kind in self._csv_types(found).items() if name in columns},
            null_values=[""],  # an empty cell is missing, a quoted empty cell the empty text
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        with self.system.open_input_stream(file) as stream:
            yield from csv.open_csv(stream, csv.ReadOptions(block_size=_CSV_BLOCK), _csv_format(file), convert)


class Planted(Source):
    """The generated log of `planted:rows=...,seed=...`."""

    def __init__(self, config: IngestConfig, schema: Schema, log: planted.Log):
        super().__init__(config, schema)
        self.name, self.log = config.source, log

    @property
    def total(self) -> int:
        return min(self.log.rows, self.limit or self.log.rows)

    def check(self) -> None:
        check_columns(self.schema, self.columns, next(planted.batches(self.log)).schema, self.name)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self.log).encode()).hexdigest()

    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        yield self.name, (batch.select(columns) for batch in planted.batches(self.log))


def open_source(config: IngestConfig) -> tuple[Source, Schema]:
    """The source with its schema, checked as far as that goes without reading rows."""
    log = planted.parse_source(config.source) if config.source.startswith("planted:") else None
    if config.fields is None and log is None:
        raise ConfigError("IngestConfig needs 'fields': a schema YAML; `slimrec schema PATH` drafts one from the data")
    schema = planted.schema(log) if config.fields is None else read_schema(config.fields)
    source = Planted(config, schema, log) if log else Files(config, schema)
    source.check()
    return source, schema


def columns_of(schema: Schema) -> list[str]:
    """Every column that the schema reads, each once."""
    names = {field.column for field in schema.fields} | {schema.label.column}
    return sorted(names | {name for name in (schema.weight, schema.time, schema.group) if name})


def check_columns(schema: Schema, needed: list[str], found: pa.Schema, file: str) -> None:
    """Raise InputError for a column that a file lacks, has twice, or has with a type that cannot serve."""
    twice = sorted({name for name in found.names if found.names.count(name) > 1})
    if twice:
        raise InputError(f"{file} has the column '{twice[0]}' twice; give every column a name of its own")
    for column in needed:
        if column not in found.names:
            raise InputError(f"{file} has no column '{column}'; {did_you_mean(column, found.names)}")
    for field in schema.fields:
        check_type(field, found.field(field.column).type, file)
    check_key_types(schema, found, file)


def _csv_format(file: str) -> csv.ParseOptions:
    delimiter = "\t" if ".tsv" in file[-7:] else ","
    return csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _translated(file: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches; a failure to read becomes an error that names the file."""
    try:
        yield from batches
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error


def _evenly(batches: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `size`, the last one smaller."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= size:
            joined = pa.concat_batches(held) if len(held) > 1 else held[0]
            yield joined.slice(0, size)
            held, count = [joined.slice(size)], count - size
    if count:
        yield pa.concat_batches(held)
