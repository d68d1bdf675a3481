"""Twins: fields that say the same, against asking every two rows, and counts and entropies worked out by hand."""

from itertools import combinations

import numpy as np
import pytest

from slimrec.pruning.twins import Coded, _perhaps, agreement, codes, twins
from slimrec.schema import Field


def test_twins_are_what_tells_each_other_and_neither_constants_nor_near_unique_fields():
    random = np.random.default_rng(0)
    a = random.zipf(1.5, 5000) % 97
    rare = (random.random(5000) < 0.01).astype(int)
    fields = {
        "a": a, "renamed": 1000 - 3 * a, "nearly": np.where(random.random(5000) < 0.004, 5, a), "coarser": a // 2,
        "unique": np.arange(5000), "also_unique": np.arange(5000)[::-1], "rare": rare,
        "other_rare": (random.random(5000) < 0.01).astype(int), "constant": np.zeros(5000, int),
        "also_constant": np.ones(5000, int),
    }  # fmt: skip
    assert twins(fields) == [("a", "nearly", "renamed")]


def test_two_fields_are_twins_however_seldom_they_differ_from_their_usual_value():
    rare = (np.arange(5000) % 97 == 0).astype(int)
    assert twins({"rare": rare, "renamed": 1 - rare, "shifted": np.roll(rare, 1)}) == [("rare", "renamed")]


def test_twins_are_the_pairs_that_asking_every_two_rows_of_every_two_fields_finds():
    random, fields = np.random.default_rng(5), {}
    for i, (values, skew) in enumerate([(2, 0.1), (2, 10), (5, 1), (20, 0.1), (20, 10), (100, 1), (300, 10)] * 2):
        share = random.dirichlet(np.full(values, skew))
        code = random.choice(values, 300, p=share)
        for redrawn in (0, 0.004, 0.008, 0.015, 0.03):
            chosen = random.random(300) < redrawn
            drawn = np.where(chosen, random.choice(values, 300, p=share), code)
            fields[f"{i}/{redrawn}"] = random.permutation(values)[drawn]
    same = {name: code[:, None] == code[None, :] for name, code in fields.items()}
    for matrix in same.values():
        np.fill_diagonal(matrix, False)

    def tells(of: str, given: str) -> bool:
        rows = same[given].sum(1) > 0
        agree = ((same[of] & same[given]).sum(1)[rows] / same[given].sum(1)[rows]).mean() if rows.any() else 0
        chance = same[of].sum() / (300 * 299)
        return chance < 1 and (agree - chance) / (1 - chance) >= 0.98

    whole = {name: {name} for name in fields}
    for a, b in combinations(fields, 2):
        if tells(a, b) and tells(b, a):
            for name in (union := whole[a] | whole[b]):
                whole[name] = union
    groups = sorted({tuple(sorted(group)) for group in whole.values() if len(group) > 1})
    assert twins(fields) == groups and len(groups) > 5


def test_of_hundreds_of_fields_alike_or_not_hardly_a_pair_is_compared_on_all_rows(monkeypatch):
    asked, random = [], np.random.default_rng(6)
    fields = {f"f{i}": random.integers(0, 5, 1000) for i in range(200)}
    monkeypatch.setattr("slimrec.pruning.twins.agreement", lambda *pair: asked.append(pair) or agreement(*pair))
    assert twins(fields | {"again": 4 - fields["f7"]}) == [("again", "f7")]
    assert len(asked) < 10
    copies = {name: (code + i) % 5 for i, name in enumerate(fields) for code in [fields["f7"]]}
    assert twins(copies) == [tuple(sorted(fields))] and len(asked) < 10 + 2 * len(fields)


