"""What rows are worth, by hand: what counts as one observation, which rows are copies, how even the weights are."""

import numpy as np
import pytest
from scipy import optimize, stats

from slimrec.verdict.evidence import _mixing, _poisson_rate, _repeated, clusters, groups


def found(label, weight=None, scores=None, group=None, content=None):
    label = np.asarray(label, bool)
    weight = np.ones(len(label)) if weight is None else np.asarray(weight, float)
    scores = np.column_stack([np.arange(len(label)) / 7.0] * 2) if scores is None else scores
    group, content = (None if key is None else np.asarray(key) for key in (group, content))
    return clusters(label, weight, scores, group, None if content is None else content.astype(np.uint64))


def test_the_weight_of_each_class_lies_on_clusters_in_shares():
    told = found([1, 1, 1, 0, 0, 0, 0], weight=[1, 1, 2, 1, 1, 1, 1], group=list("aabbccd"))
    assert told.count == 4 and told.of_row.tolist() == [0, 0, 1, 1, 2, 2, 3] and told.copies == 0
    assert told.share[True].tolist() == [0.5, 0.5, 0, 0] and told.share[False].tolist() == [0, 0.25, 0.5, 0.25]
    assert told.present == {True: 2, False: 3}


def test_without_groups_each_row_is_a_cluster_and_rows_are_worth_what_even_ones_would_weigh():
    told = found([1, 1, 1, 0, 0], weight=[1, 1, 2, 3, 3])
    assert told.count == 5 and told.worth == pytest.approx({True: 16 / 6, False: 2})
    assert found([1, 1]).present == {True: 2, False: 0} and found([1, 1]).worth[False] == 0


def lines(sets: int = 40, times: int = 3, seed: int = 0):
    """Labels and scores of lines that each stand so many times in a log, in any order, and the line of each row."""
    random = np.random.default_rng(seed)
    line = random.permutation(np.repeat(np.arange(sets), times))
    label, scores = random.random(sets) < 0.4, random.normal(size=(sets, 2))
    return label[line], scores[line], line


@pytest.mark.parametrize(("sets", "copies"), [(9, 0), (10, 20), (40, 80)])
def test_lines_that_stand_three_times_are_copies_from_ten_of_them_on(sets, copies):
    label, scores, line = lines(sets)
    told = found(label, scores=scores)
    assert told.copies == copies and told.count == (sets if copies else 3 * sets)
    if copies:
        assert all(len(np.unique(told.of_row[line == i])) == 1 for i in range(sets))
        assert told.present[True] + told.present[False] == sets == sum(told.worth.values())


def test_a_row_repeats_another_only_with_its_weight_its_label_and_its_content():
    label, scores, line = lines()
    assert found(label, scores=scores, weight=1 + np.arange(120)).copies == 0
    assert found(label, scores=scores, content=np.arange(120)).copies == 0
    assert found(label, scores=scores + np.arange(120)[:, None], content=line).copies == 80
    scores[:, 0] = 0.0
    assert found(label, scores=scores).copies == 80  # the other score still tells
    scores[::2, 0] = -0.0
    assert found(label, scores=scores).copies == 80


def test_alike_rows_of_a_group_are_one_observation_already_and_no_copies():
    label, scores, line = lines()
    assert found(label, scores=scores, group=line).copies == 0
    strangers = np.where(line < 20, -1, np.arange(120))  # half of the lines stand in one group
    told = found(label, scores=scores, group=strangers)
    assert told.copies == 40 and told.count == 1 + 20


def test_alike_rows_whose_labels_mix_as_chance_has_it_are_no_copies():
    random = np.random.default_rng(1)
    line = random.integers(0, 200, 800)
    label, scores = random.random(800) < 0.4, np.column_stack([line, line]) / 3.0
    assert found(label, scores=scores).copies == 0
    alike = (line * 7919 % 10 < 4).astype(bool)  # one label a line: two or more rows in nearly every set, none mixes
    assert found(alike, scores=scores).copies == 800 - len(np.unique(line))


def test_sets_of_one_size_are_no_copies_where_their_labels_mix_as_chance_has_it():
    label, scores, _ = lines(sets=200)
    assert found(label, scores=scores).copies == 400
    assert found(np.random.default_rng(4).random(600) < 0.4, scores=scores).copies == 0


