"""Protected slices: which rows they are, told by raw rows; bounds valid together, told by Holm's test by hand; the veto."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small
from scipy import optimize

from slimrec.config import EvaluateConfig, IngestConfig, Recipe, SliceConfig, parse
from slimrec.data.dataset import Dataset
from slimrec.data.slicing import cut, slices
from slimrec.errors import ConfigError, InputError
from slimrec.registry import champion as champions
from slimrec.registry.champion import Champion
from slimrec.registry.champion import judge as judge_against
from slimrec.serving.predictor import Predictor
from slimrec.stages import ingest
from slimrec.stages.settle import settle
from slimrec.track import Tracker
from slimrec.verdict import certify
from slimrec.verdict.decision import heed
from slimrec.verdict.slices import _doubtful, _enough, judge, veto


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small.make(tmp_path_factory.mktemp("slices"))


def of(*wanted):
    return EvaluateConfig(slices=wanted).slices


def found(world, *wanted):
    return {part.name: part.rows for part in slices(world.dataset, of(*wanted))}


@pytest.fixture(scope="module")
def raw(world):
    return pq.read_table(world.raw).take(Dataset.open(world.dataset).split("test").row).to_pydict()


def test_values_are_those_of_the_raw_rows_whether_the_slim_model_reads_the_field_or_not(world, raw):
    names = found(world, {"of": "device_again", "values": ["phone 3", "phone 11"]}, {"of": "tags", "values": [7]})
    assert list(names) == ["device_again = phone 3", "device_again = phone 11", "tags = 7"]
    assert names["device_again = phone 3"].tolist() == [value == "phone 3" for value in raw["device"]]
    held = [value[:3] for value in raw["tags"]]  # of longer bags the first three
    assert names["tags = 7"].tolist() == ["7" in value for value in held]


def test_without_values_the_most_frequent_ones_stand_alone_and_the_rest_together(world, raw):
    names = found(world, {"of": "device", "parts": 3})
    counts = np.unique(raw["device"], return_counts=True)[1]
    assert len(names) == 4 and sorted(rows.sum() for rows in list(names.values())[:3]) == sorted(counts)[-3:]
    assert (np.sum(list(names.values()), axis=0) == 1).all() and list(names)[-1] == "device, other values"
    assert all(rows.mean() >= 0.01 for rows in found(world, {"of": "noise", "parts": 100}).values())


def test_ranges_of_a_number_hold_as_many_rows_each_and_say_their_edges_as_the_source_has_them(world, raw):
    names, price = found(world, "price"), np.array(raw["price"])
    edges = np.quantile(price, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert next(iter(names)) == f"price up to {edges[0]:.4g}" and list(names)[3] == f"price above {edges[2]:.4g}"
    assert list(names)[1] == f"price above {edges[0]:.4g}, up to {edges[1]:.4g}"
    for rows, place in zip(names.values(), range(4)):
        assert rows.tolist() == (np.searchsorted(edges, price) == place).tolist()


def test_group_sizes_are_rows_in_train_so_that_cold_users_come_first(world, raw):
    whole = pq.read_table(world.raw)["user"].to_numpy()
    train = whole[Dataset.open(world.dataset).split("train").row]
    seen = np.array([(train == user).sum() for user in raw["user"]])
    names = found(world, {"of": "group size", "parts": 2})
    edge = np.quantile(seen, 0.5, method="inverted_cdf")
    assert list(names) == [f"group size up to {edge:g} in train", f"group size above {edge:g} in train"]
    assert next(iter(names.values())).tolist() == (seen <= edge).tolist()


def test_where_no_group_is_in_train_its_size_is_that_in_the_slice_itself(tmp_path):
    small.ingest_rows(tmp_path, 1500)
    split = {"by": "group", "train": 0.5, "gate": 0, "valid": 0.1, "test": 0.4}
    config = IngestConfig(source=str(tmp_path / "raw.parquet"), fields=small.FIELDS, split=split)
    ingest.run(config, Tracker(), dataset=tmp_path / "apart")
    parts = slices(tmp_path / "apart", of("group size"))
    group = Dataset.open(tmp_path / "apart").split("test").group
    sizes = np.unique(group, return_counts=True)[1][np.unique(group, return_inverse=True)[1]]
    assert parts[0].name.endswith("here") and parts[0].rows.tolist() == (sizes <= sizes[parts[0].rows].max()).tolist()


def test_missing_values_and_values_new_to_training_are_slices_of_their_own(tmp_path):
    table = small.raw_rows(1500)
    price, device = table["price"].to_pylist(), table["device"].to_pylist()
    table = table.set_column(4, "price", [[None if i % 5 == 0 else value for i, value in enumerate(price)]])
    table = table.set_column(3, "device", [[f"only {i}" if i % 3 == 0 else value for i, value in enumerate(device)]])
    pq.write_table(table, tmp_path / "raw.parquet")
    config = IngestConfig(source=str(tmp_path / "raw.parquet"), fields=small.FIELDS)
    ingest.run(config, Tracker(), dataset=tmp_path / "dataset")
    row = Dataset.open(tmp_path / "dataset").split("test").row
    names = {part.name: part.rows for part in slices(tmp_path / "dataset", of("price", "device"))}
    assert names["price missing"].tolist() == (row % 5 == 0).tolist()
    assert names["device new to training"].tolist() == (row % 3 == 0).tolist()


def test_equal_numbers_stay_together_and_no_part_is_empty():
    values = np.array([0.0, 0, 0, 0, 0, 0, 1, 2])
    parts = list(cut(values, np.ones(8, bool), 4))
    assert [(low, high) for low, high, _ in parts] == [(None, 0), (0, None)]
    assert (np.sum([rows for *_, rows in parts], axis=0) == 1).all() and all(rows.any() for *_, rows in parts)
    assert list(cut(values, np.zeros(8, bool), 4)) == []


@pytest.mark.parametrize(
    "wanted, said",
    [
        ("devise", "did you mean 'device'"),
        ("embedding", "no category, bag or number is named 'embedding'"),
        ({"of": "price", "values": [1]}, "'price' has no `values`"),
        ({"of": "group size", "values": [1]}, "has no `values`"),
    ],
)
def test_what_cannot_be_sliced_is_refused_before_anything_runs(wanted, said):
    recipe = {"ingest": {"source": "x.parquet", "fields": small.FIELDS}, "evaluate": {"slices": [wanted]}}
    with pytest.raises(ConfigError, match=said):
        settle(recipe, {})


@pytest.mark.parametrize(
    "wanted, twice",
    [
        (["device", "device"], "device"),
        (["device", {"of": "device", "parts": 2, "allowed_auc_loss": 0.1}], "device"),
        ([{"of": "device", "values": ["a"]}, {"of": "device", "values": ["b", "a"]}], "device = a"),
        ([{"of": "device", "values": [1, "1"]}], "device = 1"),
    ],
)
def test_a_slice_named_twice_is_refused_as_it_would_count_twice_among_the_bounds(wanted, twice):
    with pytest.raises(ConfigError, match=f"`slices` names '{twice}' twice; once is enough"):
        parse(EvaluateConfig, {"slices": wanted})
    apart = [{"of": "device", "values": ["a"]}, {"of": "device", "values": ["b"], "allowed_auc_loss": 0.1}, "device"]
    assert len(parse(EvaluateConfig, {"slices": [*apart, "price"]}).slices) == 4


def test_group_sizes_need_a_group_and_hashed_values_their_names():
    fields = {"label": "click", "fields": [{"name": "site", "kind": "category", "hash_rows": 9}]}
    for wanted, said in (("group size", "needs a `group`"), ("site", "give `values`")):
        with pytest.raises(ConfigError, match=said):
            settle({"ingest": {"source": "x", "fields": fields}, "evaluate": {"slices": [wanted]}}, {})
    assert parse(Recipe, {"ingest": {"source": "x"}, "evaluate": {"slices": ["site"]}}).evaluate.slices == (
        SliceConfig(of="site"),
    )


def rows_of(count, losses, sizes, seed=0):
    """Sketches of slices of these sizes whose slim model is noisier by `losses`, and how to conclude from them."""
    random = np.random.default_rng(seed)
    place = np.repeat(np.arange(len(sizes)), sizes)
    label = random.integers(0, 2, len(place))
    full = 1.5 * label + random.normal(size=len(place))
    slim = full + np.array(losses)[place] * random.normal(size=len(place))

    sketches = [certify.gather(*(each[place == part] for each in (label, full, slim))) for part in range(count)]
    return sketches, certify.conclude


def p_value(compare, rows, allowed):
    """The level from which on the slice is certified."""

    def margin(log_alpha):
        return compare(rows, 1 - np.exp(log_alpha)).low + allowed

    low, high = np.log(1e-12), np.log(0.49)
    if margin(low) >= 0:
        return 1e-12
    return np.exp(optimize.brentq(margin, low, high)) if margin(high) > 0 else 0.49


def weigh(outcome, reason, found, unproven):
    return heed(outcome, reason, [veto(found, unproven)])


@pytest.mark.parametrize("seed", range(3))
def test_the_slices_that_pass_are_those_of_holms_test(seed):
    sizes = [20_000, 1500, 1100, 900, 700, 20_000]
    rows, compare = rows_of(6, [0, 0.1, 0.12, 0.13, 0.14, 0.1], sizes, seed)
    allowed = 0.012
    ranked = sorted((p_value(compare, part, allowed), i) for i, part in enumerate(rows))
    passed = set()
    for step, (p, i) in enumerate(ranked):
        if p > 0.05 / (6 - step):
            break
        passed.add(i)
    parts = [(f"s{i}", part, allowed) for i, part in enumerate(rows)]
    told = judge(parts, 0.95)
    assert {i for i, each in enumerate(told) if each["verdict"] == "certified"} == passed and passed
    for i, each in enumerate(told):
        if i in passed:
            assert each["low"] >= -allowed
        else:
            level = 1 - 0.05 / (6 - len(passed))
            assert each["low"] == compare(rows[i], level).low < -allowed
        assert each["high"] == compare(rows[i], 1 - 0.05 / 6).high


def test_where_all_slices_pass_their_bounds_are_closer_than_what_they_are_allowed():
    rows, compare = rows_of(3, [0, 0.01, 0.02], [4000] * 3)
    told = judge([(f"s{i}", part, 0.05) for i, part in enumerate(rows)], 0.95)
    assert [each["verdict"] for each in told] == ["certified"] * 3
    assert [each["low"] for each in told] == [compare(part, 1 - 0.05 / 3).low for part in rows]


def outcomes(losses, sizes, allowed=0.01):
    rows, _ = rows_of(len(sizes), losses, sizes)
    return judge([(f"s{i}", part, allowed) for i, part in enumerate(rows)], 0.95)


def test_a_lost_slice_rejects_the_whole_and_is_named_first():
    told = outcomes([0.0, 1.0, 0.5], [3000] * 3)
    assert [each["verdict"] for each in told] == ["certified", "rejected", "rejected"]
    outcome, reason = weigh("certified", "all is well", told, "remark")
    assert outcome == "rejected" and reason.startswith("s1 loses at least 0.") and "and 1 more slices" in reason
    assert weigh("rejected", "lost", told, "veto")[1].startswith("s1 loses")


def test_a_slice_that_may_lose_more_than_allowed_vetoes_even_as_a_remark():
    told = outcomes([0.0, 0.17], [60_000, 30_000], allowed=0.004)
    assert [each["verdict"] for each in told] == ["certified", "open"]
    for unproven in ("veto", "remark"):
        outcome, reason = weigh("certified", "all is well", told, unproven)
        assert outcome == "inconclusive" and reason.startswith("s1 may lose 0.0")
    assert weigh("rejected", "lost", told, "veto") == ("rejected", "lost")


def test_a_slice_of_few_rows_vetoes_unless_the_recipe_takes_it_for_a_remark():
    told = outcomes([0.0, 0.1], [20_000, 60])
    assert [each["verdict"] for each in told] == ["certified", "scarce"]
    outcome, reason = weigh("certified", "all is well", told, "veto")
    assert (
        outcome == "inconclusive"
        and reason.startswith("s1 has too little evidence: its 60 rows")
        and "would tell" in reason
    )
    outcome, reason = weigh("certified", "all is well", told, "remark")
    assert outcome == "certified" and reason == "all is well; not protected, for want of rows: s1"


def test_a_slice_of_few_rows_is_told_how_many_would_tell_what_it_is_allowed():
    strict, loose = (outcomes([0.0, 0.1], [20_000, 60], allowed)[1] for allowed in (0.02, 0.1))
    assert strict["verdict"] == loose["verdict"] == "scarce"
    assert 60 < loose["rows_needed"] < 100 < strict["rows_needed"] < 1000


def test_slices_without_a_row_or_with_one_class_are_scarce_and_say_so():
    label, score = np.ones(300), np.random.default_rng(0).normal(size=300)

    for rows in (np.zeros(300, bool), np.ones(300, bool)):
        (told,) = judge([("none", certify.gather(label[rows], score[rows], score[rows]), 0.01)], 0.95)
        assert told["verdict"] == "scarce" and told["low"] is None and told["rows_needed"] is None
        assert f"its {rows.sum()} rows" in weigh("certified", "", [told], "veto")[1]


def test_the_audit_is_vetoed_by_a_slice_of_a_field_that_was_dropped(world, tmp_path):
    from test_evaluate import judge as evaluated

    config = EvaluateConfig(
        allowed_auc_loss=0.2,
        latency_repeats=1,
        slices=of({"of": "noise", "values": ["n7"]}, "device"),
        allowed_slice_loss=0.3,
    )
    metrics = evaluated(world, tmp_path / "report", config)
    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    assert metrics["verdict"] == "inconclusive" and metrics["reason"].startswith("noise = n7 has too little evidence")
    assert facts["slices"][0]["name"] == "noise = n7" and len(facts["slices"]) == 6
    lenient = config.model_copy(update={"unproven_slices": "remark"})
    metrics = evaluated(world, tmp_path / "second", lenient)
    assert metrics["verdict"] == "certified" and "not protected, for want of rows: noise = n7" in metrics["reason"]


def test_a_champion_that_is_the_full_model_gives_the_interval_of_the_report(world, tmp_path):
    from test_evaluate import judge as evaluated

    evaluated(world, tmp_path / "report", EvaluateConfig(allowed_auc_loss=0.3, latency_repeats=1))
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    slim = champions.score(world.slim, world.dataset)[0]
    config = EvaluateConfig(allowed_auc_loss=0.3, confidence=report["confidence"])
    champion = Champion("ctr", "1", world.full, world.full, None, None)
    told = judge_against(config, champion, world.dataset, Dataset.open(world.dataset).split("test"), slim)
    for name in ("slim", "difference", "error", "low", "high"):
        assert told["auc"][name] == pytest.approx(report["auc"][name], abs=1e-7), name
    assert told["auc"]["champion"] == pytest.approx(report["auc"]["full"], abs=1e-7)


def test_a_champion_scores_each_row_of_a_log_of_many_files_and_names_the_one_that_changed(world, tmp_path):
    (tmp_path / "log").mkdir()
    parts = [small.raw_rows(50, seed=seed) for seed in range(8)]
    for number, part in enumerate(parts):
        pq.write_table(part, tmp_path / "log" / f"{number}.parquet")
    config = IngestConfig(
        source=str(tmp_path / "log"),
        fields=small.FIELDS,
        split={"by": "random", "train": 0.3, "gate": 0, "valid": 0.1, "test": 0.6},
    )
    ingest.run(config, Tracker(), dataset=tmp_path / "dataset")
    rows = Dataset.open(tmp_path / "dataset").split("test").row
    assert (rows % 50 == 0).sum() > 2  # first rows of a file
    raw = pa.concat_tables(parts).take(rows)
    found = champions.score(world.slim, tmp_path / "dataset")[0]
    assert found == pytest.approx(Predictor.load(world.slim).logits(raw), abs=1e-5)
    place = int(rows[rows >= 350][3]) - 350
    clicks = [7 if i == place else click for i, click in enumerate(parts[7]["click"].to_pylist())]
    pq.write_table(parts[7].set_column(0, "click", [clicks]), tmp_path / "log" / "7.parquet")
    with pytest.raises(InputError, match=f"7.parquet, row {place + 1}: "):
        champions.score(world.slim, tmp_path / "dataset")


def test_a_champion_that_reads_the_new_label_leaves_the_comparison_open(world, tmp_path):
    table = small.raw_rows(300)
    table = table.set_column(table.column_names.index("price"), "price", table["click"])
    pq.write_table(table, tmp_path / "raw.parquet")
    fields = {"label": "price", "fields": [{"name": "device", "kind": "category"}]}
    ingest.run(
        IngestConfig(source=str(tmp_path / "raw.parquet"), fields=fields), Tracker(), dataset=tmp_path / "dataset"
    )
    test = Dataset.open(tmp_path / "dataset").split("test")
    champion = Champion("ctr", "1", world.slim, world.slim, None, None)
    told = judge_against(EvaluateConfig(), champion, tmp_path / "dataset", test, np.zeros(len(test)))
    assert told["verdict"] == "inconclusive" and "cannot read this log: field 'price' reads the label" in told["reason"]


def test_a_slice_and_a_binding_loss_veto_against_the_champion_as_they_do_against_the_full_model(world):
    champion = Champion("ctr", "1", world.slim, world.slim, None, None)
    test = Dataset.open(world.dataset).split("test")
    same = champions.score(world.slim, world.dataset, test)[0]
    spoilt = found(world, {"of": "device", "values": ["phone 8"]})["device = phone 8"]
    noisy = np.where(spoilt, -same, same)
    config = EvaluateConfig(
        allowed_auc_loss=0.3, slices=[{"of": "device", "values": ["phone 8"]}], binding={"calibration": 0.05}
    )
    for slim, said in ((noisy, "device = phone 8 loses at least"), (same - 3, "calibration is worse by at least")):
        told = judge_against(config, champion, world.dataset, test, slim)
        assert (told["verdict"], told["reason"][: len(said)]) == ("rejected", said), told["reason"]
        alone = judge_against(EvaluateConfig(allowed_auc_loss=0.3), champion, world.dataset, test, slim)
        assert alone["verdict"] == "certified"


def told_of(name, verdict, low=-0.02, high=-0.015, allowed=0.01, rows=5012, enough=61_000):
    return {
        "name": name,
        "verdict": verdict,
        "low": low,
        "high": high,
        "allowed": allowed,
        "rows": rows,
        "rows_needed": enough,
    }


def test_what_slices_say_is_that_of_the_gravest_kind_and_names_the_one_that_loses_most_beyond_what_it_is_allowed():
    lost = [told_of("a", "rejected", high=-0.03, allowed=0.02), told_of("b", "rejected", high=-0.025)]
    open_, scarce, fine = told_of("c", "open"), told_of("d", "scarce"), told_of("e", "certified")
    assert veto([open_, *lost, scarce], "veto") == (
        "rejected",
        "b loses at least 0.02500 of AUC, and 0.01000 is allowed (and 1 more slices, see the report)",
    )
    assert veto([fine, scarce, open_], "veto") == (
        "inconclusive",
        "c may lose 0.02000 of AUC, and 0.01000 is allowed (and 1 more slices, see the report)",
    )
    assert veto([fine, scarce, open_], "remark")[1] == "c may lose 0.02000 of AUC, and 0.01000 is allowed"
    outcome, said = veto([fine, scarce], "veto")
    assert outcome == "inconclusive" and said.startswith(
        "d has too little evidence: its 5,012 rows do not rule out a loss of 0.01000; about 61,000 rows would tell; allow it"
    )
    assert "would tell" not in veto([{**scarce, "rows_needed": None}], "veto")[1]
    assert veto([scarce, fine, told_of("f", "scarce")], "remark") == ("", "not protected, for want of rows: d, f")
    assert veto([fine], "veto") == ("", "") == veto([], "veto")


def test_a_slice_that_did_not_pass_is_open_where_its_rows_would_have_shown_that_it_lost_nothing():
    rows, compare = rows_of(2, [0.0, 0.17], [60_000, 30_000])
    last = compare(rows[1], 0.95)
    needed = certify.rows_needed(dataclasses.replace(last, difference=0.0), 0.004)
    first = dataclasses.replace(last, low=-0.02, high=0.0)

    def kind(**changed):
        return _doubtful(first, dataclasses.replace(last, **changed), 0.004)

    assert kind() == "open" and needed <= last.rows
    assert kind(error=3 * last.error) == "scarce"
    exact = dataclasses.replace(last, difference=0.0, seed_error=0.0, unseen=0.0, error=0.0)
    assert _doubtful(first, dataclasses.replace(exact, positive_effective=20.0), 0.004) == "open"
    for changed in ({"positive_effective": 19.9}, {"negative_effective": 19.9}, {"error": None}):
        assert kind(**changed) == "scarce", changed
    assert _doubtful(dataclasses.replace(first, high=-0.005), last, 0.004) == "rejected"
    assert kind(seed_error=1.0) == "scarce"  # no number of rows would tell


def test_the_rows_a_slice_needs_are_those_of_the_bound_and_those_of_twenty_observations():
    rows, compare = rows_of(1, [0.1], [2000])
    found = compare(rows[0], 0.95)
    needed = certify.rows_needed(dataclasses.replace(found, difference=0.0), 0.1)
    few = dataclasses.replace(found, positive_effective=4.0, negative_effective=0.5)
    assert _enough(found, 0.1) == needed and _enough(few, 0.1) == 2000 * 20 / 0.5 > needed
    assert _enough(dataclasses.replace(few, negative_effective=0.0), 0.1) is None
    assert (
        _enough(dataclasses.replace(found, error=None), 0.1)
        is None
        is _enough(dataclasses.replace(found, seed_error=1.0), 0.1)
    )


def test_where_all_pass_a_bound_is_the_closer_of_its_own_and_of_what_is_allowed_and_where_one_does_not_that_alone():
    rows, compare = rows_of(2, [0.0, 0.05], [60_000, 1500])
    apart = [compare(part, 0.975) for part in rows]
    once = compare(rows[1], 0.95).low
    allowed = -(apart[1].low + once) / 2  # passes once the first has, and not before
    told = judge([("a", rows[0], 0.05), ("b", rows[1], allowed)], 0.95)
    assert [each["verdict"] for each in told] == ["certified"] * 2 and apart[1].low < -allowed < once
    assert [each["low"] for each in told] == [apart[0].low, -allowed]
    told = judge([("a", rows[0], 0.05), *((name, rows[1], -once / 2) for name in "bc")], 0.95)
    assert [each["low"] for each in told] == [-0.05, apart[1].low, apart[1].low]  # both pay for each other
    told = judge([("a", rows[0], 0.05), ("b", rows[1], -once / 2)], 0.95)
    assert [each["low"] for each in told] == [-0.05, once] and told[0]["rows_needed"] is None
    assert told[1]["rows_needed"] == _enough(dataclasses.replace(compare(rows[1], 0.95), high=0), -once / 2)
    assert [(each["full"], each["slim"], each["rows"]) for each in told] == [
        (c.full_auc, c.slim_auc, c.rows) for c in apart
    ]
