"""Labels and times: one rule whatever type they come in; the order of times is that of the moments they name."""

import datetime as dt
import itertools
import re
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimrec.config import IngestConfig, read_schema
from slimrec.data.keys import check_units, epoch_units, read_label, read_time
from slimrec.data.plan import make_plan
from slimrec.data.source import open_source
from slimrec.errors import ConfigError, InputError


def where(position: int) -> str:
    return f"row {position + 1}"


def times(*values, kind: pa.DataType | None = None) -> list[int]:
    return read_time("ts", pa.array(values, kind), where).tolist()


NUMBERS = [
    -5 * 10**12,
    -1.5,
    -1,
    0,
    0.25,
    0.5,
    1,
    1_700_000_000,
    1_700_000_000.5,
    1_700_000_000_001,
    1_700_000_000_001.5,
]
LONG = [1_700_000_000_000_000, 1_700_000_000_000_000_001, 1_700_000_000_000_000_002]  # micro- and nanoseconds


def test_numbers_of_any_type_stand_in_the_order_of_their_values():
    read = [times(value)[0] for value in NUMBERS + LONG]
    assert all(earlier < later for earlier, later in itertools.pairwise(read))


@pytest.mark.parametrize("value", [value for value in NUMBERS + LONG if value == int(value)])
def test_a_number_is_one_time_in_whatever_type_it_is_written(value):
    ways = [pa.array([int(value)]), pa.array([str(int(value))]), pa.array([Decimal(int(value))])]
    if abs(value) < 2**53:
        ways += [pa.array([float(value)]), pa.array([f"{int(value)}.0"])]
    assert len({int(read_time("ts", way, where)[0]) for way in ways}) == 1


MOMENT = dt.datetime(2026, 1, 20, 0, 0, 19)
ZONED = MOMENT.replace(tzinfo=dt.UTC)