def test_where_labels_are_too_rare_to_tell_sets_whose_sizes_vary_as_chance_has_it_are_no_copies():
    line = np.random.default_rng(5).integers(0, 200, 800)
    rare, thrice = np.arange(800) < 2, lines(sets=200)[1]
    assert found(rare, scores=np.column_stack([line, line]) / 3.0).copies == 0
    assert found(np.zeros(600, bool), scores=thrice).copies == 400


def test_where_labels_cannot_tell_rows_that_stand_twice_are_copies_if_most_do_and_not_if_a_fifth_does():
    once, twice = np.arange(2000), np.repeat(np.arange(2000), 2)
    assert found(np.zeros(2400, bool), scores=np.column_stack([np.append(once, once[:400])] * 2) / 3.0).copies == 0
    assert found(np.zeros(4000, bool), scores=np.column_stack([twice] * 2) / 3.0).copies == 2000


def test_how_likely_labels_mix_is_read_from_sets_of_similar_score_without_the_set_itself():
    """In 40 sets with a share of a half all about them, two rows differ half of the time, three more often."""
    positives, sizes = np.tile([1, 1], 20), np.full(40, 2)
    assert _mixing(positives, sizes, np.arange(40.0)) == pytest.approx(np.full(40, 0.5))
    assert _mixing(positives, np.where(np.arange(40) == 7, 3, 2), np.arange(40.0))[7] == pytest.approx(0.75)
    shares = np.random.default_rng(2).integers(0, 3, 40)
    near = [range(min(max(i - 5, 0), 30), min(max(i - 5, 0), 30) + 10) for i in range(40)]  # ten sets, itself one
    rate = np.array([np.mean([shares[j] / 2 for j in near[i] if j != i]) for i in range(40)])
    assert _mixing(shares, sizes, np.arange(40.0)) == pytest.approx(1 - rate**2 - (1 - rate) ** 2)
    order = np.random.default_rng(3).permutation(40)
    assert _mixing(shares[order], sizes, order * 1.0) == pytest.approx((1 - rate**2 - (1 - rate) ** 2)[order])


@pytest.mark.parametrize("rate", [0.01, 0.5, 2.0, 30.0])
def test_the_rate_of_a_count_that_is_never_zero_is_told_by_its_mean(rate):
    assert _poisson_rate(rate / (1 - np.exp(-rate))) == pytest.approx(rate, rel=1e-4)


def repeated_by_hand(label, score, sizes):
    """Whether sets (m,) of alike rows, one after another, were repeated, as docstrings have it, with loops and scipy."""
    ends = np.cumsum(sizes)
    positives = np.array([label[end - size : end].sum() for end, size in zip(ends, sizes)])
    many = [i for i in range(len(sizes)) if sizes[i] > 1]
    if len(many) < 10:
        return False
    order, width = sorted(range(len(sizes)), key=lambda i: score[ends[i] - 1]), min(10, len(sizes))
    expected = 0.0
    for i in many:
        start = min(max(order.index(i) - 5, 0), len(sizes) - width)
        rate = np.mean([positives[j] / sizes[j] for j in order[start : start + width] if j != i])
        expected += 1 - rate ** sizes[i] - (1 - rate) ** sizes[i]
    mixed = sum(0 < positives[i] < sizes[i] for i in many)
    if expected >= 5 and mixed >= expected / 2:
        return False
    if stats.poisson.cdf(mixed, expected / 2) < 0.01:
        return True
    counts, mean = np.arange(1, 400), sizes.mean()
    rate = optimize.brentq(lambda r: counts @ stats.poisson.pmf(counts, r) / (1 - np.exp(-r)) - mean, 1e-6, 50)
    chance = np.square(counts - mean) @ stats.poisson.pmf(counts, rate) / (1 - np.exp(-rate))
    return mean > 1.5 and stats.chi2.cdf(np.square(sizes - mean).sum() / chance, len(sizes) - 1) < 1e-4


