"""One value, one id: by whatever type, unit, zone, writer or file it comes; and other values keep ids of their own."""

import datetime as dt
import io
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from slimrec.config import read_schema
from slimrec.data import files
from slimrec.data.encode import Encoder
from slimrec.data.fit import Fitting
from slimrec.data.hashing import hash_strings
from slimrec.data.novelty import Novelty
from slimrec.data.spelling import respell, spell
from slimrec.data.values import categories, csv_schema
from slimrec.errors import InputError
from slimrec.schema import MISSING, RESERVED_ROWS, UNSEEN

pytestmark = pytest.mark.filterwarnings("ignore:.*drops timezone information")  # pandas, of its own to_csv
steady = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
UNITS, ZONES = ["s", "ms", "us", "ns"], [None, "UTC", "Europe/Berlin", "America/New_York", "+05:30"]
TEXTS = [
    "007",
    "0",
    "7",
    "00",
    "+5",
    "5",
    "1e3",
    " 12",
    "12",
    "12 ",
    "1,000",
    "0x10",
    ".5",
    "5.",
    "--1",
    "1.2.3",
    "yes",
]
TEXTS += [
    "",
    " ",
    "nan",
    "NaN",
    "null",
    "None",
    "tRUE",
    "1e64",
    "12345e60",
    "2026-02-30",
    "2026-13-01",
    "24:00",
    "é",
    "É",
]


def keys(values: pa.Array) -> list[str | None]:
    """The key of each value, None where it is missing."""
    found = categories(values)
    return [None if code < 0 else found.values[code] for code in found.codes]


def fit(table: pa.Table, **field) -> Encoder:
    schema = read_schema({"label": "y", "fields": [{"name": "x", "kind": "category", **field}]})
    fitting = Fitting(schema, 10_000)
    fitting.add(table, np.arange(len(table)), lambda i: f"row {i + 1}")
    return fitting.finish().encoder


def from_parquet(table: pa.Table, encoder: Encoder, folder) -> pa.Table:
    pq.write_table(table, folder / "x.parquet")
    schema, _ = files.inspect(fs.LocalFileSystem(), str(folder / "x.parquet"))
    return pa.Table.from_batches(files.read(fs.LocalFileSystem(), str(folder / "x.parquet"), schema, 1000))


def from_csv(text: str, encoder: Encoder, folder) -> pa.Table:
    (folder / "x.csv").write_text(text, encoding="utf-8")
    schema = csv_schema(encoder.schema, files.inspect(fs.LocalFileSystem(), str(folder / "x.csv"))[0])
    return pa.Table.from_batches(files.read(fs.LocalFileSystem(), str(folder / "x.csv"), schema, 1000))


def roads(table: pa.Table, encoder: Encoder, folder) -> dict[str, pa.Table]:
    """The same rows through everything that people bring them in."""
    frame = table.to_pandas()
    written = io.BytesIO()
    pyarrow.csv.write_csv(table, written)
    return {
        "Arrow table": table,
        "dictionary": pa.table({"y": table["y"], "x": table["x"].dictionary_encode()}),
        "Parquet": from_parquet(table, encoder, folder),
        "CSV of Arrow": from_csv(written.getvalue().decode(), encoder, folder),
        "CSV of pandas": from_csv(frame.to_csv(index=False), encoder, folder),
        "DataFrame": pa.Table.from_pandas(frame),
        "DataFrame of objects": pa.Table.from_pandas(frame.astype(object)),
        "category of pandas": pa.Table.from_pandas(frame.astype({"x": "category"})),
    }


