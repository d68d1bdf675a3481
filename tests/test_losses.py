"""Other losses: values as scikit-learn has them, errors as a bootstrap over users has them, and what is binding vetoes."""

import json

import numpy as np
import pytest
import small
from scipy import stats
from sklearn import metrics

from slimrec.config import EvaluateConfig, Recipe, check_limits, parse, read_schema
from slimrec.errors import ConfigError
from slimrec.metrics import probability
from slimrec.stages.settle import settle
from slimrec.verdict.evidence import clusters
from slimrec.verdict.losses import Loss, Moments, Rows, _ratio, conclude, gather, ndcg, titled, veto, within


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
    kept = padded.carrying()
    assert (
        kept.label.dtype == bool
        and kept.label.tolist() == (rows.label == 1).tolist()
        and len(kept.full) == len(rows.full)
    )
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


def loss(*values, name="ndcg", powers=(0.0, 0.0, 0.0), allowed=None, among=1, effective=20.0, **more):
    """A loss of moments by hand, which no rows move: what no row shows is left, 2.9957 times 0.5 in 300 rows."""
    rest = {"clusters": 90, "present": 60, "worst": 0.5, "worth": 300.0, "values": (), "effective": effective} | more
    moments = tuple(Moments(value=value, powers=powers, **rest) for value in values)
    return Loss(name=name, full=0.5, slim=0.5, allowed=allowed, among=among, moments=moments)


def test_a_bound_leaves_room_for_what_no_row_shows_and_for_what_rows_do():
    (told,) = conclude([loss(0.01)], 0.95)
    unseen = np.log(20) / 300 * 0.5  # the rule of three
    assert [told[name] for name in ("worse", "least", "most")] == pytest.approx([0.01, 0.01 - unseen, 0.01 + unseen])
    (told,) = conclude([loss(0.01, among=5)], 0.95)
    assert told["most"] == pytest.approx(0.01 + np.log(100) / 300 * 0.5)
    even = (1e-4, 0.0, 1e-8 * 87 / (90 * 89))  # as evenly as 90 parts can be: Student's law of 60 that carry weight
    (told,) = conclude([loss(0.01, powers=even)], 0.95)
    margin = stats.t.ppf(0.95, 59) * 0.01
    assert [told["least"], told["most"]] == pytest.approx([0.01 - margin, 0.01 + margin])
    (told,) = conclude([loss(0.01, powers=even, values=(0.0, 0.02))], 0.95)  # two trainings, an error of 0.01 between
    both = np.hypot(margin, stats.t.ppf(0.95, 1) * 0.01)
    assert [told["least"], told["most"]] == pytest.approx([0.01 - both, 0.01 + both])


@pytest.mark.parametrize(("full", "slim"), [(0.1, 0.3), (-0.1, 0.3), (0.1, -0.3), (-0.3, -0.1), (0.0, 0.2), (0.2, 0.0)])
def test_calibration_is_worse_by_the_difference_of_what_either_is_off(full, slim):
    signs = [(s, t) for s in (1, -1) for t in (1, -1)]
    (told,) = conclude([loss(*(s * slim - t * full for s, t in signs), name="calibration")], 0.95)
    unseen, worse = np.log(40) / 300 * 0.5, abs(slim) - abs(full)  # two bounds have a say
    assert [told[name] for name in ("worse", "least", "most")] == pytest.approx([worse, worse - unseen, worse + unseen])


def test_what_is_binding_passes_at_the_limit_itself_and_is_told_from_twenty_even_clusters_on():
    (told,) = conclude([loss(0.5)], 0.95)

    def verdict(allowed, **more):
        return conclude([loss(0.5, allowed=allowed, **more)], 0.95)[0]["verdict"]

    least, most = told["least"], told["most"]
    assert [verdict(most), verdict(np.nextafter(most, 0)), verdict(least), verdict(np.nextafter(least, 0))] == [
        "certified", "open", "open", "rejected"]  # fmt: skip
    assert verdict(most, effective=np.nextafter(20, 0)) == "scarce" and told["verdict"] == ""
    assert conclude([loss(), loss(allowed=0.0)], 0.95) == [
        {"name": "ndcg", "full": 0.5, "slim": 0.5, "worse": None, "least": None, "most": None, "allowed": 0.0, "verdict": "scarce"}
    ]  # fmt: skip


