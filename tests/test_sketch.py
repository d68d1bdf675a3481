"""The sketch of a verdict: it concludes as the rows do, however few folds it has, tells nobody's rows, and cannot contradict itself."""

import dataclasses
import json

import numpy as np
import pytest
from pydantic import BaseModel

from slimrec.config import EvaluateConfig, SliceConfig
from slimrec.errors import SecurityError
from slimrec.verdict import case, certify, evidence, fairness, losses, pilot, reaudit, signs, sketch
from slimrec.verdict.certify import compare, conclude, gather
from slimrec.verdict.losses import Rows
from slimrec.verdict.sketch import FOLDS, read

FIGURES = ("full_auc", "slim_auc", "difference", "error", "low", "high", "unseen", "positive_effective", "negative_effective",
           "largest_share")  # fmt: skip
COUNTS = ("clusters", "rows", "positive_clusters", "negative_clusters", "copies", "confidence")


def world(seed, rows=3000, groups=700):
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.3).astype(np.uint8)
    full = np.round(label + random.normal(size=rows), 1)
    slim = full + 0.4 * random.normal(size=rows)
    return label, full, slim, random.gamma(2.0, size=rows), random.zipf(1.5, rows) % groups


def same(one, other, tolerance=1e-12):
    assert all(getattr(one, name) == getattr(other, name) for name in COUNTS)
    for name in FIGURES:
        assert getattr(one, name) == pytest.approx(getattr(other, name), abs=tolerance, rel=tolerance), name


@pytest.mark.parametrize("most", [10**6, 300, 1])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_sketch_of_any_number_of_folds_concludes_as_the_rows_do(most, grouped):
    label, full, slim, weight, group = world(1)
    group = group if grouped else None
    found = gather(label, full, slim, weight, group).folded(most)
    assert len(found.folds["clusters"]) <= most
    again = read(json.loads(json.dumps(found.folded(4096).plain())))
    assert sketch._contradiction(again) == ""
    same(conclude(again, 0.95), compare(label, full, slim, weight, group))
    same(conclude(again, 0.99), compare(label, full, slim, weight, group, confidence=0.99))


def test_a_sketch_is_the_same_whatever_the_order_of_rows_and_the_names_of_groups():
    columns = world(2)
    shuffle = np.random.default_rng(0).permutation(len(columns[0]))
    renamed = np.random.default_rng(1).permutation(10**6)[columns[-1]]
    one = gather(*columns).folded(50)
    other = gather(*(each[shuffle] for each in (*columns[:-1], renamed))).folded(50)
    for name in FOLDS:
        assert np.allclose(one.folds[name], other.folds[name], rtol=1e-9, atol=1e-15), name


def test_rows_of_one_class_and_no_rows_at_all_have_a_sketch_without_an_interval():
    for rows in (0, 5):
        label, score = np.ones(rows, np.uint8), np.arange(rows, dtype=float)
        again = read(json.loads(json.dumps(gather(label, score, score).folded().plain())))
        assert conclude(again, 0.95) == compare(label, score, score)
        assert again.effective == pytest.approx({True: rows, False: 0}) and again.mixed == 0
        assert again.largest_share == (0.2 if rows else 0)
        assert (again.positive_worth, again.negative_worth) == pytest.approx((rows, 0))
        for name in ("full_auc", "slim_auc"):
            with pytest.raises(SecurityError, match="one model has an AUC and the other none"):
                read(again.plain() | {name: 0.5})


@pytest.mark.parametrize(
    "name, change",
    [("positive_slim", 1e-6), ("negative_full", 1e-6), ("positive_share", 1e-6), ("second", 1e-9), ("fourth", 1e-9)],
)
def test_a_sketch_whose_parts_do_not_add_up_is_refused(name, change):
    plain = gather(*world(3)).folded().plain()
    plain["folds"][name][7] += change
    with pytest.raises(SecurityError, match="contradicts itself"):
        read(plain)


@pytest.mark.parametrize("name", ["positive_share", "negative_share", "positive_full", "negative_slim"])
def test_a_sum_may_be_off_by_a_thousand_millionth_as_rounding_may_make_it(name):
    plain = gather(*world(3)).folded().plain()
    plain["folds"][name][7] += 0.8e-9
    read(plain)
    plain["folds"][name][7] += 0.7e-9
    with pytest.raises(SecurityError, match="do not sum to"):
        read(plain)


@pytest.mark.parametrize("name", ["second", "third", "fourth"])
def test_a_power_may_be_off_by_a_thousand_millionth_of_itself(name):
    plain = gather(*world(3)).folded().plain()
    kept = plain["folds"][name][7]
    for off in (0.8e-9, -0.8e-9):
        plain["folds"][name][7] = kept * (1 + off)
        read(plain)
    plain["folds"][name][7] = kept * (1 + 1.5e-9)
    with pytest.raises(SecurityError, match=f"the {name} powers of single clusters"):
        read(plain)


@pytest.mark.parametrize(
    "spoil", [lambda f: f.pop("first"), lambda f: f["first"].append(0.0), lambda f: f.update(ids=[1.0])]
)
def test_what_is_no_sketch_is_refused(spoil):
    plain = gather(*world(4)).folded().plain()
    spoil(plain["folds"])
    with pytest.raises(SecurityError, match="each with as many figures"):
        read(plain)


