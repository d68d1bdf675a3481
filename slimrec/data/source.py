"""Raw logs as a stream of record batches in bounded memory: Parquet, CSV or the planted generator; schemas checked first."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from slimrec.config import IngestConfig
from slimrec.data import files, planted
from slimrec.data.keys import check_key_types
from slimrec.data.storage import filesystem, list_files
from slimrec.data.values import check_type, family
from slimrec.errors import ConfigError, InputError, did_you_mean
from slimrec.schema import Schema
from slimrec.written import read_schema


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


class Part(BaseModel):
    """Files that one machine reads, and the number of their first row in the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[str, ...]
    start: int


class Source(ABC):
    """Files of one format in sorted order, or the pieces of the planted log; `columns` are all that is ever read.

    A part of a source has some of its `files`, one after the other, and rows numbered from `start` on.
    """

    def __init__(self, config: IngestConfig, schema: Schema, files: Iterable[str], start: int):
        self.schema, self.limit, self.batch_rows = schema, config.max_rows, config.batch_rows
        self.files, self.start = tuple(files), start
        self.columns = columns_of(schema)

    @abstractmethod
    def rows_of(self, file: str) -> int | None:
        """Rows of a file, if that is known before reading it."""

    @abstractmethod
    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before reading rows."""

    @abstractmethod
    def digest(self, file: str) -> str:
        """SHA-256 of a file's raw content."""

    @abstractmethod
    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        """Each file's name with its rows."""

    @property
    def total(self) -> int | None:
        """Rows that will be read, if that is known before reading."""
        counts = [self.rows_of(file) for file in self.files]
        if None in counts:
            return None
        return min(sum(counts), sum(counts) if self.limit is None else self.limit - self.start)

    def chunks(self, columns: list[str] | None = None) -> Iterator[Chunk]:
        """The rows in order, in pieces of `batch_rows` within each file."""
        start = self.start
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

    def shown(self, what: str, columns: list[str] | None = None) -> Iterator[Chunk]:
        """The chunks, with a bar over rows on a terminal and a line every ten seconds elsewhere."""
        terminal = sys.stderr.isatty()
        with tqdm(
            total=self.total,
            desc=f"ingest: {what}",
            unit=" rows",
            unit_scale=True,
            mininterval=0.2 if terminal else 10,
            delay=0 if terminal else 10,
        ) as bar:
            for chunk in self.chunks(columns):
                yield chunk
                bar.update(chunk.data.num_rows)


class Files(Source):
    """Parquet or CSV files of a path or an s3:// address."""

    def __init__(self, config: IngestConfig, schema: Schema, part: Part | None):
        if part:
            self.system, found = filesystem(config.source)[0], part.files
        else:
            self.system, found = list_files(config.source, files.PARQUET + files.TEXT)
        super().__init__(config, schema, found, part.start if part else 0)
        if len({files.is_parquet(name) for name in self.files}) > 1:
            raise InputError(f"{config.source} holds Parquet and CSV files; give a folder with one format")
        self._schemas: dict[str, pa.Schema] = {}
        self._rows: dict[str, int | None] = {}

    def rows_of(self, file: str) -> int | None:
        return self._rows.get(file)

    def check(self) -> None:
        families: dict[str, tuple[str, str]] = {}
        for name in self.files:
            found, rows = files.inspect(self.system, name, self.schema)
            if rows == 0:
                continue  # as Spark leaves them
            check_columns(self.schema, self.columns, found, name)
            self._schemas[name], self._rows[name] = found, rows
            for column in self.columns:
                here = family(found.field(column).type)
                other, there = families.setdefault(column, (name, here))
                if here != there and "nothing" not in (here, there):
                    raise InputError(
                        f"column '{column}' is {here} in {name} and {there} in {other}; write it with one type"
                    )
        if not self._schemas:
            raise InputError(
                f"{self.files[0]} has no rows{', nor has any other file' * (len(self.files) > 1)}; fill it"
            )
        self.files = tuple(self._schemas)

    def digest(self, file: str) -> str:
        return files.digest(self.system, file)

    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        for name in self.files:
            schema = pa.schema([self._schemas[name].field(column) for column in columns])
            yield name, files.read(self.system, name, schema, self.batch_rows, self.schema)


class Planted(Source):
    """The generated log of `planted:rows=...,seed=...`; its pieces stand for files."""

    def __init__(self, config: IngestConfig, schema: Schema, log: planted.Log, part: Part | None):
        self.log, self._starts = log, {f"{config.source}, from row {s + 1}": s for s in planted.starts(log)}
        super().__init__(config, schema, part.files if part else self._starts, part.start if part else 0)

    def rows_of(self, file: str) -> int:
        return min(self._starts[file] + planted.starts(self.log).step, self.log.rows) - self._starts[file]

    def check(self) -> None:
        check_columns(self.schema, self.columns, next(planted.batches(self.log)).schema, self.files[0])

    def digest(self, file: str) -> str:
        return hashlib.sha256(f"{self.log} {self._starts[file]}".encode()).hexdigest()

    def _stream(self, columns: list[str]) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        for file in self.files:
            yield file, (batch.select(columns) for batch in planted.batches(self.log, [self._starts[file]]))


def open_source(config: IngestConfig, part: Part | None = None) -> Source:
    """The source or a part of it, with its schema, checked as far as that goes without reading rows."""
    log = planted.parse_source(config.source) if config.source.startswith("planted:") else None
    if config.fields is None and log is None:
        raise ConfigError("IngestConfig needs 'fields': a schema YAML; `slimrec schema PATH` drafts one from the data")
    schema = planted.schema(log) if config.fields is None else read_schema(config.fields)
    source = Planted(config, schema, log, part) if log else Files(config, schema, part)
    source.check()
    return source


def columns_of(schema: Schema) -> list[str]:
    """Every column that the schema reads, each once."""
    names = {name for field in schema.fields for name in field.columns} | {label.column for label in schema.labels}
    return sorted(names | {name for name in (schema.weight, schema.time, schema.group) if name})


def check_columns(schema: Schema, needed: list[str], found: pa.Schema, file: str) -> None:
    """Raise InputError for a column that a file lacks, has twice, or has with a type that cannot serve."""
    files.check_names(found.names, file, schema.csv)
    for column in needed:
        if column not in found.names:
            looks = files.looks(found.names, file, schema.csv)
            raise InputError(f"{file} has no column '{column}'; {did_you_mean(column, found.names)}{looks}")
    for field in schema.fields:
        for column in field.columns:
            check_type(field, found.field(column).type, file, column)
    check_key_types(schema, found, file)


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