moments = st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2200, 1, 1)).map(lambda at: at.replace(microsecond=0))
columns = st.one_of(
    st.lists(st.booleans() | st.none(), min_size=1).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.integers(-(2**53) + 1, 2**53 - 1) | st.none(), min_size=1).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.floats(-1e9, 1e9) | st.none(), min_size=1).map(lambda v: pa.array(v, pa.float64())),
    st.lists(st.floats(-1e6, 1e6, width=32) | st.none(), min_size=1).map(lambda v: pa.array(v, pa.float32())),
    st.lists(st.dates(dt.date(1971, 1, 1), dt.date(2200, 1, 1)) | st.none(), min_size=1).map(pa.array),
    st.tuples(st.lists(moments, min_size=1), st.sampled_from(UNITS), st.sampled_from(ZONES)).map(
        lambda v: pa.array(v[0], pa.timestamp("us")).cast(pa.timestamp(v[1], v[2]))
    ),
    st.lists(st.times() | st.none(), min_size=1).map(lambda v: pa.array(v, pa.time64("us"))),
    st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), min_size=1).map(pa.array),
    st.lists(st.sampled_from(TEXTS).filter(bool), min_size=1).map(pa.array),
)


@steady
@given(column=columns)
def test_every_road_gives_a_value_the_same_id(column, tmp_path_factory):
    table = pa.table({"y": np.zeros(len(column), np.int64), "x": column})
    encoder = fit(table)
    wanted = encoder.encode(table)[0].tolist()
    assert [id[0] == MISSING for id in wanted] == [value is None for value in column.to_pylist()]
    assert all(id[0] != UNSEEN for id in wanted)
    for road, rows in roads(table, encoder, tmp_path_factory.mktemp("road")).items():
        assert encoder.encode(rows)[0].tolist() == wanted, (road, rows.schema)
    hashed = fit(table, hash_rows=1000)
    wanted = hashed.encode(table)[0].tolist()
    for road, rows in roads(table, hashed, tmp_path_factory.mktemp("road")).items():
        assert hashed.encode(rows)[0].tolist() == wanted, road


@steady
@given(st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, unique=True))
def test_whole_numbers_of_any_length_stay_apart_and_are_their_own_text(values):
    wanted = [str(value) for value in values]
    assert keys(pa.array(wanted)) == wanted
    assert keys(pa.array([Decimal(value) for value in values], pa.decimal128(22, 2))) == wanted
    for kind, low, high in ((pa.int64(), -(2**63), 2**63), (pa.uint64(), 0, 2**64)):
        fitting = [value for value in values if low <= value < high]
        assert keys(pa.array(fitting, kind)) == [str(value) for value in fitting]


@steady
@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: not 2**53 <= abs(v) < 2**64), unique=True
    )
)
def test_floats_stay_apart_and_are_what_their_texts_are(values):
    found = keys(pa.array(values, pa.float64()))
    assert len(set(found)) == len(values)
    assert keys(pa.array([repr(value) for value in values])) == found
    assert keys(
        pa.array([Decimal(repr(value)) for value in values if 1e-9 < abs(value) < 1e9], pa.decimal256(60, 40))
    ) == [key for key, value in zip(found, values) if 1e-9 < abs(value) < 1e9]


@steady
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32).filter(lambda v: abs(v) < 2**24), unique=True)
)
def test_single_precision_is_the_same_when_it_was_widened(values):
    narrow = pa.array(values, pa.float32())
    found = keys(narrow)
    assert len(set(found)) == len(values) and found == keys(narrow.cast(pa.float64()))
    assert keys(pa.array([str(np.float32(value)) for value in values])) == found


