"""The comparison is tried on models whose worth is known, in every audit; a broken comparison is caught by it."""

import dataclasses

import numpy as np
import pytest

from slimrec.verdict.certify import compare
from slimrec.verdict.selftest import check
from slimrec.verdict.soundness import leaking, self_test, trainings, worth

RANDOM = np.random.default_rng(0)
LABEL = (RANDOM.random(4000) < 0.3).astype(int)
SCORES = LABEL + RANDOM.normal(size=4000)
SHUFFLED = {"best": SCORES + 2 * RANDOM.normal(size=4000), "weak": SCORES + 0.01 * RANDOM.normal(size=4000)}
NOISE = RANDOM.normal(size=4000)  # drawn here, so that no test's figures hang on which others ran before it


def paired(one, other):
    return compare(LABEL, one, other)


def turned(one, other):
    return compare(LABEL, other, one)


def shifted(one, other):
    found = compare(LABEL, one, other)
    return dataclasses.replace(found, difference=found.difference + 0.001, low=found.low + 0.01, high=found.high + 0.01)


def test_a_sound_comparison_passes_and_the_field_that_hurts_most_is_told():
    found = check(paired, SCORES, SHUFFLED)
    assert found["failed"] == "" and found["same"] == 0 and found["mixed"] < -0.2
    assert found["field"] == "best" and found["told"] and found["shuffled"] < -0.05


@pytest.mark.parametrize("mutant", [turned, shifted])
def test_a_comparison_that_is_broken_fails(mutant):
    assert check(mutant, SCORES, SHUFFLED)["failed"]


def made(same, mixed, shuffled):
    """What a comparison comes to that finds these (difference, low, high), in the order in which it is asked."""
    known = iter((same, mixed, *shuffled.values()))
    found = compare(LABEL, SCORES, SCORES)
    answers = {name: (0.0, 0.0, 0.0) for name in shuffled}

    def answer(one, other):
        return dataclasses.replace(found, **dict(zip(("difference", "low", "high"), next(known))))

    return check(answer, SCORES, answers)


SAME, WORSE, UNKNOWN = (0.0, -0.1, 0.1), (-0.3, -0.4, -0.2), (None, None, None)


@pytest.mark.parametrize(
    ("same", "failed"),
    [
        (SAME, False),
        ((0.0, 0.0, 0.1), False),
        ((0.0, -0.1, 0.0), False),
        ((0.0, 0.01, 0.1), True),
        ((0.0, -0.1, -0.01), True),
        ((1e-9, -0.1, 0.1), True),
        ((0.0, None, None), False),
    ],
)
def test_a_model_is_as_good_as_itself_where_no_change_lies_within_the_bounds(same, failed):
    assert bool(made(same, WORSE, {})["failed"]) == failed
    assert "as good as itself" in made(same, WORSE, {})["failed"] or not failed


@pytest.mark.parametrize(
    ("mixed", "failed", "knows"),
    [
        (WORSE, False, True),
        ((0.0, 0.0, 0.1), False, False),
        ((0.1, 0.01, 0.2), True, False),
        ((-0.1, -0.2, 0.0), False, False),
        (UNKNOWN, False, False),
    ],
)
def test_scores_in_the_wrong_rows_may_not_surely_be_better_and_a_model_knows_something_where_they_surely_are_worse(
    mixed, failed, knows
):
    found = made(SAME, mixed, {})
    assert (found["failed"] != "", found["knows"], found["mixed"]) == (failed, knows, mixed[0])


def test_the_field_is_the_one_whose_shuffling_loses_most_and_it_is_told_where_that_is_sure():
    fields = {"a": (-0.1, -0.2, -0.01), "b": (-0.2, -0.4, 0.0), "c": UNKNOWN}
    found = made(SAME, WORSE, fields)
    assert (found["field"], found["shuffled"], found["told"]) == ("b", -0.2, False)
    del fields["b"]
    found = made(SAME, WORSE, fields)
    assert (found["field"], found["shuffled"], found["told"]) == ("a", -0.1, True)


def test_a_model_that_knows_nothing_is_called_so():
    found = check(paired, NOISE, {})
    assert found["failed"] == "" and not found["knows"] and check(paired, SCORES, SHUFFLED)["knows"]


def test_what_is_not_measured_is_not_told():
    found = check(lambda one, other: compare(np.ones(4000), one, other), SCORES, SHUFFLED)  # one class: no AUC
    assert (found["failed"], found["field"], found["told"], found["knows"]) == ("", "", False, False)
    assert found["same"] is found["mixed"] is found["shuffled"] is None


def test_a_field_that_hurts_less_than_these_rows_can_tell_is_not_told():
    found = check(paired, SCORES, {"weak": SHUFFLED["weak"]})
    assert found["field"] == "weak" and not found["told"]


def test_the_report_says_what_came_of_it_in_a_sentence():
    facts = {"failed": "", "knows": True, "field": "", "told": False, "shuffled": None}
    assert "passed" in self_test({"self_test": facts})
    assert "it has little to lose" in self_test({"self_test": facts | {"knows": False}})
    assert "Failed: it broke" in self_test({"self_test": facts | {"failed": "it broke"}})
    shuffled = facts | {"field": "site", "shuffled": -0.01}
    said = self_test({"self_test": shuffled})
    assert "site shuffled, the slim model's AUC changes by \u22120.01000" in said and "is too small to be told" in said
    assert "which is told" in self_test({"self_test": shuffled | {"told": True}})


def test_the_report_says_what_its_rows_are_worth_and_what_does_not_count_again():
    evidence = {"positive_effective": 1812.6, "negative_effective": 5411.2, "copies": 0}
    said = worth({"rows": 100_021, "evidence": evidence})
    assert (
        "100\u202f021 rows tell as much as 1\u202f813 positive and 5\u202f411 negative independent observations" in said
    )
    assert "repeat" not in said
    assert "; 7 rows repeat another one" in worth({"rows": 9, "evidence": evidence | {"copies": 7}})


def test_trusted_leaks_come_last_and_trainings_that_are_not_told_are_left_out():
    leaks = [{"trusted": trusted, "said": f"it is {trusted}"} for trusted in (True, False)]
    assert leaking({"leaks": leaks}) == ["Looks like a leak: it is False.", "Trusted: it is True."]
    phase = {"epochs": 2, "steps": 9, "epochs_allowed": 2}
    assert trainings({"training": {"full": None, "slim": [phase]}}) == [("slim", "2 epochs, 9 steps")]
