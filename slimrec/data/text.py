"""CSV and TSV files as record batches: separators, quotes and encodings as the schema says, and no line lost in silence.

An empty cell is missing, a quoted empty cell ("") is the empty text; of a number both are missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, fs

from slimrec.data.storage import check_content
from slimrec.errors import InputError
from slimrec.schema import CsvFormat

ENDINGS = (".csv", ".tsv", ".tab", ".csv.gz", ".tsv.gz", ".tab.gz")
_BLOCK = 4 << 20  # bytes parsed at once; no line may be longer
_FIRST_BLOCK = 1 << 16  # bytes looked at for the header
_SEPARATORS = ",;\t|"


class Malformed(InputError):
    """Lines that do not come apart as they should: the separator or the quote may be another one."""


class _Lines:
    """A stream that counts the lines passing through it."""

    closed = False

    def __init__(self, stream: pa.NativeFile):
        self._stream, self.ends, self._last = stream, 0, b"\n"

    def read(self, size: int = -1) -> bytes:
        piece = self._stream.read(size)
        self.ends += piece.count(b"\n")
        self._last = piece[-1:] or self._last
        return piece

    def close(self) -> None:
        self.closed = True
        self._stream.close()

    @property
    def count(self) -> int:
        """Lines so far, one without an end included."""
        return self.ends + (self._last != b"\n")


def inspect(system: fs.FileSystem, file: str, form: CsvFormat) -> tuple[list[str], bool]:
    """The names of the columns, and whether there are rows; ([], False) of a file of nothing."""
    check_content(system, file, ".gz" if file.lower().endswith(".gz") else "")
    torn = []

    def skip(row: csv.InvalidRow) -> str:  # whoever reads the rows names what is wrong with one
        torn.append(row)
        return "skip"

    try:
        try:
            reader, _ = _reader(system, file, form, None, skip, _FIRST_BLOCK)
        except pa.ArrowInvalid:  # as with a long line
            reader, _ = _reader(system, file, form, None, skip)
        if any("\0" in name for name in reader.schema.names):
            _refuse_encoding(system, file, form)
        return reader.schema.names, any(batch.num_rows or torn for batch in reader) or bool(torn)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "Empty CSV file" in str(error):
            return [], False
        _refuse_encoding(system, file, form)
        raise


def read(
    system: fs.FileSystem, file: str, schema: pa.Schema, form: CsvFormat, missing: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The columns of `schema` (text and float64), in that order.

    What the fast reader stumbles over, the careful one reads (a quoted number that is missing) or names.
    """
    done = 0
    try:
        for batch in _checked(system, file, schema, form, missing):
            done += batch.num_rows
            yield batch
    except pa.ArrowInvalid:
        start = 0
        for batch in _carefully(system, file, schema, form, missing):
            start, skipped = start + batch.num_rows, max(0, min(done - start, batch.num_rows))
            yield batch.slice(skipped)


def hint(names: list[str], form: CsvFormat) -> str:
    """What the header of a file without a wanted column looks like, as the tail of a sentence; "" for a header."""
    for separator in _SEPARATORS:
        if any(separator in name for name in names) and len(separator.join(names).split(separator)) > len(names):
            return f"; its first line is parted by {separator!r}: say `csv: {{separator: {quoted(separator)}}}` in the schema"
    if form.columns is None and any(is_number(name) for name in names):
        line = ", ".join(names)[:60]
        return (
            f"; its first line ({line}) looks like data: put a line with the names of the columns there, or, where "
            "no file has one, name them in the schema: `csv: {columns: [...]}`"
        )
    return ""


