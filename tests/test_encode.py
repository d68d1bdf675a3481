"""Encoding: every kind of field against values worked out by hand, pandas or scikit-learn."""

import datetime
import decimal
import re
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.preprocessing import StandardScaler

from slimrec.config import read_schema
from slimrec.data.encode import Encoder
from slimrec.data.fit import Fitting
from slimrec.data.hashing import hash_strings, splitmix64
from slimrec.data.novelty import Novelty
from slimrec.errors import InputError
from slimrec.schema import MISSING, PAD, RESERVED_ROWS, UNSEEN


def fit(table: pa.Table, *fields: dict, max_vocabulary: int = 1000) -> Encoder:
    """The encoder learnt from all rows of a table, in two pieces."""
    schema = read_schema({"label": "y", "fields": list(fields)})
    fitting = Fitting(schema, max_vocabulary)
    half = table.num_rows // 2
    for start, piece in ((0, table.slice(0, half)), (half, table.slice(half))):
        rows = np.arange(start, start + piece.num_rows)
        fitting.add(piece, rows, lambda i, start=start: f"row {start + i + 1}")
    return fitting.finish().encoder


def ids_of(values: pa.Array, **options) -> tuple[list, Encoder]:
    table = pa.table({"x": values})
    encoder = fit(table, {"name": "x", "kind": "category", **options})
    return encoder.encode(table)[0][:, 0].tolist(), encoder


@pytest.mark.parametrize(
    "values, text",
    [
        (pa.array([7, -3], pa.int32()), ["7", "-3"]),
        (pa.array([2**64 - 1, 2**31], pa.uint64()), ["18446744073709551615", "2147483648"]),
        (pa.array([7.0, 2.5], pa.float64()), ["7", "2.5"]),
        (pa.array([0.1, 1e20], pa.float32()), ["0.1", "100000002004087734272"]),
        (pa.array([True, False]), ["1", "0"]),
        (pa.array([b"caf\xc3\xa9", b""], pa.binary()), ["café", ""]),
        (pa.array(["a", ""], pa.large_string()), ["a", ""]),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
        (pa.array([decimal.Decimal("7.00"), decimal.Decimal("2.50")]), ["7", "2.5"]),
        (pa.array([datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)]), ["2026-01-02", "2026-01-03"]),
    ],
)
def test_category_values_have_one_normal_form_whatever_their_type(values, text):
    _, encoder = ids_of(values)
    assert sorted(encoder.vocabularies["x"]) == sorted(text)


def test_an_integer_column_is_served_with_floats_text_or_booleans_alike():
    encoder = fit(pa.table({"x": pa.array([1, 1, 0, 12])}), {"name": "x", "kind": "category"})
    expected = [RESERVED_ROWS, RESERVED_ROWS + 1]
    for same in ([1, 0], [1.0, 0.0], ["1", "0"], [True, False], [b"1", b"0"]):
        assert encoder.encode(pa.table({"x": same}))[0][:, 0].tolist() == expected


def test_null_nan_unseen_and_empty_text_are_told_apart():
    encoder = fit(pa.table({"x": ["a", "a", "", None]}), {"name": "x", "kind": "category"})
    served, _ = encoder.encode(pa.table({"x": ["a", "", None, "new"]}))
    assert served[:, 0].tolist() == [3, 4, MISSING, UNSEEN]
    floats = fit(pa.table({"x": [1.0, 2.0]}), {"name": "x", "kind": "category"})
    assert floats.encode(pa.table({"x": [float("nan"), 1.0]}))[0][:, 0].tolist() == [MISSING, 3]
    assert encoder.encode(pa.table({"x": pa.nulls(2)}))[0][:, 0].tolist() == [MISSING] * 2
    assert encoder.schema["x"].statistics.missing_share == 0.25