@steady
@given(st.lists(moments, min_size=1, unique=True), st.integers(0, 999_999_999))
def test_a_moment_is_one_in_every_unit_zone_and_text(whole, nanoseconds):
    base = pa.array(whole, pa.timestamp("s"))
    wanted = keys(base)
    assert len(set(wanted)) == len(whole)
    for unit in UNITS:
        for zone in ZONES:
            column = base.cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
            assert keys(column) == wanted
            assert keys(pa.array(column.to_pandas().map(lambda at: at.isoformat()).tolist())) == wanted
            assert keys(pa.array(column.to_pandas().map(str).tolist())) == wanted
    assert keys(pa.array([f"{at.isoformat()}Z" for at in whole])) == wanted
    assert keys(pa.array([f"{at} UTC" for at in whole])) == wanted
    fine = pa.array(
        [int(at.timestamp()) * 10**9 + nanoseconds for at in base.cast(pa.timestamp("us", "UTC")).to_pylist()]
    )
    fine = fine.cast(pa.timestamp("ns"))
    written = [f"{at.isoformat()}.{nanoseconds:09}+00:00" for at in whole]
    assert keys(fine) == keys(pa.array(written)) and (nanoseconds == 0 or not set(keys(fine)) & set(wanted))


@steady
@given(st.lists(st.text() | st.sampled_from([*TEXTS, "True", "12.0", "4.10", "2026-01-02T03:04:05+01:00", "1.50E-3"])))
def test_a_key_is_its_own_key(texts):
    once, _ = spell(pa.array(texts, pa.large_string()))
    assert spell(pa.array(once, pa.large_string()))[0] == once == respell(texts)


def test_texts_that_no_writer_means_as_a_number_or_time_stay_as_they_are():
    assert keys(pa.array(TEXTS)) == TEXTS and len(set(TEXTS)) == len(TEXTS)


SPELLED = [  # pairs of texts that somebody may take for one value
    *[(text, "5") for text in ("+5", " 5", "5 ", "05", "5.", "5.0", "5.00", "5e0", "5.0e+00", "0x5")],
    *[(text, "0.5") for text in (".5", "0.50", "+0.5", "5e-1", "5E-01", "0,5", " 0.5")],
    *[(text, "2026-01-02") for text in ("2026/01/02", "02.01.2026", "20260102", "2026-1-2", "2026-01-02T00:00:00Z")],
    *[(text, "1") for text in ("true", "TRUE", "tRUE", "yes", "1.0", "01")],
]


def test_serving_takes_two_texts_for_one_value_exactly_where_ingest_does(tmp_path):
    serving = {word: fit(pa.table({"x": [word]})) for _, word in SPELLED}
    for text, word in SPELLED:
        (tmp_path / "log.csv").write_text(f'y,x\n0,"{text}"\n1,"{word}"\n')
        ingest = fit(from_csv((tmp_path / "log.csv").read_text(), serving[word], tmp_path)).schema["x"].statistics
        for rows in (pa.table({"x": [text]}), pa.Table.from_pandas(pd.DataFrame({"x": [text]}))):
            novelty = Novelty()
            ids, _ = serving[word].encode(rows, novelty=novelty)
            assert (ids[0, 0] == RESERVED_ROWS, novelty.new["x"]) == (ingest.distinct == 1, ingest.distinct - 1), text


