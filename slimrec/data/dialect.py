"""How a CSV seems to be written: encoding, separator, quotes, header, the decimal comma and words for nothing; guessed."""

from __future__ import annotations

import codecs
import csv
import io
import re
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from slimrec.data import text
from slimrec.data.storage import check_content, reading_error
from slimrec.errors import InputError
from slimrec.schema import CsvFormat

NOTHING = tuple("NA N/A n/a #N/A <NA> NULL null Null (null) None NaN nan \\N ? - --".split())
PLAIN = {"NULL", "null", "(null)", "\\N", "<NA>", "#N/A"}  # stand for nothing wherever they stand
_HEAD = 1 << 18  # bytes looked at for separators, quotes and the header
_SEPARATORS = (",", ";", "\t", "|")
_NOT_CP1252 = b"\x81\x8d\x8f\x90\x9d"
_WHOLE = r"^[+-]?\d{1,18}$"


def guess(system: fs.FileSystem, file: str) -> CsvFormat:
    """The format of a file, judged by its head (the encoding by all of it); columns are named where the header lacks.

    Raises InputError for a file that is no text, or is cut off.
    """
    try:
        check_content(system, file, ".gz" if file.lower().endswith(".gz") else "")
        encoding = _encoding(system, file)
        return _guess(system, file, encoding)
    except (OSError, pa.ArrowException) as error:
        raise reading_error(file, error) from error
    except UnicodeError as error:
        raise InputError(f"{file} is not {encoding} text, as it seemed to be ({error}); write it again") from None


def _guess(system: fs.FileSystem, file: str, encoding: str) -> CsvFormat:
    form = CsvFormat(encoding=encoding)
    with text.open_text(system, file, form) as stream:
        head = stream.read(_HEAD).decode(errors="replace").removeprefix("\ufeff")
        cut = len(head.encode()) >= _HEAD - 3
    lines = [line for line in head.splitlines() if line]
    lines = lines[:-1] if cut and len(lines) > 1 else lines
    if not lines:
        return form
    usual = text.separator_of(file, form)
    separator = max((usual, *_SEPARATORS), key=lambda each: _columns(lines, each))
    form = form.model_copy(update={"separator": None if separator == usual else separator})
    if not text.quote_of(file, form) and _is_quoted(lines, separator):
        form = form.model_copy(update={"quote": '"'})
    names = _headless(_cells(lines, separator))
    return form.model_copy(update={"columns": names})


def other_quoting(system: fs.FileSystem, file: str, form: CsvFormat) -> CsvFormat:
    """The format where reading by `form` lost lines: values with line breaks if all is well quoted, else no quotes."""
    separator = text.separator_of(file, form)
    with text.open_text(system, file, form) as stream:
        rows = csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""), delimiter=separator, strict=True)
        try:
            widths = {len(row) for row in rows if row}
        except csv.Error:
            widths = set()
    return form.model_copy(update={"line_breaks": True} if len(widths) == 1 else {"quote": ""})


class Columns(NamedTuple):
    """Cells of text as what they seem to be, with what was seen on the way."""

    table: pa.Table
    missing: dict[str, list[str]]  # word for nothing -> columns where it stands among numbers, or where it is plain
    decimal: str
    remarks: dict[str, str]  # column -> what a person should look at


def types(table: pa.Table, names: list[str]) -> Columns:
    """The table with the columns `names`, text, as whole numbers, numbers or times where all of their values are that."""
    seen = {name: pc.value_counts(table[name].combine_chunks().cast(pa.string())) for name in names}
    words = {name: [str(v).strip() for v in counts.field(0).drop_null().to_pylist()] for name, counts in seen.items()}
    commas = [name for name in names if _numeric(words[name], ",") and not _numeric(words[name], ".")]
    points = [name for name in names if _numeric(words[name], ".") and any("." in word for word in words[name])]
    decimal = "," if commas and not points else "."
    missing: dict[str, list[str]] = {}
    for name in names:
        plain = NOTHING if _numeric(words[name], decimal) else PLAIN
        for word in sorted(set(words[name]).intersection(plain)):
            missing.setdefault(word, []).append(name)
    remarks = {}
    for name in names:
        column = pc.utf8_trim_whitespace(table[name].combine_chunks().cast(pa.string()))
        column = pc.if_else(pc.is_in(column, pa.array(["", *missing], pa.string())), None, column)
        made = _typed(column, decimal)
        if pa.types.is_string(made.type) and (strange := _strange(words[name], decimal)):
            remarks[name] = f"numbers besides {strange}: does that stand for nothing? then name it under `missing`"
        elif name in commas and decimal == ".":
            remarks[name] = "decimal commas here, points elsewhere: write one of them"
        table = table.set_column(table.column_names.index(name), name, made)
    return Columns(table, missing, decimal, remarks)