def test_a_number_is_compared_by_64_quantiles_and_a_value_on_a_boundary_counts_above_it():
    number, values = Field(name="n", kind="number"), np.random.default_rng(3).permutation(6400)[:, None]
    found = codes(number, values)
    assert np.unique(found, return_counts=True)[1].tolist() == [100] * 64
    assert (codes(number, values**3) == found).all() and (np.diff(found[np.argsort(values[:, 0])]) >= 0).all()
    seldom = (np.arange(1000) > 4).astype(float)[:, None]  # all 63 boundaries are 1
    assert np.unique(codes(number, seldom), return_counts=True)[1].tolist() == [5, 995]


def test_a_number_nearly_always_at_its_smallest_value_is_two_things_and_so_makes_no_false_twins():
    number, random = Field(name="n", kind="number"), np.random.default_rng(4)
    often = (np.arange(1000) < 5).astype(np.float32)[:, None]  # all 63 boundaries are 0
    assert sorted(np.unique(codes(number, often), return_counts=True)[1].tolist()) == [5, 995]
    large = random.random(5000) < 0.02  # rows on which both are large; each is small on rows of its own
    one, other = (np.where(large, 9.0, random.random(5000) < 0.004)[:, None] for _ in range(2))
    assert twins({"one": codes(number, one), "other": codes(number, other)}) == []
    assert twins({"one": codes(number, one), "again": codes(number, 3 * one - 1)}) == [("again", "one")]


def test_bags_of_the_same_values_are_the_same_and_categories_are_their_ids():
    bag, category = Field(name="b", kind="bag", max_length=2), Field(name="c", kind="category")
    first, turned, part, other = codes(bag, np.array([[3, 4], [4, 3], [4, 0], [3, 5]]))
    assert first == turned and len({first, part, other}) == 3
    assert codes(category, np.array([[7], [3], [7]])).tolist() == [1, 0, 1]


def test_agreement_is_what_counting_pairs_of_rows_by_hand_gives():
    random = np.random.default_rng(1)
    of, given = random.integers(0, 3, 60), random.integers(0, 9, 60)
    given[7] = 9  # once only, which tells nothing
    right = [np.mean([of[i] == of[j] for j in range(60) if j != i and given[j] == given[i]]) for i in range(60)
             if (given == given[i]).sum() > 1]  # fmt: skip
    chance = np.mean([of[i] == of[j] for i, j in combinations(range(60), 2)])
    assert agreement(Coded.of(of), Coded.of(given)) == pytest.approx((np.mean(right) - chance) / (1 - chance))


def test_what_is_asked_of_a_field_alone_is_what_counting_by_hand_gives():
    found = Coded.of(np.array([7, 5, 9, 5]))
    assert found.group.tolist() == [1, 0, 2, 0] and found.size.tolist() == [2, 1, 1]
    assert found.chance == pytest.approx((1 / 3 + 0 + 0 + 1 / 3) / 4)
    assert found.entropy == pytest.approx(0.5 * np.log(2) + 2 * 0.25 * np.log(4))
    many = np.random.default_rng(0).zipf(1.5, 999) % 97
    assert Coded.of(many).entropy == Coded.of(-many).entropy  # to the bit, as neighbours are found by it


def test_constants_and_what_never_repeats_are_left_out_before_anything_is_divided_by_nothing():
    two = np.arange(6) % 2
    fields = {"two": two, "turned": 1 - two, "unique": np.arange(6), "backwards": np.arange(6)[::-1]}
    with np.errstate(all="raise"):
        assert twins(fields | {"constant": two * 0, "another": two * 0 + 1}) == [("turned", "two")]
        assert twins({"constant": two * 0, "unique": np.arange(6)}) == [] == twins({})


