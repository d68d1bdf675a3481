"""The pilot against simulation, against what duplication and weights do, and where an audit says it."""

import numpy as np
import pytest
import small
from scipy import integrate, stats
from services import empty_store

from slimrec.config import EvaluateConfig, SliceConfig
from slimrec.stages import execute
from slimrec.verdict import certify, pilot, slices
from slimrec.verdict.certify import compare, verdict


def slice_of(seed, rows=20_000, rate=0.2):
    """Labels, and scores of two models that are equally good and correlate within a class as the pilot assumes."""
    label = (np.random.default_rng(seed).random(rows) < rate).astype(int)
    return label, *scored(label, seed)


def scored(label, seed, loss=0.0):
    """Scores of two models that correlate within a class as the pilot assumes; the second one has lost so much AUC."""
    apart, left = (np.sqrt(2) * stats.norm.ppf(auc) for auc in (pilot.AUC, pilot.AUC - loss))
    law = [[1, pilot.CORRELATION], [pilot.CORRELATION, 1]]
    full, slim = np.random.default_rng([seed, 1]).multivariate_normal([0, 0], law, len(label)).T
    return full + apart * label, slim + left * label


def test_error_is_the_one_that_delong_finds_between_models_as_they_are_assumed():
    label, full, slim = slice_of(0, 200_000)
    planned = pilot.plan(label, np.ones(len(label)), None)
    assert planned.error == pytest.approx(compare(label, full, slim).error, rel=0.03)


@pytest.mark.parametrize("rate, documented", [(0.03, 246_000), (0.17, 71_000), (0.5, 48_000)])
def test_rows_needed_are_those_that_were_once_observed_at_this_correlation(rate, documented):
    label = (np.arange(100_000) < rate * 100_000).astype(int)
    needed = pilot.plan(label, np.ones(len(label)), None).rows_needed(0.001)
    assert documented < needed < 1.8 * documented  # there without room for heavy tails


def test_a_slice_certifies_the_loss_that_was_planned_nine_times_in_ten():
    label = slice_of(0)[0]
    loss = pilot.plan(label, np.ones(len(label)), None).loss
    outcomes = [verdict(compare(*slice_of(seed)), loss)[0] for seed in range(100)]
    assert outcomes.count("certified") >= 88


def test_groups_and_uneven_weights_ask_for_more_rows_and_the_scale_of_weights_for_none():
    random = np.random.default_rng(1)
    label, weight = slice_of(1)[0], random.lognormal(0, 1, 20_000)
    alone = pilot.plan(label, np.ones(20_000), None)
    group = random.integers(0, 2**64, 500, dtype=np.uint64).repeat(40)
    assert pilot.plan(label, np.ones(20_000), group).error > 1.1 * alone.error
    assert pilot.plan(label, np.ones(20_000), np.arange(20_000, dtype=np.uint64)).error == pytest.approx(alone.error)
    uneven = pilot.plan(label, weight, None)
    assert uneven.error > 1.3 * alone.error and uneven.unseen > alone.unseen
    assert pilot.plan(label, 1000 * weight, None).loss == pytest.approx(uneven.loss)


def test_few_rows_of_one_class_certify_no_less_than_a_fault_that_none_of_them_shows():
    """The rule of three: fifty positive rows do not show what befalls three in fifty."""
    planned = pilot.plan(np.arange(10_000) < 50, np.ones(10_000), None)
    assert planned.unseen == pytest.approx(0.06, rel=0.01)
    assert pilot.plan(np.arange(10_000) >= 50, np.ones(10_000), None).unseen == planned.unseen
    assert planned.unseen < planned.loss < 1.3 * planned.unseen
    assert planned.rows_needed(planned.loss) == pytest.approx(10_000, abs=1)
    label = (np.arange(10_000) < 50).astype(int)
    outcomes = [verdict(compare(label, *scored(label, seed)), planned.loss)[0] for seed in range(100)]
    assert outcomes.count("certified") >= 86