def test_sets_were_repeated_where_labels_mix_too_seldom_or_sizes_vary_too_little_and_nowhere_else():
    random, told = np.random.default_rng(6), []
    for draw in range(300):
        sizes = 1 + random.binomial(random.integers(1, 9), random.uniform(0.2, 0.95), random.integers(9, 60))
        if sizes.max() == 1:
            continue
        alone, rate = random.random(sizes.sum()) < random.random() ** 2, random.choice([0.02, 0.2, 0.5])
        line = np.repeat(random.random(len(sizes)) < rate, sizes)
        label = np.where(alone, random.random(len(line)) < rate, line)
        score = np.repeat(random.permutation(len(sizes)) * 1.0, sizes)
        found = _repeated(label, score, np.repeat(np.arange(len(sizes)), sizes), sizes)
        assert found == repeated_by_hand(label, score, sizes), draw
        told.append(found)
    assert 60 < sum(told) < len(told) - 60


def test_ten_sets_of_both_labels_are_enough_to_say_that_labels_mix_and_half_of_the_rows_is_none_repeated():
    ten = np.repeat(np.arange(10), 2)
    assert not _repeated(np.tile([0, 1], 10), ten * 1.0, ten, np.full(10, 2))  # five mix by chance, to the digit
    positives = np.array([0, 0, 0, 2, 0, 0, 0, 0, 2, 1, 2, 1, 1, 1, 2, 2, 0, 0])  # eight mix by chance, four do: half
    sets = np.repeat(np.arange(18), 2)
    assert _mixing(positives, np.full(18, 2), np.arange(18.0)).sum() == 8
    assert not _repeated(positives[sets] > np.tile([0, 1], 18), sets * 1.0, sets, np.full(18, 2))
    for twice, wanted in ((50, False), (51, True)):  # rows of a line: one and a half, and more
        sizes = np.where(np.arange(100) < twice, 2, 1)
        alike = np.repeat(np.arange(100), sizes)
        assert _repeated(np.zeros(len(alike)), alike * 1.0, alike, sizes) == wanted


@pytest.mark.parametrize(("sets", "width"), [(400, 20), (12_000, 500)])
def test_a_twentieth_of_the_sets_says_how_often_labels_mix_and_five_hundred_at_most(sets, width):
    shares = np.random.default_rng(7).integers(0, 3, sets)
    starts = [min(max(i - width // 2, 0), sets - width) for i in range(sets)]
    rate = np.array([(shares[s : s + width].sum() - shares[i]) / 2 / (width - 1) for i, s in enumerate(starts)])
    told = _mixing(shares, np.full(sets, 2), np.arange(sets) // 50 * 1.0)  # of equal scores by place
    assert told == pytest.approx(1 - rate**2 - (1 - rate) ** 2)


def test_groups_are_told_apart_whatever_they_are_and_rows_without_one_stand_alone():
    assert groups(np.array([3, 3, 5])).tolist() == [3, 3, 5]
    assert groups(np.array(["b", None, "a", "b", None], object)).tolist() == [0, 2, 1, 0, 3]
    assert groups(np.array([np.nan, 2.5, np.nan, 2.5])).tolist() == [1, 0, 2, 0]


def test_rows_of_a_group_that_score_alike_are_worth_one_and_those_apart_one_each():
    label, group, even = [1, 1, 0, 0, 0], list("aabcd"), [0.1, 0.1, 0.3, 0.4, 0.5]
    for scores, worth in (([even, even], 1), ([even, [0.1, 0.2, 0, 0, 0]], 2), ([[0.1, 0.2, 0, 0, 0], even], 2)):
        told = found(label, scores=np.column_stack(scores), group=group)
        assert told.worth == pytest.approx({True: worth, False: 3}) and told.present[True] == 1
    assert found([1, 1, 0], scores=np.full((3, 2), 0.5), group=list("abc")).worth == pytest.approx({True: 2, False: 1})


def test_labels_that_mix_by_the_full_model_s_score_as_seldom_as_they_do_are_no_sign_of_copies():
    random = np.random.default_rng(8)
    line = random.integers(0, 200, 800)
    scores = np.column_stack([line, random.permutation(200)[line]]) / 3.0
    assert found(line < 100, scores=scores).copies == 0  # nearly none mixes where the score tells the label
    assert found(line < 100, scores=scores[:, ::-1]).copies == 800 - len(np.unique(line))


def test_the_least_difference_of_scores_tells_rows_apart():
    label, scores, _ = lines()
    scores[:, 0] = 1e-20 * np.arange(120)
    assert found(label, scores=scores).copies == 0
    assert found([]).count == 0 and found([1]).count == 1 and found([1]).worth == {True: 1, False: 0}
