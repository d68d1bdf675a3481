"""CSV as it is written elsewhere: separators, quotes, encodings, words for nothing; what is wrong is named with its place."""

import csv
import gzip
import io

import numpy as np
import pyarrow as pa
import pytest

from slimrec.config import read_schema
from slimrec.data import files
from slimrec.data.storage import list_files
from slimrec.errors import ConfigError, InputError


def rows_of(path, content: str | bytes, **options) -> list[dict]:
    """The rows of a file with the columns y (label), p (number) and c (category)."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    fields = [{"name": "p", "kind": "number"}, {"name": "c", "kind": "category"}]
    schema = read_schema({"label": "y", "fields": fields, **options})
    system, [file] = list_files(str(path), files.TEXT)
    columns, _ = files.inspect(system, file, schema)
    batches = list(files.read(system, file, columns, 100, schema))
    return pa.Table.from_batches(batches, columns).to_pylist()


PLAIN = [{"y": "1", "p": 2.5, "c": "ä b"}, {"y": "0", "p": None, "c": None}]


@pytest.mark.parametrize(
    "content, options",
    [
        ("y,p,c\n1,2.5,ä b\n0,,\n", {}),
        ("y,p,c\r\n1,2.5,ä b\r\n\r\n0,,\r\n\r\n", {}),
        ("y,p,c\r1,2.5,ä b\r0,,", {}),
        ('"y","p","c"\n"1","2.5","ä b"\n"0","",\n', {}),
        ("y;p;c\n1;2,5;ä b\n0;;\n", {"csv": {"separator": ";", "decimal": ","}}),
        ("y|p|c\n1|2.5|'ä b'\n0||\n", {"csv": {"separator": "|", "quote": "'"}}),
        ("1,2.5,ä b\n0,,\n", {"csv": {"columns": ["y", "p", "c"]}}),
        ("y,p,c\n1,2.5,ä b\n0,NA,\\N\n", {"missing": ["NA", "\\N"]}),
        ('y,p,c\n1," 2.5 ",ä b\n0,"NA",NA\n', {"missing": ["NA"]}),
        ("y,p,c\n1,2.5,ä b\n0,,\n".encode("utf-8-sig"), {}),
        ("y,p,c\n1,2.5,ä b\n0,,\n".encode("utf-16"), {"csv": {"encoding": "utf-16"}}),
        ("y,p,c\n1,2.5,ä b\n0,,\n".encode("cp1252"), {"csv": {"encoding": "cp1252"}}),
    ],
)
def test_one_log_in_many_ways_of_writing_it_is_read_alike(tmp_path, content, options):
    assert rows_of(tmp_path / "log.csv", content, **options) == PLAIN


def test_a_quotation_mark_between_tabs_is_a_character_and_quotes_where_asked(tmp_path):
    content = 'y\tp\tc\n1\t2\t"Round Midnight\n0\t3\t"Heroes"\n'
    read = rows_of(tmp_path / "log.TSV", content)
    assert [row["c"] for row in read] == ['"Round Midnight', '"Heroes"']
    asked = rows_of(tmp_path / "log.tsv", 'y\tp\tc\n1\t2\t"a\tb"\n', csv={"quote": '"'})
    assert [row["c"] for row in asked] == ["a\tb"]


def test_rows_agree_with_those_of_the_standard_library_however_values_are_quoted(tmp_path):
    random = np.random.default_rng(0)
    pieces = ["a", '"', ",", "\n", " ", "é", "'"]
    values = ["".join(random.choice(pieces, random.integers(1, 6))) for _ in range(500)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["y", "p", "c"], *(["1", "2", value] for value in values)])
    found = rows_of(tmp_path / "log.csv", text.getvalue(), csv={"line_breaks": True})
    assert [row["c"] for row in found] == values


@pytest.mark.parametrize(
    "content, sentence",
    [
        (
            'y,p,c\n1,2,"a\n1,3,"b\n0,4,c\n',
            "log.csv, row 1: column 'c' goes over 2 lines, from 'a.*quote: \"\".*line_breaks",
        ),
        ('y,p,c\n1,2,x\n1,2,"a\n1,3,b\n0,4,c\n', "row 2: column 'c' goes over 3 lines"),
        ('y,p,c\n1,2,"a\nb"\n0,4,c\n', "row 1: column 'c' goes over 2 lines"),
        ("y,p,c\n1,2,a\n0,3\n", "a line has 2 values where 3 are named: '0,3'; it may be cut off"),
        ("y,p,c\n1,2,a\n0,NULL,b\n", "row 2: column 'p' holds 'NULL', which is no number; .*missing: \\[\"NULL\"\\]"),
        ("y,p,c\n1,2,a\n0,1 000,b\n", "row 2: column 'p' holds '1 000'"),
        ('y,p,c\n1,2,a\n0,"3,5",b\n', "row 2: column 'p' holds '3,5'.*decimal: \",\""),
        ("y,p,c\n1,2,ü\n".encode("latin-1"), "row 1: column 'c' holds .*not UTF-8.*encoding"),
        ("y,p,ü\n1,2,b\n".encode("latin-1"), "not utf-8 text.*encoding"),
        ("y,p,c\n1,2,b\n".encode("utf-16"), "UTF-16, as it seems.*encoding: utf-16"),
        ("y,p,c\n1,2,b\n".encode("utf-16-le"), "UTF-16, as it seems"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_place_and_a_remedy(tmp_path, content, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        rows_of(tmp_path / "log.csv", content)
    assert "damaged" not in str(caught.value)


def test_a_bad_cell_far_down_is_named_by_its_row_and_the_rows_before_are_right(tmp_path):
    lines = [f"1,{i},x{i}" for i in range(400_000)]
    content = "\n".join(["y,p,c", *lines])
    assert rows_of(tmp_path / "log.csv", content + '\n1,"",z')[-1] == {"y": "1", "p": None, "c": "z"}
    read = rows_of(tmp_path / "log.csv", content + '\n1,"",z')
    assert [row["p"] for row in read[:-1]] == list(range(400_000)), (
        "the careful reader goes on where the fast one stopped"
    )
    with pytest.raises(InputError, match="row 400001: column 'p' holds 'dear'"):
        rows_of(tmp_path / "log.csv", content + "\n1,dear,z")


def test_a_compressed_file_that_was_cut_is_called_damaged(tmp_path):
    packed = gzip.compress(b"y,p,c\n" + b"1,2.5,a\n" * 5000)
    assert len(rows_of(tmp_path / "log.csv.GZ", packed)) == 5000
    with pytest.raises(InputError, match="cut off or damaged"):
        rows_of(tmp_path / "log.csv.gz", packed[:-30])


@pytest.mark.parametrize(
    "header, sentence",
    [
        ("y;p;c\n1;2;a\n", 'separator: ";"'),
        ("y\tp\tc\n1\t2\ta\n", 'separator: "\\\\t"'),
        ("1,2,a\n0,3,b\n", "looks like data"),
    ],
)
def test_a_wanted_column_that_is_not_there_is_explained_by_the_first_line(tmp_path, header, sentence):
    from slimrec.config import IngestConfig, parse
    from slimrec.data.source import open_source

    (tmp_path / "log.csv").write_text(header)
    fields = {"label": "y", "fields": [{"name": "p", "kind": "number"}]}
    with pytest.raises(InputError, match=f"has no column 'p'.*{sentence}"):
        open_source(parse(IngestConfig, {"source": str(tmp_path / "log.csv"), "fields": fields}))


@pytest.mark.parametrize(
    "option, sentence",
    [
        ({"separator": "::"}, "one ASCII character"),
        ({"encoding": "utf-99"}, "no encoding"),
        ({"seperator": ";"}, "did you mean"),
    ],
)
def test_a_format_that_cannot_be_is_a_config_error(option, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_schema({"label": "y", "fields": [{"name": "p", "kind": "number"}], "csv": option})