def test_a_part_of_many_groups_stands_for_all(monkeypatch):
    random = np.random.default_rng(2)
    group = random.integers(0, 2**64, 20_000, dtype=np.uint64).repeat(8)
    label = (random.random(len(group)) < 0.2).astype(int)
    whole = pilot.plan(label, np.ones(len(group)), group)
    monkeypatch.setattr(pilot, "LOOKED_AT", 40_000)
    assert pilot.plan(label, np.ones(len(group)), group).error == pytest.approx(whole.error, rel=0.01)


def test_outlook_warns_where_less_is_allowed_than_the_slice_can_certify_and_says_what_would_be_enough():
    planned = pilot.plan(slice_of(0)[0], np.ones(20_000), None)
    assert "warning" not in planned.outlook() + planned.outlook(1.1 * planned.loss)
    told = planned.outlook(planned.loss / 2)
    assert told.startswith("warning: 20,000 certification rows") and "rows would be enough" in told
    assert planned.rows_needed(planned.loss / 2) == pytest.approx(80_000, rel=0.01)
    assert "rows would be enough" not in planned.outlook(0.0)


def test_outlook_is_said_in_figures_and_warns_of_less_than_the_loss_and_not_of_the_loss_itself():
    planned = pilot.Pilot(rows=40_000, confidence=0.96, error=0.001, unseen=0.0005)
    loss = (stats.norm.ppf(0.96) + stats.norm.ppf(0.9)) * np.sqrt(1.3) * 0.001
    assert planned.loss == pytest.approx(loss)
    can = (
        "40,000 certification rows can certify with 96 % confidence that a loss of AUC is below about 0.0035, "
        "if the models' scores correlate by 0.992"
    )
    assert planned.outlook() == planned.outlook(planned.loss) == planned.outlook(0.1) == can
    told = planned.outlook(0.001)
    assert told.startswith(f"warning: {can}; 0.001 is allowed, so that this audit ends certified only where")
    needed = certify.rows_for(40_000, 0.001, 0.0005, 0.001, 0.96)
    assert planned.rows_needed(0.001) == needed and told.endswith("; about 480,000 such rows would be enough")
    assert abs(needed - 480_000) < 5_000


def test_the_error_is_that_of_both_classes_with_a_twentieth_of_what_groups_share():
    """By hand, of positive weights 1, 2, 3 and negative ones 1, 1, 1, 1, 2; the row of no weight is none."""
    label = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1])
    weight = np.array([1, 2, 3, 1, 1, 1, 1, 2, 0.0])
    group = np.array([5, 5, 6, 5, 6, 6, 7, 8, 5], np.uint64)
    alone, together = (pilot.plan(label, weight, each) for each in (None, group))
    assert alone.rows == 8 and alone.confidence == 0.95
    assert alone.unseen == together.unseen == pytest.approx(-np.log(0.05) * 14 / 36)
    positive = 0.95 * 14 / 36 + 0.05 * (3**2 + 3**2) / 36
    negative = 0.95 * 8 / 36 + 0.05 * (1 + 2**2 + 1 + 2**2) / 36
    assert (together.error / alone.error) ** 2 == pytest.approx((positive + negative) / (14 / 36 + 8 / 36))


def test_sums_of_weights_are_kept_in_double_precision():
    weight = np.array([2**24 - 1, 2, 1, 1], np.float32)  # the next of this type is a whole one away
    planned = pilot.plan(np.array([1, 1, 0, 0]), weight, None)
    assert planned.unseen == pytest.approx(-np.log(0.05) * ((2**24 - 1) ** 2 + 4) / (2**24 + 1) ** 2, rel=1e-12)