@pytest.mark.parametrize(
    "key, spellings",
    {
        "1": [True, 1, 1.0, "True", "true", "TRUE", "1", "1.0", b"true", Decimal("1.00"), np.float16(1), np.int8(1)],
        "0": [False, 0, -0.0, "False", "false", "FALSE", "-0", "-0.0", "0.00", b"0"],
        "12": [12, 12.0, "12", "12.0", "12.000", "1.2e+01", "1.2E1", Decimal("12.0")],
        "10000000000": [10**10, 1e10, "1.0E10", "1e+10", "10000000000.0"],
        "4.1": [4.1, "4.1", "4.10", Decimal("4.100"), np.float32(4.1), float(np.float32(4.1))],
        "0.099975586": [np.float16(0.1), float(np.float16(0.1)), np.float32(np.float16(0.1)), "0.099975586"],
        "0.1": [0.1, "0.10", np.float32(0.1), float(np.float32(0.1))],
        "0.0001": [1e-4, "0.0001", "1e-04", "0.00010", np.float32(1e-4), float(np.float32(1e-4)), Decimal("0.0001")],
        "1e-07": [1e-7, "1e-07", "1e-7", "1.0E-7", "0.0000001", Decimal("0.00000010")],
        "0.1234567890123456789": ["0.1234567890123456789", "0.12345678901234567890", Decimal("0.1234567890123456789")],
        "2026-01-02": [dt.date(2026, 1, 2), dt.datetime(2026, 1, 2), "2026-01-02", "2026-01-02T00:00:00Z"],
        "2026-01-02 03:04:05.6": [
            "2026-01-02 04:04:05.600+01:00",
            "2026-01-01T22:04:05.6-05",
            "2026-01-02T03:04:05.600000",
        ],
        "03:04:05.6": [dt.time(3, 4, 5, 600_000), "03:04:05.600", "03:04:05.6"],
        "03:04:05": [dt.time(3, 4, 5), "03:04:05", "03:04:05.000000"],
        "1 days 02:03:04": [dt.timedelta(1, 7384), np.timedelta64(93_784, "s"), "1 days 02:03:04.000"],
        "-1 days 23:59:59.5": [dt.timedelta(seconds=-0.5), "-1 days +23:59:59.500000"],
        "3 days": [dt.timedelta(3), "3 days", "3 days 00:00:00"],
        "café": ["café", "cafe\u0301", "café".encode()],
    }.items(),
)
def test_the_table_of_spellings_holds(key, spellings):
    for spelling in spellings:
        kind = pa.float16() if isinstance(spelling, np.float16) else None
        column = pa.array([spelling], kind)
        column = column.cast(pa.float32()) if kind else column
        assert keys(column) == [key], repr(spelling)
    for unit in UNITS:
        assert keys(pa.array([dt.timedelta(3)], pa.duration("us")).cast(pa.duration(unit))) == ["3 days"]


FLOATS = [pa.array([2.0**53, None]), pa.array([2.0**24], pa.float32()), pa.array([-9.3e18])]


@pytest.mark.parametrize("column", [*FLOATS, pa.array(["9.007199254740994e+15"]), pa.array(["9007199254740992.0"])])
def test_a_float_that_may_be_several_ids_is_refused_with_column_and_remedy(column):
    encoder = fit(pa.table({"x": pa.array([2**53 + 1, 2**24])}))
    for attempt in (lambda: encoder.encode(pa.table({"x": column})), lambda: fit(pa.table({"x": column}))):
        with pytest.raises(InputError, match="field 'x': column 'x' holds the float .*Int64.*strings"):
            attempt()
    for known in ([2**53 + 1], ["9007199254740993"], [Decimal(2**53 + 1)], ["9007199254740993.0"]):
        assert encoder.encode(pa.table({"x": known}))[0].tolist() == [[RESERVED_ROWS + 1]]


def test_a_number_that_lost_the_zeros_in_front_is_refused_and_others_are_not():
    encoder = fit(pa.table({"x": ["007", "12", "0"]}))
    with pytest.raises(InputError, match="column 'x' holds the number 7, in training it held the text '007'.*strings"):
        encoder.encode(pa.table({"x": [12, 7]}))
    assert encoder.encode(pa.table({"x": [12, 0, 8]}))[0][:, 0].tolist() == [5, 3, UNSEEN]
    assert encoder.encode(pa.table({"x": ["7"]}))[0][0, 0] == UNSEEN


def test_texts_told_apart_letter_by_letter_where_the_field_says_so():
    table = pa.table({"x": ["4.1", "4.10", "True", "1"]})
    assert fit(table).schema["x"].statistics.distinct == 2
    exact = fit(table, exact=True)
    assert exact.vocabularies["x"] == ["1", "4.1", "4.10", "True"]
    assert exact.encode(table)[0][:, 0].tolist() == [4, 5, 6, 3]
    assert fit(table, exact=True, hash_rows=10**6).encode(table)[0][:, 0].tolist() == [
        int(value % 10**6) + RESERVED_ROWS for value in hash_strings(table["x"].to_pylist())
    ]