def _typed(column: pa.Array, decimal: str) -> pa.Array:
    values = column.drop_null()
    if not len(values):
        return pa.nulls(len(column))
    if pc.all(pc.match_substring_regex(values, _WHOLE)).as_py():
        padded = pc.any(pc.match_substring_regex(values, r"^[+-]?0\d")).as_py()  # codes, as of places
        return column if padded else column.cast(pa.int64())
    try:
        return (pc.replace_substring(column, ",", ".") if decimal == "," else column).cast(pa.float64())
    except pa.ArrowInvalid:
        return column


def _numeric(words: list[str], decimal: str) -> bool:
    """Whether there are numbers, and nothing else but words for nothing."""
    others = [word for word in words if word and word not in NOTHING]
    return bool(others) and all(text.is_number(word, decimal) for word in others[:1]) and _all_numbers(others, decimal)


def _all_numbers(words: list[str], decimal: str) -> bool:
    plain = [word.replace(",", ".") for word in words] if decimal == "," else words
    if decimal == "," and any("." in word for word in words):
        return False
    try:
        pa.array(plain).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _strange(words: list[str], decimal: str) -> str:
    """The few words that stand among many numbers."""
    others = (word for word in words if word and not text.is_number(word, decimal))
    odd = list(islice(others, 4)) if len(words) > 20 else []
    rest = [word for word in words if word and word not in odd]
    return ", ".join(odd) if 0 < len(odd) < 4 and _all_numbers(rest, decimal) else ""


def _encoding(system: fs.FileSystem, file: str) -> str:
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with text.open_text(system, file, CsvFormat()) as stream:
        head = piece = stream.read(_HEAD)
        if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        if (place := _zeros(head)) is not None:
            return "utf-16-le" if place else "utf-16-be"
        try:
            while piece:
                decode(piece)
                piece = stream.read(_HEAD)
        except UnicodeDecodeError:
            return "latin-1" if any(byte in head for byte in _NOT_CP1252) else "cp1252"
    return "utf-8"


def _zeros(head: bytes) -> int | None:
    """Whether NUL bytes stand at even places (0) or at odd ones (1), as they do in UTF-16; None where there are few or both."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return None if min(even, odd) or even + odd < len(head) / 16 else int(odd > 0)


def _cells(lines: list[str], separator: str) -> list[list[str]]:
    return list(csv.reader(lines[:200], delimiter=separator))


def _columns(lines: list[str], separator: str) -> int:
    """How many columns this separator makes, 0 for one and where lines differ."""
    widths = {len(row) for row in _cells(lines, separator)}
    return max(widths) if len(widths) == 1 and max(widths) > 1 else 0


def _is_quoted(lines: list[str], separator: str) -> bool:
    """Whether cells of a file without quotes by its ending are wrapped in quotation marks, all that begin with one."""
    cells = [cell for line in lines for cell in line.split(separator) if cell.startswith('"')]
    return bool(cells) and all(re.fullmatch(r'"([^"]|"")*"', cell) for cell in cells)


def _headless(rows: list[list[str]]) -> tuple[str, ...] | None:
    """Names to give the columns where the first line is data: numbers stand in it wherever only numbers follow."""
    header, body = rows[0], rows[1:]
    numbers = [
        place
        for place in range(len(header))
        if body and _numeric([row[place] for row in body if len(row) > place], ".")
    ]
    told = [header[place].strip() for place in numbers]
    headless = any(text.is_number(word) for word in told) and all(not word or text.is_number(word) for word in told)
    return tuple(f"column_{number + 1}" for number in range(len(header))) if headless else None


def refuse_headless(file: str, form: CsvFormat, label: str | None) -> None:
    """Raise InputError where the first line is data and the label was not named by its place."""
    if form.columns and label not in form.columns:
        raise InputError(
            f"the first line of {file} looks like data and not like names: put a line with the names of the columns "
            f"there, or name the label by its place: --label {form.columns[0]}, of {form.columns[0]} to {form.columns[-1]}"
        )
