"""Other losses: values as scikit-learn has them, errors as a bootstrap over users has them, and what is binding vetoes."""

import json

import numpy as np
import pytest
import small
from sklearn import metrics

from slimrec.config import EvaluateConfig, Recipe, check_limits, parse, read_schema
from slimrec.errors import ConfigError
from slimrec.metrics import probability
from slimrec.stages.settle import settle
from slimrec.verdict.losses import Rows, conclude, gather, ndcg, veto, within


def rows_of(users=300, seed=0, shift=0.0, noise=0.3):
    """Rows of users who share taste, with ties among scores."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), random.integers(1, 12, users))
    signal = random.normal(size=users)[user] + random.normal(size=len(user))
    label = (random.random(len(user)) < probability(signal - 1)).astype(float)
    full = np.round(signal - 1, 1)
    quirk = random.normal(size=users)[user] + random.normal(size=len(user))
    slim = np.round(full + noise * quirk + shift, 1)
    return Rows(label, full, slim, random.uniform(0.5, 2, len(user)), user.astype(np.uint64), None)


def by_name(rows, binding=None, at=3, confidence=0.95, slices=()):
    return {each["name"]: each for each in conclude(gather(rows, binding or {}, at, slices), confidence)}


def grouped(rows, score, value):
    """Mean of a value over the users with both classes, and each user's weight in it."""
    found = []
    for user in np.unique(rows.group):
        mine = rows.group == user
        if 0 < rows.label[mine].sum() < mine.sum():
            found.append((value(rows.label[mine], score[mine], rows.weight[mine]), rows.weight[mine]))
    return found


def test_values_are_those_of_scikit_learn_user_by_user():
    rows = rows_of()
    told = by_name(rows)
    for name in ("full", "slim"):
        score = getattr(rows, name)
        assert told["log_loss"][name] == pytest.approx(
            metrics.log_loss(rows.label, probability(score), sample_weight=rows.weight)
        )
        off = np.average(probability(score), weights=rows.weight) / np.average(rows.label, weights=rows.weight) - 1
        assert told["calibration"][name] == pytest.approx(off)
        aucs = grouped(rows, score, lambda y, s, w: metrics.roc_auc_score(y, s, sample_weight=w))
        assert told["grouped_auc"][name] == pytest.approx(
            np.average([auc for auc, _ in aucs], weights=[w.sum() for _, w in aucs])
        )
        gains = grouped(rows, score, lambda y, s, w: metrics.ndcg_score([y], [s], k=3))
        assert told["ndcg"][name] == pytest.approx(
            np.average([gain for gain, _ in gains], weights=[w.mean() for _, w in gains])
        )
    assert told["log_loss"]["worse"] == pytest.approx(told["log_loss"]["slim"] - told["log_loss"]["full"])
    assert told["ndcg"]["worse"] == pytest.approx(told["ndcg"]["full"] - told["ndcg"]["slim"])


def test_groups_of_one_class_tell_nothing_and_where_all_are_so_there_is_no_figure():
    groups, label, score = np.array([0, 0, 1, 1, 2]), np.array([1, 0, 1, 1, 0]) == 1, np.array([0.2, 0.1, 0, 1, 2])
    for values in (within(groups, label, score, np.ones(5)), ndcg(groups, label, score, 1)):
        assert values[0] == 1 and np.isnan(values[1:]).all()
    rows = Rows(label[2:4], score[2:4], score[2:4], np.ones(2), groups[2:4].astype(np.uint64), None)
    assert "ndcg" not in by_name(rows) and by_name(rows, {"ndcg": 0.1})["ndcg"]["verdict"] == "scarce"


def test_bounds_are_as_far_away_as_a_bootstrap_over_users_says():
    rows = rows_of(users=1500, shift=0.6)  # so far off that no absolute value bends
    told, random = by_name(rows, confidence=0.8413447), np.random.default_rng(1)  # one standard error
    places = np.split(np.arange(len(rows.label)), np.flatnonzero(np.diff(rows.group)) + 1)
    repeats = []
    for _ in range(150):
        drawn = random.integers(0, 1500, 1500)
        chosen = np.concatenate([places[user] for user in drawn])
        renamed = np.repeat(np.arange(1500), [len(places[user]) for user in drawn]).astype(np.uint64)
        again = by_name(rows.only(chosen)._replace(group=renamed))
        repeats.append([again[name]["worse"] for name in ("log_loss", "grouped_auc", "ndcg", "calibration")])
    for name, spread in zip(("log_loss", "grouped_auc", "ndcg"), np.std(repeats, axis=0)):
        assert (told[name]["most"] - told[name]["least"]) / 2 == pytest.approx(spread, rel=0.2)
        assert told[name]["least"] < told[name]["worse"] < told[name]["most"]
    halved = by_name(rows, confidence=1 - 2 * (1 - 0.8413447))["calibration"]  # each of its bounds pays for two
    assert (halved["most"] - halved["least"]) / 2 == pytest.approx(np.std(repeats, axis=0)[3], rel=0.2)


@pytest.mark.battery
@pytest.mark.parametrize("shift", [0.0, 0.03, -0.2])
def test_the_bounds_of_calibration_hold_where_both_models_are_nearly_calibrated(shift):
    truth = rows_of(users=60_000, seed=99, shift=shift, noise=0.1)
    known = {name: each["worse"] for name, each in by_name(truth).items()}
    wrong = {name: 0 for name in known}
    for seed in range(200):
        told = by_name(rows_of(users=250, seed=seed, shift=shift, noise=0.1))
        for name, worse in known.items():
            wrong[name] += told[name]["most"] < worse
    assert max(wrong.values()) <= 18  # 5 % of 200, and three deviations