def test_the_vocabulary_holds_values_seen_often_enough_the_most_frequent_first():
    values = np.random.default_rng(0).zipf(1.5, 3000) % 200
    counts = Counter(str(value) for value in values)
    kept = sorted((v for v in counts if counts[v] >= 4), key=lambda v: (-counts[v], v))
    ids, encoder = ids_of(pa.array(values), min_count=4)
    assert list(encoder.vocabularies["x"]) == kept
    assert encoder.schema["x"].statistics.distinct == len(counts)
    assert encoder.schema["x"].rows == RESERVED_ROWS + len(kept)
    position = {value: RESERVED_ROWS + i for i, value in enumerate(kept)}
    assert ids == [position.get(str(value), UNSEEN) for value in values]


def test_hashed_ids_stay_in_their_rows_and_never_change():
    ids, encoder = ids_of(pa.array(["a", "b", None, "a"]), hash_rows=10)
    assert ids[0] == ids[3] and ids[2] == MISSING and not encoder.vocabularies
    assert encoder.schema["x"].rows == 13
    many, _ = ids_of(pa.array([f"v{i}" for i in range(2000)]), hash_rows=10)
    assert set(many) == set(range(3, 13))
    assert hash_strings(["a", ""]).tolist() == [16097481382586691118, 3517977430034536757]
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # the first outputs of SplitMix64 from state 0
    assert splitmix64(np.array([0, 0x9E3779B97F4A7C15], np.uint64)).tolist() == published


def test_bags_pad_cut_and_mark_missing_and_may_come_as_text():
    field = {"name": "x", "kind": "bag", "max_length": 2}
    lists = pa.table({"x": [["a", "b", "c"], [], None, ["a"], ["a", None]]})
    encoder = fit(lists, field)
    assert encoder.vocabularies["x"] == ["a", "b"]  # `c` was cut before it was counted
    served, _ = encoder.encode(lists)
    assert served.tolist() == [[3, 4], [MISSING, PAD], [MISSING, PAD], [3, PAD], [3, MISSING]]
    text = fit(pa.table({"x": ["a|b|c", "", None, "a", "a|z"]}), {**field, "separator": "|"})
    served, _ = text.encode(pa.table({"x": ["a|b|c", "", None, "q|a"]}))
    assert served.tolist() == [[3, 4], [MISSING, PAD], [MISSING, PAD], [UNSEEN, 3]]


def test_a_slice_of_a_table_is_encoded_as_its_own_rows():
    table = pa.table({"x": [["a"], ["b", "a"], None, ["c"]], "v": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0]]})
    encoder = fit(table, {"name": "x", "kind": "bag"}, {"name": "v", "kind": "vector", "width": 2})
    whole, part = encoder.encode(table), encoder.encode(table.slice(1, 2))
    assert np.array_equal(whole[0][1:3], part[0]) and np.array_equal(whole[1][1:3], part[1])


def test_numbers_are_standardised_like_scikit_learn_does_and_missing_is_zero():
    x = np.random.default_rng(1).gamma(2.0, 1000.0, 501)
    table = pa.table({"a": pa.array([*x, None]), "b": pa.array([*-x, None]), "c": pa.array([*x, None])})
    encoder = fit(
        table,
        {"name": "a", "kind": "number"},
        {"name": "b", "kind": "number", "scale": "log"},
        {"name": "c", "kind": "number", "scale": "none"},
    )
    _, dense = encoder.encode(table)
    logs = -np.log1p(x)
    assert dense[:-1, 0] == pytest.approx(StandardScaler().fit_transform(x[:, None])[:, 0], abs=1e-5)
    assert dense[:-1, 1] == pytest.approx(StandardScaler().fit_transform(logs[:, None])[:, 0], abs=1e-5)
    assert dense[:-1, 2] == pytest.approx(x, rel=1e-6)
    assert dense[-1].tolist() == [0, 0, 0]