def quoted(value: str) -> str:
    """A word as YAML takes it, in double quotes."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t") + '"'


def separator_of(file: str, form: CsvFormat) -> str:
    """What parts the cells of a line."""
    return form.separator or ("\t" if _tabbed(file) else ",")


def quote_of(file: str, form: CsvFormat) -> str:
    """What a cell may be wrapped in; "" for nothing, as it is with tabs: there a quotation mark is one."""
    return form.quote if form.quote is not None else ("" if _tabbed(file) else '"')


def open_text(system: fs.FileSystem, file: str, form: CsvFormat) -> pa.NativeFile:
    """The file as UTF-8, decompressed."""
    stream = system.open_input_stream(file, compression="gzip" if file.lower().endswith(".gz") else None)
    return stream if form.encoding == "utf-8" else pa.transcoding_input_stream(stream, form.encoding, "utf-8")


def _tabbed(file: str) -> bool:
    return file.lower().removesuffix(".gz").endswith((".tsv", ".tab"))


def _reader(
    system: fs.FileSystem,
    file: str,
    form: CsvFormat,
    convert: csv.ConvertOptions | None,
    torn: Callable[[csv.InvalidRow], str] | None = None,
    block: int = _BLOCK,
) -> tuple[csv.CSVStreamingReader, _Lines]:
    lines, quote = _Lines(open_text(system, file, form)), quote_of(file, form)
    parse = csv.ParseOptions(
        delimiter=separator_of(file, form),
        quote_char=quote or False,
        newlines_in_values=bool(quote),
        invalid_row_handler=torn,
    )
    options = csv.ReadOptions(block_size=block, column_names=form.columns)
    return csv.open_csv(pa.PythonFile(lines, mode="r"), options, parse, convert), lines


def _batches(
    system: fs.FileSystem, file: str, form: CsvFormat, convert: csv.ConvertOptions
) -> Iterator[pa.RecordBatch]:
    """The rows as Arrow reads them; a line of another length, one without an end and lines that vanish are named."""
    bad: list[csv.InvalidRow] = []

    def torn(row: csv.InvalidRow) -> str:
        bad.append(row)
        return "error"

    rows = 0
    try:
        reader, lines = _reader(system, file, form, convert, torn)
        for batch in reader:
            rows += batch.num_rows
            yield batch
    except pa.ArrowInvalid as error:
        if bad:
            raise Malformed(
                f"{file} cannot be read: a line has {bad[0].actual_columns} values where {bad[0].expected_columns} are "
                f"named: {bad[0].text[:80]!r}; it may be cut off, or the schema has to name another separator or quote "
                "under `csv`"
            ) from None
        if "straddl" in str(error):
            raise Malformed(
                f"{file} has a line of more than {_BLOCK >> 20} MiB: {_loose_quote(form)}; else write shorter lines"
            ) from None
        raise
    except UnicodeError as error:
        raise InputError(
            f"{file} is not {form.encoding} text ({error}); say how it is written: `csv: {{encoding: ...}}`"
        ) from None
    if not form.line_breaks and rows + (form.columns is None) != lines.count:
        _check_lines(system, file, form, rows)


def _checked(
    system: fs.FileSystem, file: str, schema: pa.Schema, form: CsvFormat, missing: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    convert = csv.ConvertOptions(
        include_columns=schema.names,
        column_types=schema,
        null_values=["", *missing],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        decimal_point=form.decimal,
    )
    return _batches(system, file, form, convert)


def _carefully(
    system: fs.FileSystem, file: str, schema: pa.Schema, form: CsvFormat, missing: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """The same rows from bytes that are decoded and turned into numbers here, so that what is wrong has a place."""
    raw = csv.ConvertOptions(
        include_columns=schema.names,
        column_types=dict.fromkeys(schema.names, pa.binary()),
        null_values=["", *missing],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    start = 0
    for batch in _batches(system, file, form, raw):
        columns = []
        for field, column in zip(schema, batch.columns):
            where = partial(_place, file, start, field.name)
            text = _decoded(column, where)
            columns.append(numbers(text, form, missing, where) if pa.types.is_floating(field.type) else text)
        start += batch.num_rows
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _place(file: str, start: int, column: str, row: int) -> str:
    return f"{file}, row {start + row + 1}: column '{column}'"


def _decoded(column: pa.Array, where: Callable[[int], str]) -> pa.Array:
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(column.to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError:
                raise InputError(
                    f"{where(row)} holds {value[:40]!r}, which is not UTF-8; say how the file is written in the schema: "
                    "`csv: {encoding: cp1252}`, or latin-1, gbk ..."
                ) from None
        raise


def numbers(column: pa.Array, form: CsvFormat, missing: tuple[str, ...], where: Callable[[int], str]) -> pa.Array:
    """Cells of text as float64; InputError with the place of one that is neither a number nor missing."""
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.is_in(text, pa.array(["", *missing])), None, text)
    plain = pc.replace_substring(text, ",", ".") if form.decimal == "," else text
    try:
        return plain.cast(pa.float64())
    except pa.ArrowInvalid:
        for value in text.unique().drop_null().to_pylist():
            if not is_number(value, form.decimal):
                row = pc.index(text, value).as_py()
                raise InputError(f"{where(row)} holds '{value[:60]}', which is no number; {_remedy(value)}") from None
        raise


def _remedy(value: str) -> str:
    if re.fullmatch(r"[-+]?\d+,\d+", value):
        return 'where a comma stands before decimals say so in the schema: `csv: {decimal: ","}`'
    return f"where it stands for nothing say so in the schema: `missing: [{quoted(value[:60])}]`; else write numbers"


def is_number(value: str, decimal: str = ".") -> bool:
    """Whether a cell reads as a number."""
    try:
        pa.array([value.strip().replace(decimal, ".")]).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _check_lines(system: fs.FileSystem, file: str, form: CsvFormat, rows: int) -> None:
    """Raise Malformed where lines have become parts of values; empty lines, and those that end in \\r alone, are right."""
    lines, rest = 0, b""
    with open_text(system, file, form) as stream:
        while piece := stream.read(_BLOCK):
            *whole, rest = (rest + piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            lines += sum(1 for line in whole if line)
    lines += bool(rest)
    if lines == rows + (form.columns is None):
        return
    start, convert = 0, csv.ConvertOptions(column_types=dict.fromkeys(inspect(system, file, form)[0], pa.binary()))
    for batch in _reader(system, file, form, convert)[0]:
        for name, column in zip(batch.schema.names, batch.columns):
            found = pc.index(pc.match_substring_regex(column, "[\r\n]"), True).as_py()
            if found >= 0:
                value = column[found].as_py().decode(errors="replace")
                raise Malformed(
                    f"{file}, row {start + found + 1}: column '{name}' goes over {len(value.splitlines())} lines, from "
                    f"{value[:30]!r} on: {_loose_quote(form)}; where values may have line breaks say "
                    "`csv: {line_breaks: true}`"
                )
        start += batch.num_rows
    raise Malformed(f"{file} has {lines} lines and gives {rows} rows; {_loose_quote(form)}")


def _loose_quote(form: CsvFormat) -> str:
    return (
        f'where a quotation mark ({form.quote or chr(34)}) is a character like any other say `csv: {{quote: ""}}` in '
        "the schema"
    )


def _refuse_encoding(system: fs.FileSystem, file: str, form: CsvFormat) -> None:
    """Raise InputError where the first bytes are no text in the encoding that was named."""
    with open_text(system, file, CsvFormat()) as stream:
        head = stream.read(4096)
    if form.encoding == "utf-8" and (head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head):
        raise InputError(f"{file} is written in UTF-16, as it seems; say so in the schema: `csv: {{encoding: utf-16}}`")
    try:
        head.rsplit(b"\n", 1)[0].decode(form.encoding)
    except UnicodeDecodeError:
        raise InputError(
            f"{file} is not {form.encoding} text; say how it is written in the schema: `csv: {{encoding: cp1252}}`, or "
            "latin-1, gbk ..."
        ) from None