def test_a_person_is_told_which_texts_became_one_value():
    schema = read_schema({"label": "y", "fields": [{"name": "x", "kind": "category"}]})
    fitting = Fitting(schema, 100)
    fitting.add(pa.table({"x": ["4.1", "a", "4.10"]}), np.arange(3), str)
    assert fitting.finish().remarks == [
        "field 'x': the texts '4.1' and '4.10' are one value; `exact: true` keeps such texts apart"
    ]


def as_before(encoder: Encoder, values: list[str], folder) -> Encoder:
    """The encoder as an earlier version has written it: other keys, no format, no limits."""
    encoder.save(folder)
    schema = json.loads((folder / "schema.json").read_text())
    for field in schema["fields"]:
        for name in ("exact", "keep"):
            del field[name]
        for name in ("low", "high", "unseen_share", "format"):
            del field["statistics"][name]
        field["statistics"]["rows"] = field["statistics"]["rows"] if field["hash_rows"] else RESERVED_ROWS + len(values)
    (folder / "schema.json").write_text(json.dumps(schema))
    for file in (folder / "vocab").iterdir():
        pq.write_table(pa.table({"value": values}), file)
    return Encoder.load(folder)


def test_vocabularies_of_an_earlier_version_are_found_in_the_keys_of_today(tmp_path):
    values = ["True", "2026-01-02 03:04:05.600000+0100", "12.0", "a", "12", "9.1e+15", "2026-01-02 00:00:00.000000"]
    old = as_before(fit(pa.table({"x": values[:5]})), values, tmp_path)
    at = {value: [RESERVED_ROWS + i] for i, value in enumerate(values)}
    for column, wanted in (
        (pa.array([True]), "True"),
        (pa.array([12]), "12.0"),  # the more frequent of the two that were apart
        (pa.array(["12.0"]), "12.0"),
        (pa.array(["a"]), "a"),
        (pa.array([dt.date(2026, 1, 2)]), values[-1]),
        (pa.array(["2026-01-02T02:04:05.6Z"]), values[1]),
    ):
        assert old.encode(pa.table({"x": column}))[0].tolist() == [at[wanted]]
    old.save(tmp_path / "again")
    assert Encoder.load(tmp_path / "again").vocabularies["x"] == values


def test_hashes_of_an_earlier_version_stay_as_they_were(tmp_path):
    values = ["True", "12.0", "2026-01-02 00:00:00", "a", "cafe\u0301"]
    old = as_before(fit(pa.table({"x": values}), hash_rows=10**6), [], tmp_path)
    assert old.encode(pa.table({"x": values}))[0][:, 0].tolist() == [
        int(value % 10**6) + RESERVED_ROWS for value in hash_strings(values)
    ]
    stamps = pa.array([dt.datetime(2026, 1, 2)], pa.timestamp("ms"))
    wanted = int(hash_strings(["2026-01-02 00:00:00.000"])[0] % 10**6) + RESERVED_ROWS
    assert old.encode(pa.table({"x": stamps}))[0].tolist() == [[wanted]]


def test_the_pairs_of_a_cross_are_spelled_like_their_parts(tmp_path):
    fields = [{"name": name, "kind": "category"} for name in "ab"]
    schema = read_schema({"label": "y", "fields": fields, "crosses": "all"})
    table = pa.table({"a": ["True", "False", None], "b": ["12.0", "13", "13.0"]})
    fitting = Fitting(schema, 100)
    fitting.add(table, np.arange(3), str)
    encoder = fitting.finish().encoder
    typed = pa.table({"a": [True, False, None], "b": [12, 13, 13]})
    assert (encoder.encode(typed)[0] == encoder.encode(table)[0]).all()
    assert encoder.vocabularies["a*b"] == ['["0", "13"]', '["1", "12"]', '[null, "13"]']
    values = ['["False", "13"]', '["True", "12.0"]', '[null, "13.0"]']
    old = as_before(encoder.narrow(["a*b"]), values, tmp_path)
    assert old.encode(typed)[0].tolist() == encoder.narrow(["a*b"]).encode(typed)[0].tolist()