def test_the_same_model_is_never_worse_and_the_worse_one_is_better_turned_round():
    rows = rows_of(shift=0.5)
    for each in by_name(rows._replace(slim=rows.full)).values():
        assert each["worse"] == 0 and each["least"] < 0 < each["most"]
    turned = by_name(rows._replace(full=rows.slim, slim=rows.full))
    for name, each in by_name(rows).items():
        assert turned[name]["worse"] == pytest.approx(-each["worse"])
        assert turned[name]["most"] == pytest.approx(-each["least"])


def test_rows_of_no_weight_tell_nothing_and_copies_count_once():
    rows = rows_of()
    padded = Rows(*(np.append(column, column[:9]) for column in rows[:5]), None)
    padded.weight[-9:] = 0
    assert by_name(padded) == by_name(rows)
    random = np.random.default_rng(0)
    single = Rows(random.integers(0, 2, 400).astype(float), *random.normal(size=(2, 400)), np.ones(400), None, None)
    ten = single.only(np.repeat(np.arange(400), 10))
    once, often = by_name(single), by_name(ten)
    for name in ("log_loss", "calibration"):
        assert often[name]["most"] == pytest.approx(once[name]["most"])


def test_binding_losses_certify_reject_or_leave_open_and_the_reason_names_them():
    rows = rows_of(users=1500, shift=0.6)
    told = by_name(rows, {"log_loss": 0.001, "grouped_auc": 0.5, "ndcg": 0.0})
    verdicts = {name: each["verdict"] for name, each in told.items()}
    assert verdicts == {"log_loss": "rejected", "calibration": "", "grouped_auc": "certified", "ndcg": "open"}
    said = veto(list(told.values()), "veto")
    assert said.outcome == "rejected" and said.said.startswith("log-loss is worse by at least 0.")
    said = veto([told["ndcg"]], "veto")
    assert said.outcome == "inconclusive" and said.said.startswith("NDCG may be worse by 0.")
    assert veto([told["grouped_auc"], told["calibration"]], "veto").outcome == ""


def test_calibration_of_slices_pays_for_their_number_and_one_of_few_rows_may_be_a_remark():
    rows = rows_of(users=1500, shift=0.6)
    few, half = np.arange(len(rows.label)) < 30, np.arange(len(rows.label)) % 2 == 0
    told = by_name(rows, {"slice_calibration": 0.9}, slices=[("few", few), ("half", half)])
    assert told["calibration of few"]["verdict"] == "scarce" and told["calibration of half"]["verdict"] == "certified"
    alone = by_name(rows.only(half), confidence=1 - 0.05 / 2)["calibration"]
    assert told["calibration of half"]["most"] == alone["most"]
    assert veto(list(told.values()), "veto").outcome == "inconclusive"
    assert veto(list(told.values()), "remark").outcome == ""


def test_what_cannot_be_binding_is_refused_before_anything_runs():
    fields = {"label": "click", "fields": [{"name": "site", "kind": "category"}]}
    with pytest.raises(ConfigError, match=r"grouped_auc needs a `group`"):
        settle({"ingest": {"source": "x", "fields": fields}, "evaluate": {"binding": {"grouped_auc": 0.1}}}, {})
    with pytest.raises(ConfigError, match=r"ndcg needs a `group`"):  # as a step that is called by itself asks
        check_limits(EvaluateConfig(binding={"ndcg": 0.1}), read_schema(fields))
    for binding, said in (
        ({"slice_calibration": 0.1}, "name them"),
        ({"logloss": 0.1}, "logloss"),
        ({"ndcg": -1}, "ndcg"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse(Recipe, {"ingest": {"source": "x"}, "evaluate": {"binding": binding}})


def test_rows_that_all_weigh_nothing_have_no_losses_and_end_what_is_binding_without_evidence():
    nothing, some = np.zeros(4), np.arange(4.0)
    told = by_name(Rows(np.array([0, 1, 0, 1]), some, some, nothing, np.array([1, 1, 2, 2]), None), {"log_loss": 0.1})
    assert told["log_loss"]["verdict"] == "scarce" and "ndcg" not in told


def test_an_audit_is_rejected_by_a_binding_loss_and_reports_all_of_them(tmp_path):
    from test_evaluate import judge as evaluated

    world = small.make(tmp_path, dropped=("device", "device_again", "price", "embedding"))
    config = EvaluateConfig(
        allowed_auc_loss=0.4,
        latency_repeats=1,
        slices=[{"of": "price", "parts": 2}],
        binding={"log_loss": 0.001},
        allowed_slice_loss=0.9,
    )
    found = evaluated(world, tmp_path / "report", config)
    facts = json.loads((tmp_path / "report" / "report.json").read_text())
    losses = facts["losses"]
    assert facts["stoppable"] == ["device", "embedding", "price"]  # once, though two fields read `device`
    assert found["verdict"] == "rejected" and found["reason"].startswith("log-loss is worse by at least")
    names = [each["name"] for each in losses]
    assert names[:4] == ["log_loss", "calibration", "grouped_auc", "ndcg"] and len(names) == 6
    assert losses[0]["slim"] == pytest.approx(found["slim_logloss"], abs=1e-6)