def test_a_constant_number_becomes_zero_and_not_nan():
    table = pa.table({"x": [0.1] * 7})
    assert fit(table, {"name": "x", "kind": "number"}).encode(table)[1][:, 0].tolist() == pytest.approx(
        [0] * 7, abs=1e-6
    )


def test_log_square_makes_the_categories_of_the_formula():
    values = [-1.5, 0, 1, 2, 2.5, 10, 100, None]
    by_hand = ["-2", "0", "1", "2", "0", "5", "21"]  # floor(ln(2.5)^2) = 0, floor(ln(10)^2) = 5, floor(ln(100)^2) = 21
    encoder = fit(pa.table({"x": values}), {"name": "x", "kind": "number", "discretise": "log_square"})
    ids, _ = encoder.encode(pa.table({"x": values}))
    names = [encoder.vocabularies["x"][i - RESERVED_ROWS] for i in ids[:-1, 0]]
    assert names == by_hand and ids[-1, 0] == MISSING


def test_quantiles_share_out_the_training_rows_and_ties_stay_together():
    x = np.random.default_rng(2).standard_normal(4000)
    table = pa.table({"x": x})
    ids = fit(table, {"name": "x", "kind": "number", "discretise": "quantile", "bins": 8}).encode(table)[0][:, 0]
    assert np.abs(np.bincount(ids)[RESERVED_ROWS:] / 4000 - 1 / 8).max() < 0.002
    assert (np.diff(ids[np.argsort(x)]) >= 0).all()
    halves = fit(
        pa.table({"x": [1.0, 2.0, 3.0, 4.0, 5.0]}), {"name": "x", "kind": "number", "discretise": "quantile", "bins": 2}
    )
    below, on, above = halves.encode(pa.table({"x": [2.999, 3.0, 3.001]}))[0][:, 0]
    assert (below, on, above) == (RESERVED_ROWS, RESERVED_ROWS + 1, RESERVED_ROWS + 1)  # the median counts above it
    tied = pa.table({"x": [0.0] * 90 + list(range(1, 11)) + [None]})
    encoder = fit(tied, {"name": "x", "kind": "number", "discretise": "quantile", "bins": 20})
    ids = encoder.encode(tied)[0][:, 0]
    assert set(ids[:90]) == {RESERVED_ROWS} and ids[-1] == MISSING and ids.max() < encoder.schema["x"].rows


def test_quantiles_tell_a_number_that_is_seldom_there_from_its_usual_value():
    table = pa.table({"x": [0.0] * 999 + [5.0]})
    encoder = fit(table, {"name": "x", "kind": "number", "discretise": "quantile"})
    ids = encoder.encode(table)[0][:, 0].tolist()
    assert ids == [RESERVED_ROWS] * 999 + [RESERVED_ROWS + 1] and encoder.schema["x"].rows == RESERVED_ROWS + 2


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("category", ["a", "a", "a"], "it is constant"),
        ("category", ["a", None, "a"], ""),  # what is missing tells
        ("category", [None, None, None], "it holds nothing"),
        ("number", [2.0, 2.0, 2.0], "it is constant"),
        ("number", [2.0, None, 2.0], "which a number does not tell apart; declare it as a category"),
        ("number", [1.0, None, 2.0], ""),
    ],
)
def test_a_person_is_told_of_a_field_that_nothing_can_be_learnt_from_and_of_no_other(kind, values, told):
    schema = read_schema({"label": "y", "fields": [{"name": "x", "kind": kind}]})
    fitting = Fitting(schema, 100)
    fitting.add(pa.table({"x": values}), np.arange(3), str)
    remarks = fitting.finish().remarks
    assert len(remarks) == bool(told) and told in "".join(remarks)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float64())])