def test_moments_of_a_ratio_are_those_of_leaving_out_one_cluster_after_another():
    random = np.random.default_rng(8)
    aboves, below = random.normal(size=(2, 12)), np.append(random.uniform(0.5, 2, 11), 0.0)
    aboves[:, -1] = 0.0
    found = clusters(np.arange(12) < 4, np.ones(12), random.normal(size=(12, 2)), None, None)
    (told,) = _ratio(list(aboves), below, 0.7, found)
    above, total = aboves.mean(axis=0), below.sum()
    without = np.array([(above.sum() - a) / (total - b) for a, b in zip(above, below)])
    off = (told.value - without) * np.sqrt(10 / 11)  # the jackknife of the eleven that carry weight
    assert told.value == pytest.approx(above.sum() / total)
    assert told.powers == pytest.approx([(off**power).sum() for power in (2, 3, 4)])
    assert (told.clusters, told.present, told.worst, told.worth) == (12, 11, 0.7, 12)
    assert told.effective == pytest.approx(total**2 / np.square(below).sum())
    assert told.values == pytest.approx(aboves.sum(axis=1) / total)
    assert _ratio([above], below, 0.7, found)[0].values == ()
    assert (
        _ratio([above], np.eye(12)[0], 0.7, found) == () and len(_ratio([above], np.eye(12)[:2].sum(0), 1, found)) == 1
    )
    (told,) = _ratio([above], np.append(1.0, np.full(11, 1e-20)), 0.7, found)  # a cluster is all there is
    assert told.powers[0] == pytest.approx(((above.sum() - above[0]) / 1e-9) ** 2 * 11 / 12)


def test_the_worst_that_a_row_may_cost_is_read_from_both_models_and_trainings_are_told_one_by_one():
    rows = rows_of()
    again = np.stack([np.stack([rows.full, rows.slim], axis=1), np.stack([rows.slim, rows.full + 3], axis=1)], axis=2)
    found = {each.name: each for each in gather(rows._replace(retrained=again), {"ndcg": 0.2}, 3, ())}
    sides = [(rows.full, rows.slim), (rows.full, rows.slim), (rows.slim, rows.full + 3)]
    chance = probability(np.array(sides))
    own = np.where(rows.label == 1, chance, 1 - chance)
    assert found["log_loss"].moments[0].worst == pytest.approx(-np.log(own.min()))
    rate = rows.weight @ rows.label / rows.weight.sum()
    assert len(found["calibration"].moments) == 4
    assert [each.worst for each in found["calibration"].moments] == pytest.approx([chance.max() / rate] * 4)
    assert [found[name].moments[0].worst for name in ("grouped_auc", "ndcg")] == [1, 1]
    each = [[metrics.log_loss(rows.label, p, sample_weight=rows.weight) for p in pair] for pair in chance]
    assert found["log_loss"].moments[0].values == pytest.approx([slim - full for full, slim in each])
    assert [found["log_loss"].full, found["log_loss"].slim] == pytest.approx(np.mean(each, axis=0))
    assert found["ndcg"].allowed == 0.2 and found["log_loss"].allowed is None


