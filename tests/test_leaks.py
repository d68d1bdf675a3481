"""What gives the label away is named before any search, stops an approval, and is let through by name only."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
import yaml
from typer.testing import CliRunner

from slimrec.cli import app
from slimrec.config import EvaluateConfig, IngestConfig
from slimrec.data.dataset import Dataset
from slimrec.data.planted import generate
from slimrec.errors import ConfigError
from slimrec.schema import Field
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
    found, figures = ingested(tmp_path, table, fields, *more, {"name": "many", "kind": "vector", "width": 4})
    assert {name for _, name in found} == {"word", "size", "many"}
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
    whole = Dataset.open(tmp_path / "dataset").split("train").time
    assert 350 < len(rows.label) <= 700 and len(whole) > 3000
    assert set(rows.time) <= set(whole) and np.quantile(rows.time, 0.9) > np.quantile(whole, 0.8)


def test_lines_that_stand_on_both_sides_of_the_split_are_copies(tmp_path):
    table, fields = planted()
    assert ingested(tmp_path, pa.concat_tables([table, table.slice(0, 2000)]), fields)[0] == {("copies", "copies")}


def test_groups_of_one_label_on_both_sides_of_a_split_leak_and_a_split_by_group_does_not(tmp_path):
    table, fields = planted(person=[f"p{i % 400 * 2 + int(c)}" for i, c in enumerate(labels())])
    fields = {**fields, "group": "person"}
    assert ingested(tmp_path, table, fields)[0] == {("group", "person")}
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