def test_of_many_groups_those_with_the_lowest_hashes_are_looked_at_and_stand_for_all(monkeypatch):
    group = (np.array([0, 1, 1, 2, 3, 3, 3, 3], np.uint64) << np.uint64(62)).astype(np.uint64)
    positive, weight = np.array([1, 1, 1, 1, 0, 0, 0, 0]) == 1, np.arange(1.0, 9)
    for looked_at, squares in ((8, 1 + 25 + 16), (9, 42), (4, (1 + 25) * 2), (6, (1 + 25 + 16) / 0.75), (2, 4)):
        monkeypatch.setattr(pilot, "LOOKED_AT", looked_at)
        assert pilot._of_groups(positive, weight, group)[True] == pytest.approx(squares)
    monkeypatch.setattr(pilot, "LOOKED_AT", 8)
    assert pilot._of_groups(positive, weight, group) == {True: 42, False: 26**2}


def test_a_row_varies_as_an_integral_over_the_binormal_law_says():
    apart = np.sqrt(2) * stats.norm.ppf(0.75)

    def placed(x):
        return stats.norm.pdf(x) ** 2 * 2 * (1 - 0.992) * stats.norm.pdf(x - apart)

    assert pilot._variance_of_a_row() == pytest.approx(integrate.quad(placed, -9, 9)[0], rel=1e-6)


def test_a_slice_tells_something_from_twenty_rows_of_a_class_on():
    config, weight = EvaluateConfig(allowed_slice_loss=0.25, confidence=0.96), np.ones(400)
    for positives, tells in ((20, True), (19, False), (0, False)):
        label = (np.arange(400) < positives).astype(int)
        parts = [("a", np.ones(400, bool), SliceConfig(of="x")), ("b", np.arange(400) < 200, SliceConfig(of="x"))]
        found = pilot.sliced(label, weight, None, config, parts)
        assert [(each["name"], each["rows"], each["allowed"]) for each in found] == [("a", 400, 0.25), ("b", 200, 0.25)]
        assert all((each["certifies"] is not None) == (each["rejects"] is not None) == tells for each in found)
        if tells:
            assert found[0]["certifies"] == pilot.plan(label, weight, None, 0.98).loss
            assert found[1]["rejects"] == 0.25 + found[1]["certifies"]


def test_at_most_five_slices_are_named_and_one_that_certifies_what_it_is_allowed_is_decided():
    found = [{"name": f"s{i}", "rows": 1234, "certifies": 0.02, "allowed": 0.01} for i in range(5)]
    even = {"name": "even", "rows": 9, "certifies": 0.01, "allowed": 0.01}
    said = pilot.undecided([*found, even])
    assert said.startswith("5 of 6 slices have") and said.endswith("s4 (1,234 rows certify 0.02, 0.01 is allowed)")
    more = pilot.undecided([*found, *found[:2]])
    assert more.startswith("7 of 7") and more.endswith("s4 (1,234 rows certify 0.02, 0.01 is allowed) and 2 more")
    assert pilot.undecided([even]) == "their rows decide all 1 slices"


def test_the_report_holds_what_was_planned_and_what_the_error_that_was_found_comes_to():
    planned = pilot.Pilot(rows=40_000, confidence=0.95, error=0.001, unseen=0.0005)
    found = compare(*slice_of(0))
    told = pilot.against(planned, found, 0.004)
    assert told["planned"] == planned.loss and told["rows_needed"] == planned.rows_needed(0.004)
    assert told["found"] == certify.smallest_margin(found.error, found.unseen, 0.95)
    assert pilot.against(planned, compare(np.ones(9), np.ones(9), np.ones(9)), 0.004)["found"] is None


def test_a_slice_of_one_class_makes_no_promise():
    planned = pilot.plan(np.zeros(50), np.ones(50), None)
    assert planned.loss is None and planned.rows_needed(0.01) is None and "no verdict" in planned.outlook(0.01)