@pytest.mark.parametrize("allowed", [float("inf"), float("nan"), -0.1])
def test_a_slice_that_says_it_may_lose_no_number_or_less_than_nothing_is_refused(allowed):
    rows = Rows(*world(5), None)
    parts = [("half", np.arange(3000) % 2 == 0, SliceConfig(of="half"))]
    plain = case.gather(rows, EvaluateConfig(), parts).plain()
    assert case.read(plain).plain() == plain
    plain["slices"][0]["allowed"] = allowed
    with pytest.raises(SecurityError, match="allowed"):
        case.read(plain)


def test_trainings_whose_mean_is_not_the_difference_are_refused_to_the_last_digits_that_count():
    label, full, slim, weight, group = world(6)
    again = np.stack([full, slim], axis=1)[:, :, None] + 0.1 * np.random.default_rng(6).normal(size=(3000, 2, 2))
    plain = gather(label, full, slim, weight, group, retrained=again).folded().plain()
    read(plain)
    first, *others = plain["differences"]
    plain["differences"] = (first + 3e-8, *others)
    assert abs(sum(plain["differences"])) > 0.02  # beside which it is nothing
    read(plain | {"differences": (first + 1.6e-9, *others)})
    with pytest.raises(SecurityError, match="one training, and figures of several"):
        read(plain | {"differences": (first,)})
    with pytest.raises(SecurityError, match="mean over trainings"):
        read(plain)


def test_a_file_holds_four_thousand_and_ninety_six_sums_of_a_kind_at_most():
    label, full, slim, weight, _ = world(7, rows=5000)
    found = gather(label, full, slim, weight)
    assert {len(values) for values in found.folded().plain()["folds"].values()} == {4096}
    with pytest.raises(SecurityError, match="4096 at most"):
        read(found.folded(4097).plain())


@pytest.mark.parametrize(
    "module",
    [case, certify, evidence, fairness, losses, pilot, reaudit, signs, sketch],
    ids=lambda module: module.__name__,
)
def test_what_a_verdict_rests_on_cannot_be_changed_and_holds_nothing_else_and_no_infinity(module):
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    shapes = [each for each in own if dataclasses.is_dataclass(each) or issubclass(each, BaseModel)]
    assert shapes
    for shape in shapes:
        if dataclasses.is_dataclass(shape):
            assert shape.__dataclass_params__.frozen, shape
        else:
            assert shape.model_config["frozen"], shape
            assert shape.model_config["extra"] == "forbid" and shape.model_config["allow_inf_nan"] is False, shape


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("rows", 0, None), ("copies", 0, None), ("full_auc", 0, 1), ("slim_auc", 0, 1), ("positive_worth", 0, None),
     ("negative_worth", 0, None), ("mixed", 0, None), ("differences", -1, 1)],
)  # fmt: skip
def test_a_figure_of_a_sketch_stands_in_its_range_the_ends_included(name, least, most):
    label, score = np.ones(5, np.uint8), np.arange(5.0)
    plain = gather(label, score, score).folded().plain()

    def told(value):
        return read(plain | {name: (value, value) if name == "differences" else value})

    for end, beyond in ((least, -1), (most, 1)):
        if end is None:
            continue
        if not name.endswith("_auc"):  # which no share of a class adds up to here
            told(end)
        with pytest.raises(SecurityError, match=f"{name}.*(greater|less) than or equal to {end}"):
            told(end + beyond if name in ("rows", "copies") else end + beyond * 1e-6)


def test_the_cases_of_several_tasks_are_written_by_name_and_read_again_as_that_of_one_label_is():
    rows = Rows(*world(5), None)
    one, other = (case.gather(rows, EvaluateConfig(confidence=c, unproven_slices="remark")) for c in (0.9, 0.95))
    assert one.slices == () and len(one.losses) == 4 and one.unproven == "remark"
    kept = json.loads(json.dumps(case.plain({"": one})))
    assert sorted(kept) == ["losses", "slices", "unproven_slices", "whole"] and list(case.read_all(kept)) == [""]
    several = json.loads(json.dumps(case.plain({"buy": one, "click": other})))
    assert list(several) == ["tasks"] and list(case.read_all(several)) == ["buy", "click"]
    for again in (case.read_all(kept)[""], case.read_all(several)["buy"]):
        assert case.plain({"": again}) == case.plain({"": one}) and again.unproven == "remark"
    parts = [("most", np.arange(3000) < 2900, SliceConfig(of="x", allowed_auc_loss=0.2))]
    ((name, part, allowed),) = case.gather(rows, EvaluateConfig(), parts).slices
    assert (name, allowed, len(part.folds["clusters"])) == ("most", 0.2, 256)


def test_what_a_sketch_is_made_of_are_numbers_as_json_has_them_and_no_text():
    plain = gather(*world(3)).folded(9).plain()
    with pytest.raises(SecurityError, match="mixed.*valid number"):
        read(plain | {"mixed": "0.5"})
    assert read(plain | {"differences": []}).differences == ()
