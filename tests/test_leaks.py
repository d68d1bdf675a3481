"""What gives the label away is named before any search, stops an approval, and is let through by name only."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
import yaml
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from slimrec.cli import app
from slimrec.config import EvaluateConfig, IngestConfig
from slimrec.data.dataset import Dataset
from slimrec.data.planted import generate
from slimrec.errors import ConfigError
from slimrec.schema import Field, Schema, Statistics
from slimrec.stages import evaluate, ingest
from slimrec.track import Tracker
from slimrec.verdict import certify, leaks, signs
from slimrec.verdict.decision import Veto, decide, heed
from slimrec.verdict.signs import Leak

ROWS = 6000
SPLIT = {"by": "random", "train": 0.6, "gate": 0.1, "valid": 0.1, "test": 0.2}


def planted(**changed):
    """The clean log and its fields, changed: columns by name, None takes one away."""
    table, schema = generate(ROWS, seed=3)
    fields = schema.model_dump(mode="json", exclude_defaults=True)
    for name, values in changed.items():
        table = table.append_column(name, pa.array(values, from_pandas=True))
    return table, fields


def ingested(folder, table, fields, *more, split=SPLIT, trusted=()):
    pq.write_table(table, folder / "log.parquet")
    fields = {**fields, "fields": [*fields["fields"], *more]}
    config = IngestConfig(source=str(folder / "log.parquet"), fields=fields, split=split, trusted=trusted)
    figures = ingest.run(config, Tracker(), folder / "dataset")
    return {(leak.kind, leak.name) for leak in leaks.read(folder / "dataset")}, figures


def labels():
    return planted()[0]["click"].to_numpy()


def test_a_clean_log_raises_no_alarm(tmp_path):
    assert ingested(tmp_path, *planted())[0] == set()


def test_a_field_that_ranks_as_the_label_does_is_named_whatever_its_kind(tmp_path):
    random, label = np.random.default_rng(0), labels()
    noisy = np.where(random.random(ROWS) < 0.04, 1 - label, label)
    table, fields = planted(word=noisy.astype(str), size=label * 3 + random.random(ROWS))
    table = table.append_column("many", pa.array(list(random.normal(size=(ROWS, 4)) + np.outer(noisy, [0, 4, -4, 2]))))
    more = [{"name": "word", "kind": "category"}, {"name": "size", "kind": "number"}]
    more.append({"name": "many", "kind": "vector", "width": 4})
    _, figures = ingested(tmp_path, table, fields, *more, trusted=("word",))
    found = leaks.read(tmp_path / "dataset")
    assert [(leak.name, leak.trusted) for leak in found] == [("size", False), ("many", False), ("word", True)]
    held = np.concatenate([Dataset.open(tmp_path / "dataset").split(name).row for name in ("gate", "valid")])
    auc = roc_auc_score(label[held], noisy[held])
    assert found[-1].figure == pytest.approx(auc) and found[1].figure == pytest.approx(auc, abs=0.02)
    assert found[-1].said == f"field 'word' alone has an AUC of {auc:.3f}" and found[0].kind == "alone"
    assert any("looks like a leak" in remark for remark in figures["remarks"])


def test_an_id_whose_values_have_one_label_each_is_a_bijection(tmp_path):
    table, fields = planted(order=[f"o{7 * i % 90 // 2 * 2 + int(c)}" for i, c in enumerate(labels())])
    assert ("bijection", "order") in ingested(tmp_path, table, fields, {"name": "order", "kind": "category"})[0]


@pytest.mark.parametrize("kind", ["number", "category", "bag"])
def test_a_field_that_is_there_for_clicks_only_is_told_by_what_is_missing(kind, tmp_path):
    random = np.random.default_rng(1)
    there = (labels() == 1) & (random.random(ROWS) < 0.2)
    values = [int(v) if t else None for v, t in zip(random.integers(1, 60, ROWS), there)]
    if kind == "bag":
        values = [[] if value is None else [str(value % 5)] * (1 + value % 3) for value in values]
    found, _ = ingested(tmp_path, *planted(dwell=values), {"name": "dwell", "kind": kind})
    assert found == {("missing", "dwell")}


def test_numbers_are_told_apart_by_two_hundred_ranges_that_hold_as_many_rows_each():
    seen, asked = np.arange(1.0, 1001), np.array([0.0, -3.0, 1.0, 995.0, 996.0, 2000.0])  # 0: missing
    first, second = signs._codes(Field(name="size", kind="number"), seen, asked)
    assert np.bincount(first).tolist() == [0] + [5] * 200
    assert second.tolist() == [0, 1, 1, 199, 200, 200]


def test_a_time_after_the_row_s_own_is_known_too_late(tmp_path):
    table, fields = planted()
    later = table["time"].to_numpy() + np.random.default_rng(2).integers(1, 9000, ROWS)
    found, _ = ingested(
        tmp_path, table.append_column("paid", pa.array(later)), fields, {"name": "paid", "kind": "number"}
    )
    assert found == {("later", "paid")}


def test_a_time_before_the_row_s_own_is_no_leak_whatever_its_unit(tmp_path):
    table, fields = planted()
    before = table["time"].to_numpy() - np.random.default_rng(2).integers(1, 9000, ROWS)
    for name, unit in (("made", 1), ("made_ms", 1000)):
        table = table.append_column(name, pa.array(before * unit))
    more = [{"name": name, "kind": "number"} for name in ("made", "made_ms")]
    assert ingested(tmp_path, table, fields, *more)[0] == set()


def test_a_bag_ranks_by_the_mean_rate_of_the_values_it_holds():
    rate = np.array([9.0, 9.0, 9.0, 0.2, 0.6])  # the first three are no values
    assert signs._mean(rate, np.array([[3, 4], [4, 0], [1, 0]])) == pytest.approx([0.4, 0.6, 0.0])


def test_a_time_that_is_the_row_s_own_in_many_rows_is_told_too_whatever_its_type_rounds_off(tmp_path):
    table, fields = planted()
    later = table["time"].to_numpy() + np.where(np.arange(ROWS) % 5 < 2, 0, 5000)
    found, _ = ingested(
        tmp_path, table.append_column("paid", pa.array(later)), fields, {"name": "paid", "kind": "number"}
    )
    assert found == {("later", "paid")}


def test_a_field_that_few_rows_hold_is_no_leak_where_their_one_label_may_be_chance(tmp_path):
    other = np.flatnonzero(labels() == 0)[:80]
    assert 25 < len(other) and len(other) * labels().mean() < 25  # rows, and positive ones among them by chance
    values = [1 if i in set(other) else None for i in range(ROWS)]
    assert ingested(tmp_path, *planted(dwell=values), {"name": "dwell", "kind": "category"})[0] == set()


def test_of_a_long_log_rows_from_all_over_it_are_looked_at(tmp_path):
    ingested(tmp_path, *planted())
    rows = signs._read(tmp_path / "dataset", Dataset.open(tmp_path / "dataset").schema, ("train",), 700, None)
    dataset = Dataset.open(tmp_path / "dataset")
    whole = dataset.split("train").time
    assert len(whole) > 3000 and rows.time.tolist() == whole[:: -(-len(whole) // 700)].tolist()
    both = np.append(dataset.split("gate").time, dataset.split("valid").time)
    for most, step in ((len(both), 1), (len(both) - 1, 2), (len(both) // 7 + 1, 7)):
        rows = signs._read(tmp_path / "dataset", dataset.schema, ("gate", "valid"), most, None)
        assert rows.time.tolist() == both[::step].tolist()


def test_lines_that_stand_on_both_sides_of_the_split_are_copies(tmp_path):
    table, fields = planted()
    assert ingested(tmp_path, pa.concat_tables([table, table.slice(0, 2000)]), fields)[0] == {("copies", "copies")}


def test_groups_of_one_label_on_both_sides_of_a_split_leak_and_a_split_by_group_does_not(tmp_path):
    table, fields = planted(person=[f"p{i % 400 * 2 + int(c)}" for i, c in enumerate(labels())])
    table = table.append_column("worth", pa.array(1 + np.arange(ROWS) % 7 / 4))
    fields = {**fields, "group": "person", "weight": "worth"}
    assert ingested(tmp_path, table, fields)[0] == {("group", "person")}
    dataset = Dataset.open(tmp_path / "dataset")
    rows, train = signs._read(tmp_path / "dataset", dataset.schema, ("train",), ROWS, None), dataset.split("train")
    assert (
        rows.weight.tolist() == (1 + train.row % 7 / 4).tolist() and rows.label.tolist() == (train.label == 1).tolist()
    )
    assert ingested(tmp_path, table, fields, split={**SPLIT, "by": "group"})[0] == set()


def test_trusted_names_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="ingest.trusted names 'wrod'"):
        ingested(tmp_path, *planted(), trusted=("wrod",))
    assert not (tmp_path / "dataset").exists()


def test_a_leak_stops_the_certificate_is_first_in_the_report_and_is_let_through_by_name(tmp_path):
    world = small.make(tmp_path)
    paths = {name: getattr(world, name) for name in ("dataset", "slim", "full", "selection")}
    found = Leak(kind="alone", name="price", figure=0.97, said="field 'price' alone has an AUC of 0.970")

    def judged(trusted):
        entry = found.model_copy(update={"trusted": trusted})
        (world.dataset / leaks.LEAKS).write_text(json.dumps([entry.model_dump()]))
        config = EvaluateConfig(allowed_auc_loss=0.3, latency_repeats=1)
        figures = evaluate.run(config, Tracker(), **paths, report=tmp_path / "report")
        return figures, (tmp_path / "report" / "report.md").read_text().splitlines()

    figures, page = judged(trusted=False)
    assert figures["verdict"] == "inconclusive" and figures["decision"] == "reject"
    assert figures["reason"].startswith("looks like a leak") and "ingest.trusted: [price]" in figures["reason"]
    assert page[2].startswith("- **Looks like a leak: field 'price'")
    assert judged(trusted=True)[0]["verdict"] == "certified"


@pytest.mark.parametrize("slim", [0.0, 3.0])
def test_a_leak_is_named_first_whatever_the_comparison_says(slim):
    random = np.random.default_rng(0)
    label = random.random(400) < 0.5
    full = 2.0 * label + random.normal(size=400)
    compared = certify.compare(label, full, full + slim * random.normal(size=400), np.ones(400), None, 0.95)
    found = Leak(kind="alone", name="price", figure=0.97, said="field 'price' alone has an AUC of 0.970")
    plain = decide(compared, 0.001, [], {"failed": ""}, {"longer": None})
    told = decide(compared, 0.001, [found], {"failed": ""}, {"longer": None})
    assert plain[0] == ("rejected" if slim else "inconclusive") == told[0]
    assert told[1].startswith("looks like a leak: field 'price'") and told[1].endswith(f"over all rows {plain[1]}")


GOOD = certify.compare(*np.tile([[0, 1], [0, 1], [0, 1]], 500))


def decided(*vetoes, allowed=0.1, **given):
    facts = {"leaking": [], "tested": {"failed": ""}, "training": {"longer": ""}, **given}
    return decide(GOOD, allowed, vetoes=[Veto(*veto) for veto in vetoes], **facts)


def test_a_self_test_that_failed_takes_a_certificate_away_and_nothing_else():
    plain, failed = decided(), {"tested": {"failed": "it broke"}}
    assert plain[0] == "certified" and decided(**failed) == ("inconclusive", "it broke")
    open_ = decided(allowed=0.0001)
    assert open_[0] == "inconclusive" and decided(allowed=0.0001, **failed) == open_
    lost = ("rejected", "s loses")
    assert decided(lost, **failed) == decided(lost) == ("rejected", f"s loses; over all rows {plain[1]}")


def test_a_model_that_trained_longer_is_called_so_after_all_and_only_the_slim_one():
    said = decided()[1]
    assert decided(training={"longer": "slim"})[1] == f"{said}; the slim model trained longer than the full one"
    assert all(decided(training={"longer": longer})[1] == said for longer in ("full", "alike", "unknown", ""))


@pytest.mark.parametrize(
    ("outcome", "vetoes", "expected"),
    [
        ("certified", [("inconclusive", "a"), ("rejected", "b"), ("rejected", "c")], ("rejected", "b; c; over all rows r")),
        ("inconclusive", [("rejected", "b")], ("rejected", "b; over all rows r")),
        ("certified", [("inconclusive", "a"), ("", "x"), ("inconclusive", "b")], ("inconclusive", "a; b; over all rows r")),
        ("inconclusive", [("inconclusive", "a"), ("", "x")], ("inconclusive", "r")),
        ("rejected", [("inconclusive", "a"), ("", "x")], ("rejected", "r")),
        ("certified", [("", "x"), ("", ""), ("", "y")], ("certified", "r; x; y")),
        ("certified", [], ("certified", "r")),
    ],
)  # fmt: skip
def test_of_all_that_stands_against_a_verdict_the_gravest_is_named_and_remarks_follow_a_certificate(
    outcome, vetoes, expected
):
    assert heed(outcome, "r", [Veto(*veto) for veto in vetoes]) == expected


def test_the_screen_of_an_audit_hears_of_a_leak_and_the_log_says_it_once(tmp_path, capsys):
    noisy = np.where(np.random.default_rng(0).random(ROWS) < 0.02, 1 - labels(), labels())
    ingested(tmp_path, *planted(word=noisy.astype(str)), {"name": "word", "kind": "category"})
    said = capsys.readouterr()
    assert "slimrec: warning: this looks like a leak: field 'word' alone" in said.out
    assert (said.out + said.err).count("looks like a leak: field 'word' alone") == 1


def test_a_drafted_schema_begins_with_what_looks_like_a_leak(tmp_path):
    table, _ = planted(answer=labels())
    pq.write_table(table, tmp_path / "log.parquet")
    done = CliRunner().invoke(app, ["schema", str(tmp_path / "log.parquet")])
    assert done.exit_code == 0 and "# LOOKS LIKE A LEAK: " in done.stdout and "'answer'" in done.stdout
    assert yaml.safe_load(done.stdout)["label"] == "click"  # nothing but the draft, for `> schema.yaml`


def side(label, weight=None, group=None, time=None, **fields):
    """Rows by hand."""
    label = np.asarray(label, bool)
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, float)
    return signs._Rows(fields, label, weight, np.zeros(len(label)) if group is None else group, time)


CATEGORY = Field(name="dwell", kind="category")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("positives", "of", "count", "told"),
    [(500, 1, 50, True), (500, 1, 49, False), (250, 0, 100, True), (250, 0, 99, False), (250, 1, 34, True), (250, 1, 33, False)],
)  # fmt: skip
def test_one_label_wherever_nothing_is_held_tells_from_twenty_five_on_that_chance_had_given_the_other_way(
    positives, of, count, told, turned
):
    label = np.arange(1000) < positives
    empty = np.zeros(1000, bool)
    empty[np.flatnonzero(label == of)[:count]] = True
    order = np.random.default_rng(0).permutation(1000)
    label, values = label[order], np.where(empty != turned, 1, 7)[order]
    found = signs._missing(CATEGORY, values[:600], values[600:], side(label[:600]), side(label[600:]))
    words = "holds a value" if turned else "is missing"
    said = f"wherever field 'dwell' {words}, in {count / 10:.2g} % of the rows, the label is {of}"
    assert found == (Leak(kind="missing", name="dwell", figure=1.0, said=said) if told else None)
    if told and not turned:
        values[np.flatnonzero((values == 7) & (label != of))[0]] = 1  # one of the other label
        assert signs._missing(CATEGORY, values[:600], values[600:], side(label[:600]), side(label[600:])) is None


def test_how_many_rows_lack_a_value_is_said_in_percent():
    label, values = np.arange(100) < 15, np.where(np.arange(100) < 15, 7, 1)
    found = signs._missing(
        CATEGORY, np.tile(values, 2), np.tile(values, 2), side(np.tile(label, 2)), side(np.tile(label, 2))
    )
    assert found.said == "wherever field 'dwell' is missing, in 85 % of the rows, the label is 0"


def later(raw, time, **more):
    """What is said of a number field that holds these, NaN where missing."""
    raw = np.asarray(raw, float)
    values = np.where(np.isnan(raw), 0.0, (raw - 7.5) / 2)
    statistics = Statistics(mean=(7.5,), deviation=(2.0,))
    field = Field(**{"name": "paid", "kind": "number", "statistics": statistics} | more)
    time = None if time is None else np.asarray(time)
    return signs._later(field, side(np.zeros(len(raw)), time=time, paid=values))


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6, 1e9, 1e-3, 1e-6, 1e-9])
def test_a_time_is_later_in_any_unit_where_most_rows_are_before_it_and_hardly_one_behind(unit):
    time = 1_000_000 + 128 * np.arange(200)
    found = later((time + 64) / unit, time)
    assert (found.kind, found.name, found.figure) == ("later", "paid", 1.0)
    assert found.said == "field 'paid' holds a time after the row's own in 100 % of the rows that have it"


def test_a_time_is_not_later_at_the_limits_of_how_many_rows_say_so_and_how_surely():
    time = 1_000_000 + 128 * np.arange(200)
    at = np.random.default_rng(0).permutation(200)
    slack = 1e-6 * (time[-1] - time[0])

    def moved(after, before=0, by=64.0):
        return time + by * ((at < after).astype(int) - (at >= 200 - before))

    assert later(moved(101), time).figure == 0.505 and later(moved(100), time) is None
    assert later(moved(150, 1), time) is not None and later(moved(150, 2), time) is None
    assert later(moved(200, by=1.05 * slack), time) is not None and later(moved(200, by=0.95 * slack), time) is None
    assert later(moved(150, 50, by=0.95 * slack), time) is None
    assert later(time * 1.05, time) is not None and later(time * 1.055, time) is None
    assert later(np.where(np.arange(200) < 50, time + 64, np.nan), time) is not None
    assert later(np.where(np.arange(200) < 49, time + 64, np.nan), time) is None
    assert later(time[at] + 30_000, time) is None  # later, and of no row
    for by, told in ((3000, True), (4200, False)):  # correlations of 0.93 and 0.86
        raw = time + 30_000 + by * np.random.default_rng(1).normal(size=200)
        assert (later(raw, time) is not None) == told == (np.corrcoef(raw, time)[0, 1] > 0.9)
    assert later(np.full(200, time[-1] + 1), time) is None and later(time - np.median(time), time) is None
    assert later(time + 64, np.full(200, time[0])) is None and later(time + 64, None) is None
    for other in ({"scale": "log"}, {"discretise": "quantile"}, {"kind": "category"}, {"statistics": None}):
        assert later(time + 64, time, **other) is None


def test_a_rate_starts_with_ten_rows_at_the_mean_and_each_value_of_one_label_is_pure():
    label = np.array([1, 0, 1, 1, 0]) == 1
    rate, pure = signs._rates(np.array([3, 3, 4, 4, 5]), label, 8)
    assert rate == pytest.approx([0.6, 0.6, 0.6, 7 / 12, 8 / 12, 6 / 11, 0.6, 0.6]) and not pure
    assert signs._rates(np.array([3, 5, 4, 4, 5]), label, 6)[1]
    rate, _ = signs._rates(np.array([[3, 4], [3, 0], [4, 4], [1, 0], [5, 3]]), label, 6)
    assert rate[3:] == pytest.approx([7 / 13, 9 / 13, 6 / 11])


def test_what_a_field_lacks_is_told_by_its_kind():
    def empty(kind, values, share=0.5, **more):
        field = Field(name="x", kind=kind, statistics=Statistics(missing_share=share), **more)
        return signs._empty(field, np.array(values)).tolist()

    assert empty("category", [0, 1, 2, 3]) == [False, True, False, False]
    assert empty("bag", [[1, 0], [3, 1], [4, 0]]) == [True, False, False]
    assert empty("number", [0.0, 0.1, -0.0]) == [True, False, True] and empty("number", [0.0, 0.1], 0.0) == [False] * 2
    assert empty("vector", [[0.0, 0.1], [0.0, 0.0]], width=2) == [False, True]
    assert signs._empty(Field(name="x", kind="number"), np.zeros(2)).tolist() == [False, False]


def test_a_field_alone_is_a_bijection_only_where_each_row_holds_one_value_of_one_label():
    label = np.arange(60) % 2 == 0

    def alone(seen, asked, mine=label, field=CATEGORY):
        return signs._alone(field, seen, asked, side(label), side(mine))

    values = np.where(label, 4, 5)
    assert alone(values, np.append(values[:-1], 9)).figure == 1.0  # one that train has not stands between
    found = alone(values, values)
    assert (found.kind, found.figure, found.said) == (
        "bijection",
        1.0,
        "each value of field 'dwell' has one label only",
    )
    bag = np.column_stack([values, np.zeros(60, int)])
    found = alone(bag, bag, field=Field(name="dwell", kind="bag"))
    assert (found.kind, found.said) == ("alone", "field 'dwell' alone has an AUC of 1.000")
    mixed = np.append(values[:-1], 4)  # a value of both labels in train
    assert alone(mixed, values).kind == "alone" and alone(values, values, label & False) is None
    ids = np.where(np.arange(60) < 52, values, 6)  # 26 of 30 are told: an AUC of 0.9822, and of 8 alike half
    assert alone(ids, ids).figure == pytest.approx(1 - (8 / 60) ** 2 / 2)
    most = np.where(np.arange(60) < 36, values, 6)
    assert alone(most, most) is None  # 0.92
    one = np.append(values[:-2], [5, 5])  # a positive row that holds what negative ones do: 0.983
    assert alone(values, one).kind == "alone" and alone(values, values[:0], label[:0]) is None
    edge = np.where(np.arange(60) < 4, np.where(label, 5, 4), values)  # two of thirty each the wrong way round
    assert alone(values, edge).figure == pytest.approx(28 / 30) and alone(values, edge).kind == "alone"
    edge[4] = 5
    assert alone(values, edge) is None  # 0.9167
    vector, wide = np.column_stack([label * 1.0 + 5, np.ones(60)]), Field(name="dwell", kind="vector", width=2)
    assert alone(vector, vector, field=wide).kind == "alone"


def test_an_auc_of_93_in_a_hundred_gives_the_label_away_and_the_next_smaller_one_does_not():
    train, held = np.repeat([3, 4, 5, 6], 10), np.array([*[6] * 9, 4, *[3] * 3, *[5] * 7])  # 93 of 100 pairs in order
    known = np.concatenate([np.arange(10) < positives for positives in (0, 3, 6, 10)])
    schema = Schema(label="click", fields=[CATEGORY], group="person")
    for told, values in ((True, held), (False, np.where(np.arange(20) == 10, 4, held))):  # and a pair that ties
        rows = side(known, group=train), side(np.arange(20) < 10, group=values)
        for found in (signs._alone(CATEGORY, train, values, *rows), signs._group(schema, *rows)):
            assert found.figure == 0.93 if told else found is None


def test_a_group_on_both_sides_counts_from_one_held_out_row_in_fifty_on():
    schema = Schema(label="click", fields=[CATEGORY], group="person")
    train = side(np.arange(100) % 2, group=np.arange(100) % 2)
    for shared, told in ((2, True), (1, False)):
        group = np.where(np.arange(100) < shared, np.arange(100) % 2, 1000 + np.arange(100))
        found = signs._group(schema, train, side(np.arange(100) % 2, group=group))
        assert (found is not None) == told
    group = np.where(np.arange(100) < 90, np.arange(100) % 2, 1000)
    said = signs._group(schema, train, side(np.arange(100) % 2, group=group)).said
    assert said == (
        "90 % of the held-out rows are of a group 'person' that train has too, whose label there tells theirs: set "
        "ingest.split.by to group"
    )
    found = signs._group(schema, train, side(np.arange(100) % 2, group=np.arange(100) % 2))
    assert (found.kind, found.name, found.figure) == ("group", "person", 1.0) and found.said.startswith(
        "100 % of the held"
    )
    assert signs._group(schema, train, side(np.arange(100) % 2 == 0, group=np.arange(100) % 2)) is None
    assert signs._group(schema.model_copy(update={"group": None}), train, train) is None


def test_lines_are_alike_that_hold_the_same_at_the_same_time_and_labels_are_told_apart():
    ids, size = np.array([3, 3, 3, 4], np.int32), np.array([0.0, -0.0, 0.0, 0.0], np.float32)
    key, labelled = signs._hashes(side([1, 0, 1, 1], time=np.array([5, 5, 6, 5]), ids=ids, size=size))
    assert key[0] == key[1] and len(set(key)) == 3 and len(set(labelled)) == 4
    key, labelled = signs._hashes(side([1, 0, 1, 1], ids=ids, size=size))
    assert len(set(key)) == 2 and labelled[0] == labelled[2]
    assert len({*signs._labelled(key, np.array([0, 1, 0, 0]) == 1), *labelled}) == 4
    assert len(set(signs._hashes(side([1, 1], size=np.array([1e-9, 2e-9], np.float32)))[0])) == 2
    both = np.array([[1, 2], [2, 1]], np.int32)
    assert len(set(signs._hashes(side([1, 1], bag=both))[0])) == 2


def lines_of(ids, label):
    return side(label, ids=np.asarray(ids, np.int32))


@pytest.mark.parametrize("turned", [False, True])
def test_lines_are_copies_where_those_of_the_rare_label_come_again_with_it_more_often_than_chance_has_it(turned):
    """2000 lines in train, each with an id; one in four has the rare label. Held out are lines of these, and new ones."""
    rare = np.arange(2000) % 4 == 0

    def found(shared, new, flipped=0, among=rare):
        place = np.arange(2000)[shared]
        label = among[place] ^ (np.arange(len(place)) < flipped)
        ids, label = np.append(place, 5000 + np.arange(len(new))), np.append(label, new)
        return signs._copies(lines_of(range(2000), among ^ turned), lines_of(ids, label ^ turned))

    new = np.arange(1000) % 4 == 0
    told = found(slice(1000), new[:300])
    assert told == Leak(
        kind="copies", name="copies", figure=1000 / 1300, said="77 % of the held-out lines stand in train too"
    )
    assert (
        found(slice(100), np.zeros(0, bool)).figure == 1 and found(slice(100), new[1:2]) is None
    )  # 25 rare ones, and fewer
    assert found(slice(104), np.arange(5096) % 4 == 0) is not None  # one line in fifty
    assert found(slice(104), np.arange(5097) % 4 == 0) is None
    assert found(slice(1050), new[:0], flipped=50) is not None  # one in twenty with the other label
    assert found(slice(1050), new[:0], flipped=51) is None
    often = np.arange(2000) % 20 == 0  # five in a hundred of those that come again, a quarter of all or less
    assert found(slice(1000), np.arange(1000) < 150, among=often) is not None  # half as many as of all
    assert found(slice(1000), np.arange(1000) < 151, among=often) is None


def test_where_half_the_labels_are_positive_the_positive_ones_are_the_rare_ones():
    train, held = np.arange(2000) < 300, np.append(np.arange(1000) < 300, np.arange(1000) < 700)
    ids = np.append(np.arange(1000), 5000 + np.arange(1000))
    assert signs._copies(lines_of(range(2000), train), lines_of(ids, held)) is not None  # 0.3 of 0.5
    assert signs._copies(lines_of(range(2000), ~train), lines_of(ids, ~held)) is not None
    train[200:300], held[200:300], held[-100:] = False, False, True
    assert signs._copies(lines_of(range(2000), train), lines_of(ids, held)) is None  # 0.2 of 0.5


def test_auc_counts_rows_with_weight_and_is_none_where_one_class_has_none():
    random = np.random.default_rng(0)
    label, score, weight = random.random(80) < 0.4, random.integers(0, 9, 80) / 9, random.integers(0, 3, 80) * 1.0
    assert signs._auc(label, score, weight) == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    for own in (True, False):
        assert signs._auc(label, score, weight * (label == own)) is None


def test_a_leak_says_of_which_task_it_is_and_whether_it_is_trusted():
    found = Leak(kind="alone", name="price", figure=0.97, said="field 'price' alone has an AUC of 0.970")
    assert "task" not in found.model_dump() and found.of("buy").model_dump()["task"] == "buy"
    assert found.of("buy").said.endswith(found.said) and "buy" in found.of("buy").said
    assert found.remark == f"this looks like a leak: {found.said}"
    trusted = found.model_copy(update={"trusted": True})
    assert trusted.remark == f"trusted, though it looks like a leak: {found.said}"
    other = found.model_copy(update={"name": "age", "said": "x"})
    assert leaks.suspicion([trusted]) == "" == leaks.suspicion([])
    assert leaks.suspicion([trusted, other, found, other, found]) == (
        "looks like a leak: x; if it is known when the model serves, say `ingest.trusted: [age, price]`"
    )