@steady
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "12", "12.0", "true", ""]) | st.none(), max_size=6) | st.none(), min_size=1
    )
)
def test_bags_are_the_same_as_lists_and_as_text(bags):
    field = {"kind": "bag", "separator": "|", "max_length": 3}
    lists = pa.table({"x": pa.array(bags, pa.list_(pa.string()))})
    encoder = fit(lists, **field)
    assert "" not in encoder.vocabularies["x"]
    whole = [None if bag is None else [value for value in bag if value is not None] for bag in bags]
    text = pa.table({"x": pa.array([None if bag is None else "|".join(bag) for bag in whole], pa.string())})
    lists = pa.table({"x": pa.array(whole, pa.list_(pa.string()))})
    assert encoder.encode(text)[0].tolist() == encoder.encode(lists)[0].tolist()


def test_nothing_between_two_separators_is_no_value():
    field = {"kind": "bag", "separator": "|", "max_length": 2}
    encoder = fit(pa.table({"x": ["a|b|", "|b", "a||b", "||", ""]}), **field)
    assert encoder.vocabularies["x"] == ["b", "a"]
    found = encoder.encode(pa.table({"x": ["|a||b", "||", "a|"]}))[0].tolist()
    assert found == [[4, 3], [MISSING, 0], [4, 0]]


def test_a_long_history_keeps_its_first_or_its_last_values():
    table = pa.table({"x": [["a", "b", "c", "d"], ["e"], None]})
    assert fit(table, kind="bag", max_length=2).vocabularies["x"] == ["a", "b", "e"]
    encoder = fit(table, kind="bag", max_length=2, keep="last")
    assert encoder.vocabularies["x"] == ["c", "d", "e"]
    assert encoder.encode(table)[0].tolist() == [[3, 4], [5, 0], [MISSING, 0]]


def test_number_types_of_one_folder_are_one_value():
    encoder = fit(pa.table({"x": pa.array([12, 13])}))
    frame = pd.DataFrame({"x": pd.array([12, None], "Int64")})
    assert encoder.encode(pa.Table.from_pandas(frame))[0].tolist() == [[3], [MISSING]]


BLANKS = {"null": [None, "a", "b", "a"], "empty text": ["", "a", "b", "a"]}


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"hash_rows": 1000}, {"min_count": 2}])
@pytest.mark.parametrize("known, asked", [("null", "empty text"), ("empty text", "null")])
def test_null_and_empty_text_are_one_where_training_knew_only_one_of_them(known, asked, options):
    rows = {name: pa.table({"x": pa.array(values * 2, pa.string())}) for name, values in BLANKS.items()}
    encoder = fit(rows[known], **options)
    assert encoder.encode(rows[asked])[0].tolist() == encoder.encode(rows[known])[0].tolist()
    rows["both"] = pa.table({"x": ["", "", None, None]})
    both = fit(rows["both"], **options).encode(rows["both"])[0][:, 0].tolist()
    assert both[0] != both[2] == MISSING


def test_a_csv_that_quotes_empty_cells_scores_as_the_one_that_does_not(tmp_path):
    frame = pd.DataFrame({"y": [0, 1, 0, 1], "x": ["a", None, "b", None]})
    encoder = fit(pa.Table.from_pandas(frame))
    wanted = encoder.encode(pa.Table.from_pandas(frame))[0].tolist()
    for quoting in (0, 1, 2):  # the least, all, all that is no number
        written = from_csv(frame.to_csv(index=False, quoting=quoting), encoder, tmp_path)
        assert encoder.encode(written)[0].tolist() == wanted