def test_a_moment_is_one_time_in_every_unit_zone_and_spelling():
    stamps = [pa.array([MOMENT], pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")]
    stamps += [pa.array([ZONED], pa.timestamp("ms", tz=zone)) for zone in ("UTC", "Europe/Berlin", "-05:00")]
    texts = ["2026-01-20 00:00:19", "2026-01-20T00:00:19", "2026-01-20T00:00:19Z", "2026-01-20 00:00:19 UTC"]
    texts += [
        "2026-01-20 01:00:19+01:00",
        "2026-01-19T19:00:19-0500",
        "2026-01-20 00:00:19.000000000",
        " 2026-01-20 00:00:19 ",
    ]
    read = {int(read_time("ts", way, where)[0]) for way in stamps + [pa.array([text]) for text in texts]}
    assert read == {int(ZONED.timestamp()) * 10**6}
    assert times(*texts) == [int(ZONED.timestamp()) * 10**6] * len(texts)


def test_times_of_several_zones_in_one_column_stand_in_order():
    texts = ["2026-01-20T01:00:00+02:00", "2026-01-20T00:30:00Z", "2026-01-19T20:00:00-05:00", "2026-01-20T02:00:00"]
    read = times(*texts)
    assert read == sorted(read) and len(set(read)) == 4


def test_dates_times_of_day_and_durations_have_an_order():
    assert times(dt.date(2026, 1, 20)) == times("2026-01-20") == times("2026-01-20 00:00")
    assert times(dt.time(1), dt.time(2)) == [3_600_000_000, 7_200_000_000]
    assert times(dt.timedelta(seconds=1), dt.timedelta(seconds=2)) == [1_000_000, 2_000_000]


@pytest.mark.parametrize(
    ("values", "row", "shown"),
    [
        (["noon"], 1, "'noon'"),
        (["2026-01-01", "5"], 2, "'5'"),
        (["5", "6", "2026-01-01"], 3, "'2026-01-01'"),
        ([1.0, float("nan"), 2.0], 2, "nan"),
        ([1, 2**63 - 1], 2, "9223372036854775807"),
        (["2026-01-31", "31.01.2026", "01/31/2026"], 2, "'31.01.2026'"),
        (["2026-02-28", "2026-02-30"], 2, "'2026-02-30'"),
        (["31/Jan/2026:15:00:00 +0000"], 1, "'31/Jan/2026:15:00:00 +0000'"),
        (["2026-01-31T00:00:00.000000001", "15:00"], 2, "'15:00'"),
    ],
)
def test_what_has_no_order_is_shown_with_its_row_and_with_what_has_one(values, row, shown):
    with pytest.raises(InputError, match=re.escape(f"row {row}: the time column 'ts' holds {shown}, ") + ".*ISO 8601"):
        times(*values)


def labels(column: pa.Array, label) -> list[float]:
    schema = read_schema({"label": label, "fields": [{"name": "p", "kind": "number"}]})
    return read_label(schema.label, column, where).tolist()


@pytest.mark.parametrize(
    "values",
    [
        [1, 0],
        [1.0, 0.0],
        [True, False],
        ["1", "0"],
        ["1.0", "0.0"],
        ["True", "False"],
        ["TRUE", "false"],
        ["yes", "No"],
    ],
)
def test_labels_mean_the_same_in_every_type(values):
    assert labels(pa.array(values), "y") == [1, 0]
    assert labels(pa.array(values).dictionary_encode().dictionary_decode(), "y") == [1, 0]


@pytest.mark.parametrize(
    "positive, values",
    [
        ("yes", ["yes", "no"]),
        (True, ["yes", "no"]),
        (False, ["no", "yes"]),
        (3, [3, 1]),
        (3, [3.0, 1.0]),
        (3, ["3", "1"]),
    ],
)
def test_any_value_may_be_the_positive_one(positive, values):
    assert labels(pa.array(values), {"column": "y", "positive": positive}) == [1, 0]


def test_whole_numbers_beyond_floats_are_told_apart_as_labels():
    assert labels(pa.array([10**17 + 1, 10**17]), {"column": "y", "positive": 10**17 + 1}) == [1, 0]


def test_text_of_numbers_may_have_a_limit():
    assert labels(pa.array(["5", "3.5"]), {"column": "y", "positive_above": 4}) == [1, 0]


@pytest.mark.parametrize("rule", ["y", {"column": "y", "positive": "yes"}, {"column": "y", "positive_above": 0}])
def test_a_row_without_a_label_is_refused_under_every_rule(rule):
    with pytest.raises(InputError, match="row 2: the label column 'y' holds nothing"):
        labels(pa.array(["1", None]), rule)


def test_two_rules_for_one_label_are_refused():
    with pytest.raises(ConfigError, match="choose `positive` or `positive_above`"):
        labels(pa.array([1]), {"column": "y", "positive": 1, "positive_above": 0})


def test_words_for_nothing_are_missing_in_parquet_as_they_are_in_csv():
    from slimrec.data.encode import column_of
    from slimrec.schema import Field

    table = pa.table({"c": np.array(["NULL", "a"]), "n": [1, 2]})
    assert column_of(table, Field(name="c", kind="category"), ("NULL", "1")).to_pylist() == [None, "a"]
    assert column_of(table, Field(name="n", kind="number"), ("NULL", "1")).to_pylist() == [1, 2]


@pytest.mark.parametrize(("unit", "told"), [(1000, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
def test_whole_numbers_of_two_units_in_one_time_column_are_refused(tmp_path, unit, told):
    """Seconds in one file and milliseconds in the next stand in an order of their own: a split by it trains on the future."""
    seconds = np.arange(1_700_000_000, 1_700_000_400)
    for file, times in (("a", seconds), ("b", (seconds + 400) * unit)):
        pq.write_table(pa.table({"t": times, "x": seconds % 3, "y": seconds % 2}), tmp_path / f"{file}.parquet")
    fields = {"label": "y", "time": "t", "fields": [{"name": "x", "kind": "category"}]}
    config = IngestConfig(source=str(tmp_path), fields=fields)
    with pytest.raises(
        InputError, match=f"counts seconds since 1970 in .*a.parquet.* and {told} in .*b.parquet"
    ) as refused:
        make_plan(config, open_source(config), 1)
    assert "write one of them" in str(refused.value)


def test_numbers_that_are_no_moments_are_one_order_however_far_apart_they_lie():
    assert epoch_units(read_time("t", pa.array([7, 1_700_000_000, 1_700_000_000_000]), str)).keys() == {
        *("", "seconds", "milliseconds")
    }
    check_units("t", {"": "row 1", "seconds": "row 2", "milliseconds": "row 3"})
    assert epoch_units(read_time("t", pa.array([0, -1, 1_700_000_000, 1_700_000_000_000]), str)) == {
        "seconds": 2, "milliseconds": 3,
    }  # fmt: skip
    assert epoch_units(read_time("t", pa.array([1.7e9, 1.7e9 + 0.5]), str)) == {"seconds": 0}
    assert epoch_units(read_time("t", pa.array([4_200_000_000_000, 1_700_000_000_000_000_000]), str)) == {
        "milliseconds": 0,
        "nanoseconds": 1,
    }