def test_vectors_keep_their_width_and_a_missing_one_is_zero(kind):
    table = pa.table({"x": pa.array([[1, 2, 3], None, [4, 5, 6]], kind)})
    encoder = fit(table, {"name": "x", "kind": "vector", "width": 3})
    assert encoder.encode(table)[1].tolist() == [[1, 2, 3], [0, 0, 0], [4, 5, 6]]
    with pytest.raises(InputError, match="row 1: field 'x' has 2 numbers.*width 3"):
        encoder.encode(pa.table({"x": [[1.0, 2.0]]}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinities_are_refused_with_field_and_row_or_taken_as_missing(bad):
    good, dirty = pa.table({"x": [1.0, 2.0, 3.0]}), pa.table({"x": pa.array([1.0, bad, 3.0], from_pandas=False)})
    with pytest.raises(InputError, match=r"row 2: field 'x' holds .*`nonfinite: missing`"):
        fit(good, {"name": "x", "kind": "number"}).encode(dirty)
    lenient = fit(dirty, {"name": "x", "kind": "number", "nonfinite": "missing"})
    assert lenient.encode(dirty)[1][:, 0].tolist() == pytest.approx([-1, 0, 1])
    vector = fit(pa.table({"x": [[1.0, 2.0]] * 2}), {"name": "x", "kind": "vector", "width": 2})
    with pytest.raises(InputError, match="row 2: field 'x'"):
        vector.encode(pa.table({"x": pa.array([None, [1.0, bad]])}))


def test_a_number_too_large_for_float32_is_refused():
    encoder = fit(pa.table({"x": [1.0, 2.0]}), {"name": "x", "kind": "number", "scale": "none"})
    with pytest.raises(InputError, match="row 2: field 'x' is too large"):
        encoder.encode(pa.table({"x": [0.0, 1e300]}))


def test_what_cannot_serve_a_field_is_named():
    encoder = fit(pa.table({"colour": ["a", "b"]}), {"name": "colour", "kind": "category"})
    with pytest.raises(InputError, match="'colour'.*is missing.*did you mean 'color'"):
        encoder.encode(pa.table({"color": ["a"]}))
    with pytest.raises(InputError, match="field 'colour' is a category.*list<"):
        encoder.encode(pa.table({"colour": [["a"]]}))
    with pytest.raises(InputError, match="stands twice"):
        encoder.encode(pa.table([["a"], ["b"]], names=["colour", "colour"]))
    with pytest.raises(InputError, match="field 'x' is a number.*string"):
        fit(pa.table({"x": ["1"]}), {"name": "x", "kind": "number"})
    with pytest.raises(InputError, match="more than 3 distinct values.*hash_rows"):
        fit(pa.table({"x": ["a", "b", "c", "d"]}), {"name": "x", "kind": "category"}, max_vocabulary=3)


def test_a_saved_encoder_comes_back_equal_even_with_odd_field_names(tmp_path):
    table = pa.table({"a/b ü": ["x", "", None], "..": [1.5, 2.5, 1e-7], "q": [1.0, 2.0, 3.0]})
    encoder = fit(
        table,
        {"name": "a/b ü", "kind": "category"},
        {"name": "..", "kind": "number"},
        {"name": "q", "kind": "number", "discretise": "quantile"},
    )
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path)
    assert loaded.schema == encoder.schema
    for ours, theirs in zip(encoder.encode(table), loaded.encode(table)):
        assert np.array_equal(ours, theirs)
    (file,) = (tmp_path / "vocab").iterdir()
    assert re.fullmatch(r"\+[0-9a-f]{64}\.parquet", file.name)  # which a store takes for no code
    file.rename(file.with_name("a%2Fb%20%C3%BC.parquet"))  # as earlier releases wrote it
    assert Encoder.load(tmp_path).vocabularies == encoder.vocabularies


def test_a_narrowed_encoder_needs_only_its_columns_and_ignores_others():
    frame = pd.DataFrame({"a": ["x", "y"], "b": [1, 2], "c": [0.5, 1.5]})
    table = pa.Table.from_pandas(frame)
    fields = {"name": "a", "kind": "category"}, {"name": "b", "kind": "category"}, {"name": "c", "kind": "number"}
    encoder = fit(table, *fields)
    narrow = encoder.narrow(["a", "c"])
    assert narrow.schema.names == ("a", "c")
    for rows in (table, table.select(["c", "a"])):
        assert np.array_equal(narrow.encode(rows)[0], encoder.encode(table)[0][:, :1])
        assert np.array_equal(narrow.encode(rows)[1], encoder.encode(table)[1])


def test_a_number_that_was_constant_in_training_cannot_move_a_score():
    table = pa.table({"x": [0.0] * 9 + [None], "v": [[1.0, 2.0], [1.0, 4.0]] * 5})
    encoder = fit(table, {"name": "x", "kind": "number"}, {"name": "v", "kind": "vector", "width": 2})
    novelty = Novelty()
    rows = pa.table({"x": [5000.0, 0.0, None], "v": [[1.0, 9.0], [-7.0, 3.0], [1.0, 0.0]]})
    _, dense = encoder.encode(rows, novelty=novelty)
    assert dense.tolist() == [[1, 6, 0], [1, 3, 0], [1, 0, 0]]  # the fields in order of their names: v, x
    assert novelty.shares() == {"x": 0.5, "v": 2 / 6}


@pytest.mark.parametrize("scale", ["standard", "log", "none"])
def test_numbers_are_held_within_the_trained_range_and_its_span_on_both_sides(scale):
    x = np.array([-3.0, 0.0, 1.0, 2.0])
    field = {"name": "x", "kind": "number", "scale": scale}
    encoder = fit(pa.table({"x": x}), field)
    plain = np.sign(x) * np.log1p(np.abs(x)) if scale == "log" else x
    low, high = 2 * plain.min() - plain.max(), 2 * plain.max() - plain.min()
    mean, deviation = (0, 1) if scale == "none" else (plain.mean(), plain.std())
    far = np.array([-1e6, 1e6, -3.1, 2.1])
    beyond = np.sign(far) * np.log1p(np.abs(far)) if scale == "log" else far
    wanted = (np.clip(beyond, low, high) - mean) / deviation
    assert encoder.encode(pa.table({"x": far}))[1][:, 0] == pytest.approx(wanted, rel=1e-6)
    assert wanted[0] == (low - mean) / deviation and wanted[3] == (beyond[3] - mean) / deviation


def test_a_schema_fitted_before_limits_were_recorded_has_none():
    encoder = fit(pa.table({"x": [1.0, 2.0]}), {"name": "x", "kind": "number", "scale": "none"})
    figures = encoder.schema["x"].statistics.model_copy(update={"low": (), "high": ()})
    before = encoder.schema["x"].model_copy(update={"statistics": figures})
    older = Encoder(encoder.schema.model_copy(update={"fields": (before,)}), {})
    assert older.encode(pa.table({"x": [77.0]}))[1].tolist() == [[77.0]]


def test_a_field_name_longer_than_a_file_name_has_a_vocabulary_of_its_own(tmp_path):
    names = [
        "用户最近三十天在所有商品类目下的点击次数与曝光次数之比值特征",
        "用户最近三十天在所有商品类目下的点击次数与曝光次数之比值特点",
    ]
    table = pa.table({names[0]: ["a"], names[1]: ["b"]})
    fit(table, *({"name": name, "kind": "category"} for name in names)).save(tmp_path)
    assert Encoder.load(tmp_path).vocabularies == {names[0]: ["a"], names[1]: ["b"]}


def test_half_precision_serves_as_number_and_as_category():
    table = pa.table({"x": pa.array(np.array([0.5, 2.0, 0.5], np.float16)), "y": pa.array(np.ones(3, np.float16))})
    encoder = fit(table, {"name": "x", "kind": "category"}, {"name": "n", "kind": "number", "column": "x"})
    assert encoder.vocabularies["x"] == ["0.5", "2"] and encoder.schema["n"].statistics.mean == (1.0,)