def test_what_exceeds_its_limit_by_the_largest_factor_is_named_and_what_is_certain_comes_before_what_is_not():
    def told(name, kind, least=0.0, most=0.0, allowed=0.1):
        return {"name": name, "verdict": kind, "least": least, "most": most, "allowed": allowed}

    scarce, open_ = told("ndcg", "scarce"), told("grouped_auc", "open", most=0.25)
    far, near = told("log_loss", "rejected", 0.3), told("calibration", "rejected", 0.4, allowed=0.2)
    said = "log-loss is worse by at least 0.30000, and 0.10000 is allowed"
    assert veto([scarce, open_, near, far], "veto") == ("rejected", said)
    assert veto([far, told("calibration of x", "rejected", 1e-6, allowed=0.0)], "veto").said.startswith(
        "calibration of x"
    )
    for least, name in ((0.8e-3, "loss"), (1.2e-3, "ndcg")):  # of nothing allowed, a thousand millionth is
        both = [told("loss", "rejected", 1e-12, allowed=0.0), told("ndcg", "rejected", least, allowed=1.0)]
        assert veto(both, "veto").said.startswith(titled(name))
    said = "AUC within groups may be worse by 0.25000, and 0.10000 is allowed"
    last = told("log_loss", "open", most=0.5, allowed=0.3)
    assert veto([scarce, open_, last], "remark") == ("inconclusive", said)
    assert veto([scarce, told("log_loss", "scarce")], "veto").said.startswith("NDCG has")
    said = "NDCG has too little evidence in the certification slice"
    assert veto([told("calibration of x", "scarce"), scarce], "remark") == ("inconclusive", said)
    assert veto([told("calibration of x", "scarce")], "remark") == ("", "")


@pytest.mark.parametrize("at", [1, 2, 50])
def test_ndcg_over_any_number_of_places_is_that_of_scikit_learn(at):
    rows = rows_of(users=60, seed=9)
    users = np.unique(rows.group)
    told = ndcg(rows.group.astype(int), rows.label == 1, rows.full, at)
    mine = [rows.group == user for user in users]
    wanted = [
        metrics.ndcg_score([rows.label[m]], [rows.full[m]], k=at) if 0 < rows.label[m].sum() < m.sum() else np.nan
        for m in mine
    ]
    assert told == pytest.approx(np.array(wanted), nan_ok=True) and not np.isnan(told).all()


def test_the_auc_of_a_group_counts_weights_and_ties_as_scikit_learn_does():
    rows = rows_of(users=60, seed=9)
    told = within(rows.group.astype(int), rows.label == 1, rows.full, rows.weight)
    for user, found in enumerate(told):
        y, score, weight = (column[rows.group == user] for column in (rows.label, rows.full, rows.weight))
        wanted = metrics.roc_auc_score(y, score, sample_weight=weight) if 0 < y.sum() < len(y) else np.nan
        assert found == pytest.approx(wanted, nan_ok=True)
    assert np.isnan(told).any() and not np.isnan(told).all()


KEPT = {
    "value": 0.0,
    "clusters": 2,
    "present": 2,
    "powers": (0, 0, 0),
    "worst": 0,
    "worth": 1,
    "effective": 1,
    "values": (),
}


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [("clusters", 0, -1), ("present", 2, 1), ("worst", 0, -1e-9), ("worth", 1e-9, 0), ("effective", 1e-9, 0), ("allowed", 0, -1e-9), ("among", 1, 0)],
)  # fmt: skip
def test_what_a_loss_keeps_is_in_its_range_and_of_one_ratio_or_of_four(name, least, below):
    def kept(value, count=1):
        moments = (KEPT | {name: value} if name in KEPT else KEPT,) * count
        whole = {"name": "ndcg", "full": 0.5, "slim": 0.5, "allowed": 0.5, "among": 1, "moments": moments}
        return Loss.model_validate(whole if name in KEPT else whole | {name: value})

    with pytest.raises(ValueError, match=rf"{name}\n.*greater than"):
        kept(below)
    for count in (0, 1, 4):
        kept(least, count)
    for count in (2, 3, 5):
        with pytest.raises(ValueError, match="one ratio, or four of calibration"):
            kept(least, count)


def test_calibration_keeps_the_ratios_of_both_signs_of_both_models_in_order():
    rows = rows_of()
    (found,) = (each for each in gather(rows, {}, 3, ()) if each.name == "calibration")
    off = [np.average(probability(score), weights=rows.weight) / np.average(rows.label, weights=rows.weight) - 1
           for score in (rows.full, rows.slim)]  # fmt: skip
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    assert [each.value for each in found.moments] == pytest.approx([s * off[1] - t * off[0] for s, t in signs])
