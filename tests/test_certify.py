"""The verdict against oracles: all pairs, scikit-learn, the bootstrap, duplicated rows and simulated worlds."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.verdict import measure
from slimrec.errors import InputError
from slimrec.verdict import certify
from slimrec.verdict.certify import compare, influence, rows_for, rows_needed, smallest_margin, verdict
from slimrec.verdict.evidence import Clusters


def world(seed, rows=400, lift=1.0, noise=0.5, ties=True):
    """Labels and two correlated scores."""
    random = np.random.default_rng(seed)
    label = random.random(rows) < 0.3
    full = label * lift + random.normal(size=rows)
    slim = full + noise * random.normal(size=rows)
    if ties:
        full, slim = np.round(full, 1), np.round(slim, 1)
    return label.astype(np.uint8), full, slim, random


def all_pairs_auc(label, score, weight):
    positives, negatives = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    wins = sum(
        weight[i] * weight[j] * (1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0)
        for i in positives
        for j in negatives
    )
    return wins / (weight[positives].sum() * weight[negatives].sum())


def test_weighted_auc_equals_the_count_over_all_pairs_and_scikit_learn():
    label, full, slim, random = world(1, rows=120)
    weight = random.uniform(0.1, 5, 120)
    found = compare(label, full, slim, weight)
    assert found.full_auc == pytest.approx(all_pairs_auc(label, full, weight), abs=1e-12)
    assert found.slim_auc == pytest.approx(all_pairs_auc(label, slim, weight), abs=1e-12)
    assert found.full_auc == pytest.approx(roc_auc_score(label, full, sample_weight=weight), abs=1e-12)
    assert found.difference == pytest.approx(found.slim_auc - found.full_auc, abs=1e-15)


def test_error_equals_delongs_formula_written_out():
    label, full, slim, _ = world(2, rows=150)
    positive, negative = label == 1, label == 0
    kernel = [(s[positive][:, None] > s[negative]) + 0.5 * (s[positive][:, None] == s[negative]) for s in (full, slim)]
    gap = kernel[1] - kernel[0]
    by_positive, by_negative = gap.mean(axis=1), gap.mean(axis=0)
    variance = by_positive.var(ddof=1) / positive.sum() + by_negative.var(ddof=1) / negative.sum()
    assert compare(label, full, slim).error == pytest.approx(np.sqrt(variance), rel=1e-12)


def test_influences_sum_to_zero_and_match_the_derivative_of_auc_by_each_weight():
    label, full, _, random = world(3, rows=60)
    weight, step = random.uniform(0.5, 2, 60), 1e-6
    auc, found = influence(label == 1, full, weight)
    assert found.sum() == pytest.approx(0, abs=1e-12)
    for row in range(0, 60, 7):
        nudged = weight.copy()
        nudged[row] += step
        slope = (all_pairs_auc(label, full, nudged) - auc) / step
        assert found[row] == pytest.approx(slope * weight[row], abs=1e-5)


def test_error_agrees_with_the_bootstrap_over_groups():
    random = np.random.default_rng(4)
    group = np.repeat(np.arange(150), 6)
    taste = np.repeat(random.normal(size=150), 6)  # what the rows of a group share, in label and scores
    label = (random.random(900) < 1 / (1 + np.exp(1 - taste))).astype(np.uint8)
    full = taste + random.normal(size=900)
    slim = full + np.repeat(random.normal(size=150), 6)
    draws = []
    for _ in range(600):
        rows = np.concatenate([np.arange(6 * g, 6 * g + 6) for g in random.integers(0, 150, 150)])
        draws.append(roc_auc_score(label[rows], slim[rows]) - roc_auc_score(label[rows], full[rows]))
    clustered, naive = compare(label, full, slim, group=group), compare(label, full, slim)
    assert clustered.error == pytest.approx(np.std(draws), rel=0.12)
    assert clustered.error > 1.1 * naive.error  # treating a group's rows as independent would flatter
    assert clustered.clusters == 150 and naive.clusters == 900


def test_integer_weights_give_the_point_estimate_of_duplicated_rows():
    label, full, slim, random = world(5)
    times = random.integers(0, 4, len(label))
    weighted = compare(label, full, slim, times)
    repeated = compare(np.repeat(label, times), np.repeat(full, times), np.repeat(slim, times))
    assert weighted.difference == pytest.approx(repeated.difference, abs=1e-12)
    assert weighted.rows == (times > 0).sum()


def test_duplicating_every_row_within_its_group_leaves_the_interval_unchanged():
    label, full, slim, random = world(6)
    group = random.integers(0, 80, len(label))
    once = compare(label, full, slim, group=group)
    thrice = compare(*(np.repeat(v, 3) for v in (label, full, slim)), group=np.repeat(group, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_order_of_rows_and_a_monotone_change_of_scores_do_not_matter():
    label, full, slim, random = world(7)
    weight, order = random.uniform(0.1, 2, len(label)), random.permutation(len(label))
    plain = dataclasses.astuple(compare(label, full, slim, weight))
    shuffled = compare(label[order], np.exp(full[order]), 3 * slim[order] - 7, weight[order])
    assert dataclasses.astuple(shuffled) == pytest.approx(plain, abs=1e-12)


def test_each_bound_covers_the_true_difference_as_often_as_it_says():
    """Full and slim are equally good by construction, so that the true difference is 0."""
    outside_low = outside_high = 0
    worlds = 1200
    for seed in range(worlds):
        random = np.random.default_rng(seed)
        group = np.repeat(np.arange(100), 3)
        label = random.random(300) < 0.3
        signal, shared = label * 1.0, np.repeat(random.normal(size=(2, 100)), 3, axis=1)
        full, slim = signal + shared + random.normal(size=(2, 300))
        found = compare(label, full, slim, group=group)
        outside_low += found.low > 0
        outside_high += found.high < 0
    assert 0.03 < outside_low / worlds < 0.07  # 5 % within three errors of the simulation
    assert 0.03 < outside_high / worlds < 0.07


def test_bounds_are_students_with_one_degree_of_freedom_less_than_the_rarer_class_has_rows():
    """Written out from the influences of 12 positive and 30 negative rows."""
    label = np.arange(42) < 12
    full = np.random.default_rng(0).normal(size=42)
    found = compare(label, full, -full)
    paired = influence(label, -full, np.ones(42))[1] - influence(label, full, np.ones(42))[1]
    size = np.where(label, 12, 30)
    parts = paired * np.sqrt((size - 1) / size) / (1 - 1 / size)
    squares, skew = (parts**2).sum(), (parts**3).sum()
    assert 2 / ((parts**4).sum() / squares**2 - 39 / (42 * 41)) > 12  # their kurtosis would leave more
    halves = [max(sign * skew / squares, 0) * stats.norm.ppf(0.95) ** 2 / 2 for sign in (-1, 1)]
    down, up = (half + np.hypot(half, stats.t.ppf(0.95, 11) * np.sqrt(squares)) for half in halves)
    assert down > found.unseen and found.error == pytest.approx(np.sqrt(squares))
    assert found.low == pytest.approx(max(found.difference - down, -1))
    assert found.high == pytest.approx(found.difference + up)


@pytest.mark.parametrize(("positives", "bounded"), [(1, False), (2, True)])
def test_one_row_of_a_class_gives_a_difference_and_no_bounds_and_two_give_bounds(positives, bounded):
    label = np.arange(60) < positives
    found = compare(label, np.arange(60.0), np.arange(60.0) % 7)
    assert found.difference is not None and (found.low is not None) == (found.high is not None) == bounded
    assert verdict(found, 0.4)[0] == "inconclusive"


def reach(parts, most):
    """Error and bounds of a sum of these parts, at 95 %."""
    return certify.reach(len(parts), tuple((parts**k).sum() for k in (2, 3, 4)), most, 0.95)


def test_few_large_parts_leave_as_many_degrees_of_freedom_as_their_kurtosis_tells():
    even = np.tile([1.0, -1.0], 6)
    assert reach(even, 7) == pytest.approx((np.sqrt(12), *[1.8946 * np.sqrt(12)] * 2), rel=1e-4)  # t of 7
    uneven = np.append(even, [9.0, -9.0])
    excess = (uneven**4).sum() / (uneven**2).sum() ** 2 - 11 / (14 * 13)
    bound = stats.t.ppf(0.95, 2 / excess) * np.sqrt(12 + 162)
    assert 2 / excess < 6 and reach(uneven, 7)[1:] == pytest.approx((bound, bound))


def test_a_count_of_like_losses_is_bounded_as_wilson_bounds_a_poisson_count():
    """The largest rate L with (L - 400)^2 = z^2 L; the other way, where nothing is skewed, plain Student."""
    error, down, up = reach(np.where(np.arange(10**6) < 400, -1.0, 0.0), 1e6)
    z = stats.norm.ppf(0.95)
    assert down**2 == pytest.approx(z**2 * (400 + down), rel=0.005) and error == 20
    assert up == pytest.approx(z * 20, rel=0.005)


def test_a_gain_is_not_counted_on_where_rows_are_planned_and_a_loss_is():
    pilot = compare(*world(16, rows=4000, noise=0.3)[:3])
    none, gain, loss = (dataclasses.replace(pilot, difference=change) for change in (0.0, 0.01, -0.0025))
    assert rows_needed(none, 0.005) == rows_needed(gain, 0.005)
    assert rows_needed(loss, 0.005) == pytest.approx(4 * rows_needed(none, 0.005), abs=4)
    assert rows_needed(dataclasses.replace(pilot, difference=-0.005), 0.005) is None


def test_verdict_is_read_off_the_bounds():
    label, full, slim, _ = world(8, rows=4000, noise=0.3)
    found = compare(label, full, slim)
    assert found.low < found.difference < found.high < 0
    assert verdict(found, -found.low + 1e-9)[0] == "certified"
    assert verdict(found, -found.high - 1e-6)[0] == "rejected"
    outcome, reason = verdict(found, -found.difference + 0.1 * found.error)
    assert outcome == "inconclusive" and "rows" in reason


def test_the_reason_says_whether_the_auc_rises_or_falls_and_by_how_much():
    label, full, slim, _ = world(8, rows=4000, noise=0.3)
    falls, rises = compare(label, full, slim), compare(label, slim, full)
    assert f"falls by at most {-falls.low:.5f}; a fall of 0.50000 is allowed" in verdict(falls, 0.5)[1]
    assert f"rises by at least {rises.low:.5f}" in verdict(rises, 0.0)[1] and rises.low > 0
    assert f"by at least {-falls.high:.5f}, and 0.00001 is allowed" in verdict(falls, 0.00001)[1]


def test_a_model_compared_with_itself_is_certified_and_a_noise_model_rejected():
    label, full, _, random = world(9, rows=4000)
    same = compare(label, full, full)
    assert verdict(same, -same.low)[0] == "certified"  # to the bound itself
    assert verdict(same, -0.999 * same.low)[0] == "inconclusive"
    assert verdict(compare(label, full, random.normal(size=4000)), 0.01)[0] == "rejected"


def test_with_the_rows_it_asks_for_at_least_nine_of_ten_worlds_are_certified():
    def world_without_loss(seed, rows):
        random = np.random.default_rng(seed)
        label = random.random(rows) < 0.3
        return label, *(label + random.normal(size=rows) + 0.3 * random.normal(size=(2, rows)))

    pilot = dataclasses.replace(compare(*world_without_loss(0, 4000)), difference=0.0)  # what is true, known here
    rows = rows_needed(pilot, 0.015)
    outcomes = [verdict(compare(*world_without_loss(seed, rows)), 0.015)[0] for seed in range(1, 301)]
    assert 0.9 < outcomes.count("certified") / 300 < 0.98
    assert rows_needed(pilot, 0.0075) == pytest.approx(4 * rows, abs=4)  # half the loss, four times the rows


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_is_inconclusive_and_never_certified(only):
    found = compare(np.full(50, only), np.arange(50.0), np.arange(50.0))
    outcome, reason = verdict(found, 0.4)
    assert outcome == "inconclusive" and "AUC undefined" in reason
    assert (found.trainings, found.seed_error, found.unseen, found.rows) == (1, 0.0, None, 50)


def test_few_positive_groups_are_inconclusive_however_good_the_scores():
    label = np.array([1] * 30 + [0] * 300)
    group = np.concatenate([np.zeros(30), np.arange(1, 301)])
    outcome, reason = verdict(compare(label, label * 1.0, label * 2.0, group=group), 0.4)
    assert outcome == "inconclusive" and "1 independent positive" in reason


def test_bad_labels_scores_and_weights_are_refused_by_name():
    label, full, slim, _ = world(10)
    with pytest.raises(InputError, match="labels must be 0 or 1"):
        compare(label * 2, full, slim)
    with pytest.raises(InputError, match="slim model scores 1 of 400"):
        compare(label, full, np.where(np.arange(400) == 3, np.nan, slim))
    with pytest.raises(InputError, match="weights must be finite"):
        compare(label, full, slim, np.where(np.arange(400) == 3, -1, 1))
    for wrong in (full[1:], full[:, None], np.column_stack([1 - full, full])):
        with pytest.raises(InputError, match=r"one value a row, got shapes .*\[:, 1\]"):
            compare(label, wrong, slim)
    for column in (label[:, None], label[1:]):
        with pytest.raises(InputError, match="one value a row"):
            compare(label, full, slim, group=column)
        with pytest.raises(InputError, match="one value a row"):
            compare(column, full, slim)


@pytest.mark.parametrize(
    "kind",
    [
        *("users, models far apart", "one group of 97 %", "two groups of 45 %", "forty groups of 2.5 %"),
        *("weights of deviation 3", "AUC near 1", "AUC near 1, more rows", "twelve and twelve, separated"),
        *("every line ten times", "a third of the lines five times"),
    ],
)
@pytest.mark.battery
def test_a_loss_of_exactly_what_is_allowed_is_seldom_certified(kind):
    found = measure(kind, worlds=150, about=1_000_000)
    assert found["wrong"] < 0.09 and found["above"] < 0.09  # 5 % and two errors of 150 worlds


def test_one_group_of_strangers_is_too_little_evidence_and_the_remedy_is_named():
    label, full, slim, random = world(11, rows=3000, ties=False)
    group = np.where(random.random(3000) < 0.97, 0, np.arange(1, 3001))
    outcome, reason = verdict(compare(label, full, slim, group=group), 0.2)
    assert outcome == "inconclusive" and "too little evidence" in reason and "leave it empty" in reason
    assert verdict(compare(label, full, slim), 0.2)[0] == "certified"


def test_effective_numbers_are_those_of_even_clusters_and_fall_with_uneven_weights():
    label, full, slim, random = world(12, rows=3000)
    even = compare(label, full, slim, group=np.arange(3000) // 3)
    assert even.positive_effective < even.positive_clusters < 1000 and even.largest_share < 0.01
    plain = compare(label, full, slim)
    assert plain.positive_effective == pytest.approx(label.sum())
    heavy = compare(label, full, slim, np.exp(2 * random.normal(size=3000)))
    assert heavy.positive_effective < 0.2 * label.sum()


def test_what_is_told_of_the_rows_is_told_of_the_right_class():
    label, weight = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 2, 1, 1, 1, 1, 0]
    found = compare(np.array(label), np.arange(8.0), np.arange(8.0), weight, np.array(list("aabbccdd")))
    assert (found.clusters, found.positive_clusters, found.negative_clusters, found.rows) == (4, 2, 3, 7)
    assert (found.positive_effective, found.negative_effective) == pytest.approx((2, 8 / 3))
    assert found.largest_share == 0.5 and found.copies == 0 and found.confidence == 0.95


def test_copies_of_a_line_count_once_and_are_told():
    label, full, slim, _ = world(13, rows=500, ties=False)
    once = compare(label, full, slim)
    tenfold = compare(*(np.tile(values, 10) for values in (label, full, slim)))
    assert tenfold.copies == 4500 and once.copies == 0
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_rows_that_are_alike_by_chance_are_no_copies():
    """Two fields of few values: many rows hold the same, and their labels differ as chance has it."""
    random = np.random.default_rng(14)
    a, b = random.integers(0, 6, (2, 4000))
    label = random.random(4000) < 1 / (1 + np.exp(-(a - b) / 3))
    assert compare(label, a - b + 0.0, a - 0.8 * b).copies == 0


def test_where_no_row_tells_the_models_apart_the_bounds_leave_room_for_what_none_shows():
    label = np.repeat([1, 0], 200)
    agreed = compare(label, label + 0.001 * np.arange(400), label + 0.002 * np.arange(400))
    assert agreed.difference == 0 and agreed.error == 0
    assert agreed.low == pytest.approx(-np.log(20) / 200) and agreed.high == -agreed.low
    outcome, reason = verdict(agreed, 0.001)
    assert outcome == "inconclusive" and "too little evidence" in reason and "5,992 rows would be enough" in reason
    assert verdict(agreed, 0.02)[0] == "certified"


def test_a_comparison_with_its_sign_turned_or_its_clusters_forgotten_is_told_apart():
    """The worlds above would catch neither: here the mutants are made, and differ as they must."""
    label, full, slim, _ = world(15, rows=2000, noise=1.0, ties=False)
    found, turned = compare(label, full, slim), compare(label, slim, full)
    assert found.high < 0 < turned.low and found.difference == -turned.difference
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-12)


def test_a_fault_that_no_row_shows_is_counted_by_rows_and_not_by_groups():
    """Four hundred users with fifty rows each can show what befalls one row in a thousand."""
    random = np.random.default_rng(0)
    user, label = np.repeat(np.arange(400), 50), random.random(20_000) < 0.3
    full = label + random.normal(size=20_000)
    found = compare(label, full, full + 1e-9 * random.normal(size=20_000), group=user)
    assert found.positive_effective < 400
    assert found.unseen == pytest.approx(-np.log(0.05) / label.sum())
    assert verdict(found, 0.001)[0] == "certified" and verdict(found, 0.0004)[0] == "inconclusive"


def test_no_bound_is_further_away_than_an_auc_can_change():
    label = np.arange(60) % 2
    lost = compare(label, label * 1.0, -label * 1.0)
    assert (lost.difference, lost.low) == (-1, -1) and lost.high == pytest.approx(-1 + lost.unseen)
    won = compare(label, -label * 1.0, label * 1.0)
    assert (won.difference, won.high) == (1, 1) and won.low == pytest.approx(1 - won.unseen)


def test_the_smallest_margin_is_that_of_both_tails_or_of_what_is_unseen_and_one():
    """1.6449 and 1.2816 are the normal quantiles of 95 % and 90 %; the error counts for 1.3 times as many rows."""
    error = np.sqrt(1.3) * 0.01
    assert smallest_margin(0.01, 0.0, 0.95) == pytest.approx((1.64485 + 1.28155) * error, rel=1e-5)
    assert smallest_margin(0.01, 0.016, 0.95) == pytest.approx((1.64485 + 1.28155) * error, rel=1e-5)
    assert smallest_margin(0.01, 0.05, 0.95) == pytest.approx(0.05 + 1.28155 * error, rel=1e-5)


@pytest.mark.parametrize(
    ("error", "unseen"), [(0.004, 0.001), (0.001, 0.02), (0.004, 0.012), (0.0, 0.02), (0.004, 0.0)]
)
@pytest.mark.parametrize("margin", [0.002, 0.03])
def test_the_rows_asked_for_are_the_fewest_whose_smallest_margin_is_no_more(error, unseen, margin):
    def reached(rows):
        return smallest_margin(error * np.sqrt(2000 / rows), unseen * 2000 / rows, 0.95)

    rows = rows_for(2000, error, unseen, margin, 0.95)
    assert reached(rows) <= margin * (1 + 1e-9) and reached(rows - 2) > margin


LIKE = compare(*world(16, rows=4000, noise=0.3)[:3])


def test_where_seeds_make_a_part_of_the_error_rows_have_to_make_up_for_what_it_leaves():
    error, seed = 0.003, 0.002
    found = dataclasses.replace(LIKE, difference=-0.001, error=np.hypot(error, seed), seed_error=seed)
    margin = np.sqrt(0.019**2 - smallest_margin(seed, 0.0, 0.95) ** 2)
    assert rows_needed(found, 0.02) == pytest.approx(rows_for(4000, error, LIKE.unseen, margin, 0.95), abs=1)
    still = dataclasses.replace(found, difference=0.0)
    edge = smallest_margin(seed, 0.0, 0.95)
    assert rows_needed(still, edge) is None is rows_needed(still, 0.9 * edge) and rows_needed(still, 1.01 * edge)
    wide = dataclasses.replace(still, low=-0.02, high=0.02, unseen=0.001)
    assert verdict(wide, 0.9 * edge)[1].endswith(
        "is allowed; trainings differ too much for any number of rows to settle it: raise evaluate.retrains"
    )
    all_of_seeds = dataclasses.replace(still, error=seed)
    assert rows_needed(all_of_seeds, 0.02) == pytest.approx(rows_for(4000, 0.0, LIKE.unseen, margin, 0.95), rel=0.2)
    for name in ("error", "difference", "unseen"):
        assert rows_needed(dataclasses.replace(found, **{name: None}), 0.02) is None


def test_a_verdict_at_the_allowed_loss_itself_is_certified_by_the_lower_bound_and_not_rejected_by_the_upper():
    at = dataclasses.replace(LIKE, difference=-0.005, low=-0.01, high=-0.004, unseen=0.001)
    assert verdict(at, 0.01)[0] == "certified" and verdict(at, 0.0099)[0] == "inconclusive"
    assert verdict(at, 0.004)[0] == "inconclusive" and verdict(at, 0.0039)[0] == "rejected"
    assert "rises by at least 0.00000;" in verdict(dataclasses.replace(at, low=0.0, difference=0.002), 0.01)[1]
    assert "the loss sits on the allowed limit, rows will not settle it" in verdict(at, 0.005)[1]
    said = verdict(at, 0.0099)[1]
    assert said.startswith(
        "with 95 % confidence the AUC changes by -0.01000 to -0.00400, and a fall of 0.00990 is allowed; "
    )
    assert said.endswith(f"4,000 rows are too few, about {rows_needed(at, 0.0099):,} rows would settle it")


def test_twenty_even_observations_of_the_rarer_class_are_enough_and_fewer_are_told_how_many_would_be():
    enough = dataclasses.replace(LIKE, low=-0.001, difference=0.0, positive_effective=20.0, negative_effective=500.0)
    assert verdict(enough, 0.01)[0] == "certified" and certify._scarce(enough, 0.01) == ""
    turned = dataclasses.replace(enough, positive_effective=500.0, negative_effective=12.5, largest_share=20**-0.5)
    outcome, said = verdict(turned, 0.01)
    assert outcome == "inconclusive" and said == (
        "too little evidence: 12 independent negative observations in the certification slice, at least 20 are needed; "
        "about 6,400 rows of the same kind would be enough"
    )
    few = dataclasses.replace(turned, negative_effective=0.5, largest_share=0.23)
    assert "one observation holds 23 % of a class" in verdict(few, 0.01)[1]
    assert "about 80,000 rows" in verdict(dataclasses.replace(few, largest_share=0.22), 0.01)[1]


def test_only_a_loss_that_the_rows_did_not_show_and_could_not_is_called_too_rare_to_be_seen():
    bare = dataclasses.replace(LIKE, difference=-0.001, low=-0.003, high=0.001, unseen=0.002)
    said = verdict(bare, 0.002)[1]
    assert said.startswith(
        "too little evidence: these rows show no loss beyond what is allowed, but a fault that costs 0.00200"
    )
    assert (
        f"that {-np.log(0.05) / 0.002:,.0f} rows of a class do not" in said
        and f"about {rows_needed(bare, 0.002):,} " in said
    )
    assert "on the allowed limit" not in said and "about inf rows" in verdict(bare, 0.001)[1]
    for changed in ({"low": -0.0031}, {"difference": -0.0021}, {"unseen": 0.0019}):
        assert "too little evidence" not in verdict(dataclasses.replace(bare, **changed), 0.002)[1]
    assert verdict(bare, 0.003)[0] == "certified"
    gained = dataclasses.replace(bare, difference=0.001, low=-0.001)
    assert "too little evidence" not in verdict(gained, 0.0)[1]  # nothing is allowed: rows show no such fault ever


def test_parts_that_are_nothing_have_no_error_and_one_part_alone_has_a_degree_of_freedom():
    assert certify.reach(9, (0.0, 0.0, 0.0), 5, 0.95) == (0.0, 0.0, 0.0)
    bounds = reach(np.array([1.0, -1.0]), 9)  # excess 1/2 + 1/2: two degrees
    assert bounds == pytest.approx((np.sqrt(2), *[stats.t.ppf(0.95, 2) * np.sqrt(2)] * 2))
    assert reach(np.array([1e-9, 1.0, -1.0, 1e-9]), 0.5)[1] == pytest.approx(stats.t.ppf(0.95, 1) * np.sqrt(2))
    normal = certify.reach(4, (12.0, 0.0, 12.0), 7, 0.95)  # four parts, as far from even as the normal law: no excess
    assert normal[1:] == pytest.approx([stats.t.ppf(0.95, 7) * np.sqrt(12)] * 2)
    even = reach(np.tile([1.0, -1.0], 10_000), 40)
    assert even[1] == pytest.approx(stats.t.ppf(0.95, 40) * np.sqrt(20_000))


def test_a_group_that_holds_nearly_all_of_a_class_leaves_bounds_that_are_finite():
    label, weight = np.arange(60) % 2, np.where(np.arange(60) == 1, 1.0, 1e-18)
    found = compare(label, np.arange(60.0), np.arange(60.0) % 7, np.where(label == 1, weight, 1.0))
    assert np.isfinite(found.error) and -1 <= found.low < found.difference < found.high <= 1


def test_what_a_cluster_adds_grows_with_its_share_of_its_class_up_to_a_thousand_millionfold():
    share = {True: np.array([1.0, 0, 0, 0]), False: np.array([0, 0, 0.5, 0.5])}
    found = Clusters(np.arange(4), 4, 0, share, {True: 2, False: 2}, {})
    told = certify._sums(np.array([0.1, 0.2, 0.3, 0.4]), np.arange(4) < 2, found)
    assert told == pytest.approx(np.array([1e8, 0.2, 0.6, 0.8]) * np.sqrt(1 / 2))


def test_the_message_names_what_came_and_the_model_that_gave_it():
    label, full, slim, _ = world(10)
    with pytest.raises(InputError, match="full model scores 2 of 400 rows"):
        compare(label, np.where(np.arange(400) < 2, np.inf, full), slim)
    with pytest.raises(InputError, match=r"got shapes \(400,\), \(399,\), \(400,\), \(400,\)"):
        compare(label, full, slim, np.ones(399))
    with pytest.raises(InputError, match="not negative, got -1"):
        compare(label, full, slim, np.where(np.arange(400) == 3, -1, 1))
    with pytest.raises(InputError, match="weights must be finite and not negative, got inf"):
        compare(label, full, slim, np.where(np.arange(400) == 3, np.inf, 1))
    with pytest.raises(InputError, match="got 2; write 1 where it happened"):
        compare(np.where(np.arange(400) == 9, 2, label), full, slim)