def test_ingest_says_before_any_training_whether_what_the_audit_allows_can_be_certified(tmp_path, monkeypatch, capsys):
    """What is allowed is no setting of ingest: what it returns, which a cache keeps, does not change with it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    told = {}
    for allowed in (0.2, 0.0001):
        monkeypatch.setenv("SLIMREC_AUDIT", f"audit-{allowed}")
        recipe = {"ingest": {"source": "planted:rows=3000,seed=0"}, "evaluate": {"allowed_auc_loss": allowed}}
        settled = execute("fingerprint", {"recipe": recipe})
        section = settled["sections"]["ingest"]
        told[allowed] = (
            execute("ingest", section, dataset=tmp_path / f"data-{allowed}")["pilot"],
            capsys.readouterr().out,
        )
    assert told[0.2][0] == told[0.0001][0] and "0.0001" not in told[0.2][0]
    assert "slimrec: warning" not in told[0.2][1] and told[0.2][0] in told[0.2][1]
    assert "slimrec: warning" in told[0.0001][1] and "0.0001 is allowed" in told[0.0001][1]


def test_a_loss_in_one_of_twenty_slices_is_vetoed_with_the_power_that_was_stated():
    """The slice has 5 % of the rows; with the loss that is allowed it passes as seldom as was asked for."""
    config, label = EvaluateConfig(allowed_slice_loss=0.02), slice_of(0, 40_000)[0]
    of = np.where(np.arange(40_000) < 2000, 0, np.arange(40_000) % 19 + 1)
    parts = [(f"s{i}", of == i, SliceConfig(of="x")) for i in range(20)]
    planned, *rest = pilot.sliced(label, np.ones(40_000), None, config, parts)
    assert planned["rows"] == 2000 and planned["certifies"] < 0.02 and len(rest) == 19
    assert planned["rejects"] == pytest.approx(0.02 + planned["certifies"])
    equal = scored(label, 0)
    others = [(name, certify.gather(*(each[rows] for each in (label, *equal))), 0.02) for name, rows, _ in parts[1:]]
    mine, verdicts = label[:2000], {}
    for loss in (0.0, 0.02, planned["rejects"]):
        slim = [("s0", certify.gather(mine, *scored(mine, seed, loss)), 0.02) for seed in range(100)]
        verdicts[loss] = [slices.judge([each, *others], 0.95)[0]["verdict"] for each in slim]
    assert verdicts[0.0].count("certified") >= 86 and verdicts[0.02].count("certified") <= 12
    assert verdicts[planned["rejects"]].count("rejected") >= 86


def test_slices_that_their_rows_do_not_decide_are_named_with_what_they_can():
    label = slice_of(0)[0]
    parts = [("many", np.ones(20_000, bool), SliceConfig(of="x", allowed_auc_loss=0.1))]
    config = EvaluateConfig(allowed_slice_loss=0.001)
    assert (
        pilot.undecided(pilot.sliced(label, np.ones(20_000), None, config, parts)) == "their rows decide all 1 slices"
    )
    parts += [("few", np.arange(20_000) < 60, SliceConfig(of="x")), ("half", label >= 0, SliceConfig(of="x"))]
    found = pilot.sliced(label, np.ones(20_000), None, config, parts)
    told = pilot.undecided(found)
    assert told.startswith(
        "2 of 3 slices have too few rows to be decided: few (60 rows tell nothing, 0.001 is allowed), half (20,000"
    )
    assert found[1]["certifies"] is None is found[1]["rejects"]


def test_ingest_says_before_any_training_which_slices_cannot_be_decided(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("SLIMREC_AUDIT", "sliced")
    small.ingest_rows(tmp_path, 400)
    evaluate = {"slices": ["device"], "allowed_slice_loss": 0.001}
    recipe = {"ingest": {"source": str(tmp_path / "raw.parquet"), "fields": small.FIELDS}, "evaluate": evaluate}
    settled = execute("fingerprint", {"recipe": recipe})
    capsys.readouterr()
    execute("ingest", settled["sections"]["ingest"], dataset=tmp_path / "data")
    assert "slices have too few rows to be decided: device" in capsys.readouterr().out