def test_a_twin_of_a_twin_belongs_to_the_group_though_the_two_are_less_alike():
    a = np.arange(2000) % 20
    b, d = a.copy(), a.copy()
    b[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] = b[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]]  # 0.6 % of the rows
    d[:24] = b[:24]
    d[12:24] = d[[13, 12, 15, 14, 17, 16, 19, 18, 21, 20, 23, 22]]  # 1.2 % from a, 0.6 % from b
    assert agreement(Coded.of(a), Coded.of(d)) < 0.98 < agreement(Coded.of(a), Coded.of(b))
    other = (np.arange(2000) // 20) % 20
    fields = {"d": d, "c": a.copy(), "b": b, "a": a, "z": other, "y": other + 1}
    assert twins(fields) == [("a", "b", "c", "d"), ("y", "z")]
    assert twins({"a": a, "d": d}) == []


@pytest.mark.parametrize(("there", "back", "twin"), [(0.98, 0.98, True), (0.9799, 0.98, False), (0.98, 0.9799, False)])
def test_two_fields_are_twins_where_each_tells_the_other_to_98_percent(there, back, twin, monkeypatch):
    agreements = iter([there, back])
    monkeypatch.setattr("slimrec.pruning.twins.agreement", lambda *pair: next(agreements))
    same = np.arange(40) % 4
    assert twins({"a": same, "b": same}) == ([("a", "b")] if twin else [])


def test_only_neighbours_by_entropy_are_compared(monkeypatch):
    """Those of which 95 %, less a hundredth of a nat, are no more than one's own entropy."""
    share, offered = np.arange(1, 10_000) / 20_000, []
    entropies = -share * np.log(share) - (1 - share) * np.log(1 - share)
    fields = {}
    for i, entropy in enumerate([0.5, 0.53, 0.545, 0.05, 0.06, 0.066]):
        fields[f"{i}"] = np.arange(20_000) < 1 + np.abs(entropies - entropy).argmin()
    monkeypatch.setattr(
        "slimrec.pruning.twins._perhaps", lambda given, others, *_: offered.append(others.shape[1]) or [False]
    )
    assert twins(fields) == [] and offered == [1, 1, 0, 1, 1, 0]


class Scripted:
    """A generator that asks the `k`-th row of each group, and of the rows behind it the `step`-th."""

    def __init__(self, k, size, step):
        self.k, self.size, self.step = k, size, step

    def choice(self, rows, count):
        assert count == 256 and len(rows) == 256 * self.size
        return rows[self.k :: self.size]

    def integers(self, low, high):
        assert low == 1 and (high == self.size).all()
        return np.full(len(high), self.step)


@pytest.mark.parametrize(("chance", "allowed"), [(0.0, 30), (0.5, 24), (0.7531, 20), (0.7542, 19), (1.0, 12)])
def test_more_differing_pairs_of_256_than_bernstein_allows_are_too_many_for_a_twin(chance, allowed):
    """By hand: of e = 256 * 0.02 * (1 - chance) expected at most, up to e + 6 sqrt(e) + 12."""
    given = Coded.of(np.arange(512) // 2)
    others = np.zeros((512, 2), np.int32)
    others[: 2 * allowed : 2, 0] = others[: 2 * allowed + 2 : 2, 1] = 1
    found = _perhaps(given, others, np.full(2, chance), Scripted(0, 2, 1))
    assert found.tolist() == [True, False]


def test_a_pair_of_rows_shares_the_value_of_the_field_whatever_the_order_of_the_rows():
    rows = np.arange(1024 + 3)
    given = Coded.of(np.where(rows < 1024, rows % 256, -rows))  # four rows each, behind three values that come once
    place = rows // 256
    halves, ends = place // 2, np.isin(place, (0, 3))
    others, chance = np.stack([halves, ends], 1), np.full(2, 0.5)
    for k, step, alike in ((0, 1, [True, False]), (1, 1, [False, True]), (3, 1, [False, True]), (0, 3, [False, True]),
                           (2, 3, [False, True]), (3, 3, [True, False]), (0, 2, [False, False])):  # fmt: skip
        assert _perhaps(given, others, chance, Scripted(k, 4, step)).tolist() == alike, (k, step)


def test_where_no_field_is_left_to_compare_no_row_is_asked():
    assert _perhaps(Coded.of(np.arange(8) // 2), np.zeros((8, 0), np.int32), np.zeros(0), None).shape == (0,)
